r"""Classifier two-sample tests (C2ST): how well a classifier tells two sets of volumes apart.

The value is the area under the ROC curve (AUC) of volumes that the classifier was not trained on: 0.5 if the sets have
one distribution, 1 if every volume is recognised. Distances such as Fréchet's compare moments and can miss what a
classifier sees at once.

Features are standardised and projected to principal axes, one axis per ROWS_PER_AXIS training volumes: with more
features than volumes a classifier would fit noise. All of this is fitted to the training folds alone. Folds are
stratified. If volume k of one set is a version of volume k of the other, both are held out together: a classifier that
has seen one of them would recognise the participant and name the wrong set. Values depend on neither the order of the
sets nor, for unpaired sets, on the order of their volumes.

Reference:
    Revisiting Classifier Two-Sample Tests (Lopez-Paz and Oquab, 2017), arXiv:1610.06545
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from neuromf.metrics.resampling import by_volume, check_pair, percentile_interval
from neuromf.metrics.table import row

FOLDS = 5
REPEATS = 10  # random assignments of volumes to folds
ROWS_PER_AXIS = 4  # training volumes per principal axis
CLASSIFIERS = ("logistic", "svm")  # logistic regression, and a support vector machine with an RBF kernel


def two_sample_rows(
    real: ArrayLike, fake: ArrayLike, features: str, *, paired: bool = False, seed: int = 0
) -> list[dict]:
    """Rows c2st_logistic and c2st_svm: mean AUC over REPEATS assignments to folds, and their 95 % interval.

    The interval shows the effect of the assignment, not that of drawing other volumes. Sets of fewer than FOLDS volumes
    give no rows.

    Arguments:
        real: Features of real volumes, shape (N, S, F) or (N, F); the mean over slices is used.
        fake: Features of the evaluated volumes, shape (M, S, F) or (M, F).
        features: Name of the feature set and plane.
        paired: Whether volume k of `fake` is a version of volume k of `real`.
        seed: Seed of the assignments to folds.
    """
    x, y = (by_volume(one, name).mean(axis=1) for one, name in ((real, "real"), (fake, "fake")))
    if min(len(x), len(y)) < FOLDS:
        return []
    values = [classifier_aucs(x, y, paired=paired, seed=[seed, repeat]) for repeat in range(REPEATS)]
    rows = []
    for name, aucs in zip(CLASSIFIERS, np.transpose(values), strict=True):
        low, high = percentile_interval(aucs)
        rows.append(row(f"c2st_{name}", aucs.mean(), len(y), low=low, high=high, features=features))
    return rows


def classifier_aucs(real: ArrayLike, fake: ArrayLike, *, paired: bool = False, seed: list[int]) -> NDArray:
    """AUC of each of CLASSIFIERS between features (N, F) and (M, F), the mean over FOLDS held-out folds: (2,).

    Arguments:
        paired: Whether volume k of `fake` is a version of volume k of `real`.
        seed: Seed of the assignment to folds.
    """
    sets = ordered_sets(*check_pair(real, fake), paired=paired)
    folds = [assign_folds(len(x), [*seed, 0 if paired else k]) for k, x in enumerate(sets)]
    x, fold, label = np.concatenate(sets), np.concatenate(folds), np.repeat([0, 1], [len(one) for one in sets])
    return np.mean([held_out_aucs(x, label, fold == k) for k in range(FOLDS)], axis=0)


def ordered_sets(real: NDArray, fake: NDArray, *, paired: bool) -> list[NDArray]:
    """Both sets in an order that does not depend on which is first, with sorted volumes; pairs stay together."""
    if paired and len(real) != len(fake):
        raise ValueError(f"paired sets must have the same number of volumes; got {len(real)} and {len(fake)}")
    orders = [np.lexsort((real + fake).T)] * 2 if paired else [np.lexsort(x.T) for x in (real, fake)]
    return sorted((x[order] for x, order in zip((real, fake), orders, strict=True)), key=lambda x: x.tobytes())


def assign_folds(n: int, seed: list[int]) -> NDArray:
    """Fold of each of n volumes, at random; the sizes of folds differ by at most one."""
    return np.random.default_rng(seed).permutation(n) % FOLDS


def held_out_aucs(x: NDArray, label: NDArray, held_out: NDArray) -> list[float]:
    """AUC of each of CLASSIFIERS on the held-out rows of x (N, F), trained on the other rows.

    Arguments:
        label: Set of each row, 0 or 1.
        held_out: Whether a row is held out, booleans of shape (N,).
    """
    n = int((~held_out).sum())
    scale = make_pipeline(StandardScaler(), PCA(max(1, min(n // ROWS_PER_AXIS, x.shape[1])), svd_solver="full"))
    train, test = scale.fit_transform(x[~held_out]), scale.transform(x[held_out])
    balanced = {"class_weight": "balanced"}
    models = LogisticRegression(max_iter=1000, **balanced), SVC(kernel="rbf", **balanced)
    fitted = (model.fit(train, label[~held_out]) for model in models)
    return [float(roc_auc_score(label[held_out], model.decision_function(test))) for model in fitted]
