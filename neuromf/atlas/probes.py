"""Probes: what simple classifiers and regressions read from latents or maps of studies, beside their controls.

A probe of a task must beat the row of the number of foci alone, since tasks differ in how many foci they report.
Leakage is read by a new MLP, not by the adversary of a training, and compared with MLPs on permuted fields.
"""

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

    from neuromf.atlas.studies import Studies

FOLDS, FEW, REPEATS = 5, 0.1, 20
YEAR_BINS = 10
CONTROL = "n_foci"
MODALITIES = ("pet", "resting", "vbm", "connectivity")
PERMUTATIONS, MOST_ROWS = 20, 2000  # of the leakage audit
HIDDEN, PENALTY, EPOCHS = 32, 1.0, 40  # of its MLP
QUANTILE = 95  # percentile of the permutation null


def logistic(balanced: bool = False) -> "Pipeline":
    """Standardised logistic regression; `balanced` gives both classes the same weight."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(
        StandardScaler(), LogisticRegression(max_iter=500, class_weight="balanced" if balanced else None)
    )


def ridge_r2(x: NDArray, y: NDArray, x_test: NDArray, y_test: NDArray) -> float:
    """R^2 on test studies of a ridge regression; its penalty is chosen by leave-one-out on training studies."""
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return float(make_pipeline(StandardScaler(), RidgeCV(np.logspace(-2, 4, 13))).fit(x, y).score(x_test, y_test))


def top_k(x: NDArray, y: NDArray, x_test: NDArray, y_test: NDArray, ks: tuple[int, ...] = (1, 5, 10)) -> list[float]:
    """Fractions of test studies whose class is among the k most probable ones of a logistic regression."""
    model = logistic().fit(x, y)
    order = model.classes_[np.argsort(-model.predict_proba(x_test), axis=1)]
    return [float((order[:, :k] == y_test[:, None]).any(1).mean()) for k in ks]


def majority(y: NDArray, y_test: NDArray) -> float:
    """Accuracy on test studies of the most frequent training class."""
    values, counts = np.unique(y, return_counts=True)
    return float((y_test == values[counts.argmax()]).mean())


def year_bins(year: NDArray, train_year: NDArray) -> NDArray[np.int64]:
    """Bin of each year, at most 10, between quantiles of the training years."""
    edges = np.unique(np.quantile(train_year, np.linspace(0, 1, YEAR_BINS + 1)[1:-1]))
    return np.searchsorted(edges, year, side="right")


def scores(labels: NDArray, probability: NDArray) -> tuple[float, float]:
    """Balanced accuracy at .5, and AUC, of probabilities (n,) of binary labels (n,)."""
    from sklearn.metrics import balanced_accuracy_score, roc_auc_score

    return float(balanced_accuracy_score(labels, probability > 0.5)), float(roc_auc_score(labels, probability))


def cross_probe(x: NDArray, labels: NDArray, groups: NDArray) -> tuple[float, float]:
    """Balanced accuracy and AUC of binary labels, 5-fold cross-validation by group (study)."""
    from sklearn.model_selection import GroupKFold, cross_val_predict

    folds = GroupKFold(FOLDS)
    return scores(
        labels,
        cross_val_predict(logistic(balanced=True), x, labels, groups=groups, cv=folds, method="predict_proba")[:, 1],
    )


def few_shot_probe(x: NDArray, labels: NDArray, groups: NDArray, seed: int = 0) -> tuple[float, float]:
    """Mean balanced accuracy and AUC of probes trained on 10 % of the groups and tested on 90 %, 20 times."""
    from sklearn.model_selection import GroupShuffleSplit

    splits = GroupShuffleSplit(REPEATS, train_size=FEW, test_size=1 - FEW, random_state=seed).split(x, groups=groups)
    found = [
        scores(labels[test], logistic(balanced=True).fit(x[train], labels[train]).predict_proba(x[test])[:, 1])
        for train, test in splits
        if len(set(labels[train])) == 2
    ]
    return tuple(np.mean(found, axis=0).tolist()) if found else (float("nan"), float("nan"))


def transfer_probe(x: NDArray, labels: NDArray, train: NDArray[np.bool_]) -> tuple[float, float]:
    """Balanced accuracy and AUC of a probe trained on the rows of `train` and tested on all others."""
    return scores(labels[~train], logistic(balanced=True).fit(x[train], labels[train]).predict_proba(x[~train])[:, 1])


def task_probe(
    features: Mapping[str, NDArray], n_foci: NDArray, labels: NDArray, groups: NDArray, known: NDArray[np.bool_],
    seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """Zero-shot probe of a binary task, one row per set of features, and the control row n_foci.

    Arguments:
        features: Latents or maps by name, each (n, d), of models that never saw the task labels.
        n_foci: Number of foci, shape (n,).
        labels: 0 or 1, shape (n,).
        groups: Study of each row; folds are by study.
        known: Whether the study of each row is in the database that the features come from.

    Returns:
        Table with columns features, protocol, balanced_accuracy, auc, n, n_groups. Protocols: cross (5 folds), few
        (10 % train), transfer (known studies train, all others test).
    """
    rows = []
    for name, x in {**features, CONTROL: np.log(n_foci)[:, None]}.items():
        x = np.asarray(x, np.float64)
        found = {"cross": cross_probe(x, labels, groups), "few": few_shot_probe(x, labels, groups, seed)}
        if len(set(labels[known])) == len(set(labels[~known])) == 2:
            found["transfer"] = transfer_probe(x, labels, known)
        rows += [(name, protocol, *pair, len(labels), len(set(groups))) for protocol, pair in found.items()]
    return pd.DataFrame(rows, columns=["features", "protocol", "balanced_accuracy", "auc", "n", "n_groups"])


class Leakage(NamedTuple):
    """Score of a probe on test rows, 95th percentile of its permutation null, and whether the score exceeds it."""

    score: float
    null_95: float
    leaks: bool


def recorded_fields(studies: "Studies") -> dict[str, tuple[str, NDArray]]:
    """Method fields that the table records, each with its kind (continuous or categorical) and its values (n,)."""
    table = studies.table
    fields: dict[str, tuple[str, NDArray]] = {
        "year": ("continuous", table["year"].to_numpy(float)),
        "log_n_foci": ("continuous", np.log(table["n_foci"].to_numpy(float))),
        "space": ("categorical", table["space"].to_numpy(str)),
    }
    return fields | {name: ("categorical", table[name].to_numpy(str)) for name in MODALITIES if name in table}


def audit(
    z: NDArray, fields: Mapping[str, tuple[str, NDArray]], n_permutations: int = PERMUTATIONS, seed: int = 0
) -> pd.DataFrame:
    """Leakage of each recorded field into latents z (n, d): columns field, kind, score, null_95, leaks.

    Fields with fewer than 10 rows in their second class are left out. At most 2,000 rows are used.
    """
    rows = np.random.default_rng([seed, 83]).permutation(len(z))[:MOST_ROWS]
    found = []
    for name, (kind, values) in fields.items():
        chosen = values[rows]
        if kind == "categorical" and sorted(np.unique(chosen, return_counts=True)[1])[-2:][0] < 10:
            continue
        found.append((name, kind, *leakage(z[rows], chosen, kind, n_permutations=n_permutations, seed=seed)))
    return pd.DataFrame(found, columns=["field", "kind", "score", "null_95", "leaks"])


def leakage(
    z: NDArray, field: NDArray, kind: str = "continuous", *, n_permutations: int = PERMUTATIONS, seed: int = 0
) -> Leakage:
    """Test score of an MLP from latents z (n, d) to a field (n,), against MLPs on permuted fields.

    Two thirds of the rows train, one third tests. The score is R^2 ("continuous") or balanced accuracy ("categorical").
    """
    random = np.random.default_rng([seed, 26])
    order = random.permutation(len(z))
    train, test = np.split(order, [2 * len(z) // 3])
    null = [_mlp_score(z, random.permutation(field), train, test, kind, seed) for _ in range(n_permutations)]
    score, bound = _mlp_score(z, field, train, test, kind, seed), float(np.percentile(null, QUANTILE))
    return Leakage(score, bound, score > bound)


def _mlp_score(z: NDArray, field: NDArray, train: NDArray, test: NDArray, kind: str, seed: int) -> float:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.metrics import balanced_accuracy_score, r2_score
    from sklearn.neural_network import MLPClassifier, MLPRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    net, metric = {
        "continuous": (MLPRegressor, r2_score),
        "categorical": (MLPClassifier, balanced_accuracy_score),
    }[kind]
    if kind == "continuous":
        field = (field - field[train].mean()) / max(field[train].std(), 1e-9)
    options = {"hidden_layer_sizes": (HIDDEN,), "learning_rate_init": 3e-3, "alpha": PENALTY, "max_iter": EPOCHS}
    model = make_pipeline(StandardScaler(), net(**options, random_state=seed))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a fixed number of epochs, for probe and null alike
        model.fit(z[train], field[train])
    return float(metric(field[test], model.predict(z[test])))
