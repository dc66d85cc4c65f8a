"""Dense statistical maps as an external test: maps of pain, of a button press, and contrasts that a user supplies.

Neighbouring pain maps with equal design size may come from one laboratory, so intervals resample groups of maps.
Peaks of a map are its local maxima; encoding them asks whether a model restores the dense map from a coordinate table.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from neuromf.atlas.kernel_maps import kernel_map
from neuromf.atlas.probes import CONTROL, FOLDS, logistic
from neuromf.data.brain_grid import BrainGrid
from neuromf.data.statistical_maps import StatisticalMap

PEAK_MM, MOST_PEAKS, LEAST = 10.0, 40, 3.0  # least distance of peaks, most peaks of a map, least t or z
FWHM_MM = 12.0
MOTOR = ("motor", "movement", "finger", "hand", "tapping")


def find_peaks(dense: StatisticalMap, grid: BrainGrid) -> NDArray[np.float64]:
    """Local maxima (n, 3) in mm of at least 3, about 10 mm apart, the 40 strongest first; the maximum if none."""
    from skimage.feature import peak_local_max

    volume = grid.volume(np.where(dense.valid, dense.values, 0).astype(np.float64))
    distance = max(1, round(PEAK_MM / grid.spacing_mm.min()))
    options = {"min_distance": distance, "exclude_border": False, "num_peaks": MOST_PEAKS}
    found = peak_local_max(volume, threshold_abs=LEAST, **options)
    if not len(found):
        found = np.argwhere(volume == volume.max())[:1]
    return found @ grid.affine[:3, :3].T + grid.affine[:3, 3]


def peak_maps(maps: Sequence[StatisticalMap], grid: BrainGrid) -> NDArray[np.float32]:
    """Kernel maps (n, V) of the peaks of dense maps."""
    return np.stack([kernel_map(find_peaks(dense, grid), grid, FWHM_MM) for dense in maps])


def laboratory_groups(maps: Sequence[StatisticalMap]) -> NDArray[np.int64]:
    """Group of each map: runs of equal design size."""
    sizes = np.array([dense.n_subjects or 0 for dense in maps])
    return np.cumsum(np.concatenate([[0], np.diff(sizes) != 0]).astype(np.int64))


def correlation(a: NDArray, dense: StatisticalMap) -> float:
    """Pearson correlation of a map (V,) with a dense map where it has data; NaN for constant maps."""
    x, y = a[dense.valid], dense.values[dense.valid]
    return float(np.corrcoef(x, y)[0, 1]) if len(x) > 1 and x.std() > 0 and y.std() > 0 else float("nan")


def compare(
    maps: Sequence[StatisticalMap], predicted: Mapping[str, NDArray], restore: Callable[[NDArray], NDArray],
    grid: BrainGrid,
) -> pd.DataFrame:  # fmt: skip
    """Correlations with each dense map: columns map, group, model, r.

    Arguments:
        predicted: Maps (V,) that do not depend on the dense map, by model: decoded topic, mean map, KDE of studies.
        restore: From kernel maps (n, V) of peaks to decoded maps (n, V).
    """
    smoothed, rows = peak_maps(maps, grid), []
    groups = laboratory_groups(maps)
    for dense, group, peaks, decoded in zip(maps, groups, smoothed, restore(smoothed), strict=True):
        candidates = {**predicted, "peaks_smoothed": peaks, "peaks_decoded": decoded}
        rows += [(dense.name, int(group), name, correlation(values, dense)) for name, values in candidates.items()]
    return pd.DataFrame(rows, columns=["map", "group", "model", "r"])


def grouped_interval(table: pd.DataFrame, n_boot: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Mean r per model with a 95 % interval that resamples groups: columns model, r, low, high, n, n_groups."""
    random = np.random.default_rng([seed, 81])
    groups = sorted(table["group"].unique())
    drawn = random.integers(len(groups), size=(n_boot, len(groups)))
    rows = []
    for name, part in table.groupby("model", sort=False):
        by_group = part.groupby("group")["r"].agg(["sum", "count"]).reindex(groups, fill_value=0).to_numpy()
        sums = by_group[drawn].sum(1)
        low, high = np.percentile(sums[:, 0] / np.maximum(sums[:, 1], 1), [2.5, 97.5])
        rows.append((name, float(part["r"].mean()), float(low), float(high), len(part), len(groups)))
    return pd.DataFrame(rows, columns=["model", "r", "low", "high", "n", "n_groups"])


def topic_ranking(z: NDArray, topics: NDArray, query: NDArray) -> NDArray[np.int64]:
    """Topics from most to least likely for a latent (d,), by ridge regression from latents (n, d) to topics.

    Predicted square roots of topic weights are standardised by their spread over the training studies, so that frequent
    topics have no advantage.
    """
    from sklearn.linear_model import RidgeCV

    model = RidgeCV(np.logspace(-2, 4, 13)).fit(z, np.sqrt(topics))
    fitted = model.predict(z)
    return np.argsort(-(model.predict(query[None])[0] - fitted.mean(0)) / np.maximum(fitted.std(0), 1e-12))


def topics_about(words: Sequence[str], wanted: Sequence[str]) -> list[int]:
    """Topics whose words contain one of the wanted words."""
    return [k for k, text in enumerate(words) if set(text.lower().split()) & set(wanted)]


def best_rank(ranking: NDArray, wanted: Sequence[int]) -> int | None:
    """Best rank, from 1, of the wanted topics; None if there are none."""
    return min((int(np.flatnonzero(ranking == topic)[0]) + 1 for topic in wanted), default=None)


def contrast_probe(
    maps: Mapping[str, Sequence[StatisticalMap]], encode: Callable[[NDArray], NDArray], grid: BrainGrid
) -> pd.DataFrame:
    """Balanced accuracy of the task from latents of the peaks of contrast maps, and from the number of peaks.

    Folds are by the part of the file name behind the task, which is the participant.

    Arguments:
        maps: Contrast maps by task, see `statistical_maps.read_hcp_contrasts`.
        encode: From kernel maps (n, V) to latents (n, d).
    """
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.model_selection import GroupKFold, cross_val_predict

    tasks = [(task, dense) for task, several in maps.items() for dense in several]
    labels = np.array([task for task, _ in tasks])
    groups = np.array([dense.name.removeprefix(f"{task}_") for task, dense in tasks])
    dense = [one for _, one in tasks]
    n_peaks = np.array([[float(len(find_peaks(one, grid)))] for one in dense])
    folds = GroupKFold(min(FOLDS, len(set(groups))))
    rows = []
    for name, x in (("latents", encode(peak_maps(dense, grid))), (CONTROL, np.log(n_peaks))):
        found = cross_val_predict(logistic(), x, labels, groups=groups, cv=folds)
        rows.append((name, float(balanced_accuracy_score(labels, found)), len(labels), len(set(groups))))
    return pd.DataFrame(rows, columns=["features", "balanced_accuracy", "n", "n_groups"])
