"""Disentanglement of a latent space: which dimensions or parts hold which factor.

Latents z have shape (N, d), factors (N, K); groups are patients, which no cross-validation divides.

References:
    Eastwood & Williams (2018), ICLR: disentanglement, completeness, informativeness (DCI)
    Chen et al. (2018), arXiv:1802.04942: mutual information gap (MIG)
    Kumar et al. (2018), arXiv:1711.00848: separated attribute predictability (SAP)
    Ridgeway & Mozer (2018), arXiv:1802.05312: modularity
    Roy & Vetterli (2007), EUSIPCO: effective rank
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import entropy
from sklearn.linear_model import LassoCV, RidgeCV
from sklearn.metrics import mutual_info_score, r2_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

FOLDS, BINS = 5, 20
ALPHAS = np.logspace(-2, 4, 13)
GRADES = {"A": 0.8, "B": 0.65, "C": 0.5, "D": 0.35}  # least ODE readiness; F below


def r2(targets: NDArray, predicted: NDArray) -> NDArray:
    """R^2 of each column, (K,)."""
    return np.atleast_1d(r2_score(targets, predicted, multioutput="raw_values"))


def ridge() -> Pipeline:
    """Ridge regression of standardised inputs, with a penalty for each factor chosen by leave-one-out.

    With one penalty for all factors, those that cannot be predicted would spoil the others.
    """
    return make_pipeline(StandardScaler(), RidgeCV(ALPHAS, alpha_per_target=True))


def probe_r2(z: NDArray, factors: NDArray, test_z: NDArray, test_factors: NDArray) -> NDArray:
    """R^2 of each factor on test samples, (K,), of a ridge regression fitted on training samples."""
    return r2(test_factors, ridge().fit(z, factors).predict(test_z).reshape(test_factors.shape))


def cross_validated_r2(z: NDArray, factors: NDArray, groups: Sequence[str]) -> NDArray:
    """R^2 of each factor, (K,), of 5-fold cross-validated ridge regressions; NaN for fewer than 5 groups."""
    if len(set(groups)) < FOLDS:
        return np.full(factors.shape[1], np.nan)
    predicted = cross_val_predict(ridge(), z, factors, groups=np.asarray(groups), cv=GroupKFold(FOLDS))
    return r2(factors, predicted.reshape(factors.shape))


def cross_probe_matrix(
    z: NDArray,
    factors: NDArray,
    parts: Mapping[str, slice],
    groups: Sequence[str],
    test: tuple[NDArray, NDArray] | None = None,
) -> NDArray:
    """R^2 of every factor from every part, (number of parts, K).

    Arguments:
        test: Latents and factors of test samples, for which probes fitted on z are evaluated; None: cross-validation.
    """
    rows = [
        cross_validated_r2(z[:, span], factors, groups)
        if test is None
        else probe_r2(z[:, span], factors, test[0][:, span], test[1])
        for span in parts.values()
    ]
    return np.stack(rows)


# --- scores ------------------------------------------------------------------------------------------


def importance(z: NDArray, factors: NDArray, groups: Sequence[str]) -> NDArray:
    """|coefficient| of each dimension in a lasso regression of each factor, all standardised, (d, K)."""
    folds = list(GroupKFold(FOLDS).split(z, groups=np.asarray(groups)))
    lasso = LassoCV(cv=folds, eps=1e-2, max_iter=20_000)
    columns = [np.abs(lasso.fit(_standard(z), one).coef_) for one in _standard(factors).T]
    return np.stack(columns, 1)


def _standard(x: NDArray) -> NDArray:
    return StandardScaler().fit_transform(x)


def concentration(weights: NDArray) -> float:
    """1 - entropy of each row's weights in units of ln K, averaged with the row's mass; 0 without any weight."""
    if weights.sum() == 0:
        return 0.0
    mass = weights.sum(1)
    used = weights[mass > 0]
    scores = 1 - entropy(used, axis=1) / np.log(weights.shape[1])
    return float((scores * mass[mass > 0]).sum() / mass.sum())


def dci(z: NDArray, factors: NDArray, groups: Sequence[str]) -> dict[str, float]:
    """Disentanglement, completeness and informativeness (mean cross-validated R^2); NaN for fewer than 5 groups."""
    if len(set(groups)) < FOLDS:
        return dict.fromkeys(("dci_disentanglement", "dci_completeness", "dci_informativeness"), np.nan)
    weights = importance(z, factors, groups)
    informative = float(cross_validated_r2(z, factors, groups).mean())
    return {
        "dci_disentanglement": concentration(weights),
        "dci_completeness": concentration(weights.T),
        "dci_informativeness": informative,
    }


def mutual_information(z: NDArray, factors: NDArray) -> tuple[NDArray, NDArray]:
    """Mutual information (d, K) of dimensions and factors in 20 bins of equal width, and entropies (K,), in nats."""
    one, other = (np.stack([_bins(column) for column in x.T]) for x in (z, factors))
    information = np.array([[mutual_info_score(a, b) for b in other] for a in one])
    return information, np.array([mutual_info_score(b, b) for b in other])


def _bins(column: NDArray) -> NDArray:
    return np.digitize(column, np.histogram_bin_edges(column, BINS)[1:-1])


def gap(scores: NDArray) -> NDArray:
    """Largest minus second largest score of each column, (K,)."""
    top = np.sort(scores, axis=0)
    return top[-1] - top[-2]


def mig(information: NDArray, entropies: NDArray) -> float:
    """Mutual information gap relative to the entropy, mean over factors."""
    return float((gap(information) / np.maximum(entropies, 1e-12)).mean())


def modularity(information: NDArray) -> float:
    """1 - squared information on other factors than the top one, relative to the top; mean over used dimensions."""
    squares = np.sort(information**2, axis=1)
    used = squares[squares[:, -1] > 0]
    return float((1 - used[:, :-1].sum(1) / (used[:, -1] * (information.shape[1] - 1))).mean()) if len(used) else 0.0


def sap(z: NDArray, factors: NDArray) -> float:
    """Gap of the R^2 of single dimensions (squared correlations), mean over factors."""
    with np.errstate(invalid="ignore"):
        correlations = np.nan_to_num(_standard(z).T @ _standard(factors) / len(z))
    return float(gap(correlations**2).mean())


def effective_rank(z: NDArray) -> float:
    """exp of the entropy of the normalised singular values of centred latents."""
    return float(np.exp(entropy(np.linalg.svd(z - z.mean(0), compute_uv=False))))


def ode_readiness(
    *, r2_vol: float, r2_loc: float, r2_shape: float, max_correlation: float, au_fraction: float
) -> float:
    """Fitness of a latent as state of an ODE, at most 1.

    Arguments:
        r2_vol, r2_loc, r2_shape: R^2 of volume, location and shape from their parts.
        max_correlation: Largest absolute correlation across parts.
        au_fraction: Fraction of active units of the residual.
    """
    active = min(au_fraction / 0.10, 1.0)
    return 0.40 * r2_vol + 0.20 * r2_loc + 0.15 * max(0.0, r2_shape) + 0.15 * (1 - max_correlation) + 0.10 * active


def grade(readiness: float) -> str:
    """Grade A to F of an ODE readiness."""
    return next((name for name, least in GRADES.items() if readiness >= least), "F")
