"""Classical models of coordinates, the rungs below a network: what each one adds is read in bits per focus.

    uniform      1 / V in the mask
    global       kernel density (KDE) of all training foci
    topics       mixture of one KDE per topic, weighted by the squared topic weights of a study, and .1 global
    ridge        ridge regression from the square roots of topic weights to kernel maps, and .2 global
    completion   KDE of half of a study's own foci, and .6 global; scored on the other half
    pca          principal components of kernel maps, for reconstruction and latents

Kernel densities are sums of kernels, not clipped. `fit` takes training studies, `rates` any studies.

References:
    NeuroQuery, comprehensive meta-analysis of human brain mapping (Dockes et al., 2020), eLife
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from neuromf.atlas.kernel_maps import foci_counts, kernel_maps, kernel_sums
from neuromf.atlas.studies import Studies, read_studies
from neuromf.core.files import atomic_write
from neuromf.data.brain_grid import BrainGrid, brain_grid
from neuromf.metrics import likelihood

if TYPE_CHECKING:
    from sklearn.decomposition import PCA

TOPIC_FWHM = 9.0  # mm, of the global and the topic KDE
OWN_FWHM = MAP_FWHM = 12.0  # mm
TOPIC_WEIGHT, RIDGE_WEIGHT, OWN_WEIGHT = 0.9, 0.8, 0.4  # the remainder is the global rate
ALPHA = 1.0  # penalty of the ridge regression
KDE_FLOOR = 1e-9  # of densities, in kernels per training set


@dataclass(frozen=True)
class Baselines:
    """Fitted classical models on a grid."""

    grid: BrainGrid
    global_rate: NDArray[np.float64]  # (V,)
    topic_rates: NDArray[np.float64]  # (n_topics, V)
    mean_map: NDArray[np.float64]  # (V,), of kernel maps of training studies
    ridge: NDArray[np.float64]  # (n_topics, V), change of the map by centred square roots of topic weights
    topic_mean: NDArray[np.float64]  # (n_topics,), their mean

    def rates(self, name: str, studies: Studies) -> NDArray[np.float64]:
        """Rates of a conditional model for studies: (V,) for uniform and global, else (n_studies, V)."""
        models = {"uniform": self._uniform, "global": self._global, "topics": self._topics, "ridge": self._ridge}
        if name not in models:
            raise ValueError(f"the models are {', '.join(models)}; got {name!r}")
        return models[name](studies)

    def _uniform(self, _: Studies) -> NDArray[np.float64]:
        return np.full(self.grid.n_voxels, 1 / self.grid.n_voxels)

    def _global(self, _: Studies) -> NDArray[np.float64]:
        return self.global_rate

    def _topics(self, studies: Studies) -> NDArray[np.float64]:
        return likelihood.mix(topic_weights(studies.topics) @ self.topic_rates, self.global_rate, TOPIC_WEIGHT)

    def _ridge(self, studies: Studies) -> NDArray[np.float64]:
        return likelihood.mix(likelihood.normalised_rate(self.ridge_maps(studies)), self.global_rate, RIDGE_WEIGHT)

    def ridge_maps(self, studies: Studies) -> NDArray[np.float64]:
        """Kernel maps that the ridge regression predicts, (n_studies, V)."""
        return self.mean_map + (np.sqrt(studies.topics) - self.topic_mean) @ self.ridge

    def completion(self, observed: Studies) -> NDArray[np.float64]:
        """Rates (n_studies, V) given observed foci: their own KDE, mixed with the global one."""
        own = likelihood.normalised_rate(kernel_sums(observed, self.grid, OWN_FWHM).toarray(), KDE_FLOOR)
        return likelihood.mix(own, self.global_rate, OWN_WEIGHT)


def fit(train: Studies, grid: BrainGrid) -> Baselines:
    """Fit all conditional models to training studies."""
    sums = kernel_sums(train, grid, TOPIC_FWHM)
    topic = topic_weights(train.topics, normalise=False).T @ sums
    maps = kernel_maps(train, grid, MAP_FWHM, combine="sum", dtype=np.float32)
    mean_map, topic_mean = maps.mean(0, dtype=np.float64), np.sqrt(train.topics).mean(0, dtype=np.float64)
    return Baselines(
        grid=grid,
        global_rate=likelihood.normalised_rate(np.asarray(sums.sum(0), np.float64).ravel(), KDE_FLOOR),
        topic_rates=likelihood.normalised_rate(topic, KDE_FLOOR),
        mean_map=mean_map,
        ridge=_ridge(np.sqrt(train.topics.astype(np.float64)) - topic_mean, maps),
        topic_mean=topic_mean,
    )


def global_rate(train: Studies, grid: BrainGrid) -> NDArray[np.float64]:
    """Rate (V,) of all training foci, as in `fit`."""
    total = np.asarray(kernel_sums(train, grid, TOPIC_FWHM).sum(0), np.float64).ravel()
    return likelihood.normalised_rate(total, KDE_FLOOR)


def _ridge(x: NDArray, maps: NDArray) -> NDArray[np.float64]:
    """Coefficients (n_topics, V) of maps (n, V) on centred columns x (n, n_topics), which need no intercept."""
    return np.linalg.solve(x.T @ x + ALPHA * np.eye(x.shape[1]), (x.T.astype(np.float32) @ maps).astype(np.float64))


def topic_weights(topics: NDArray, normalise: bool = True) -> NDArray[np.float64]:
    """Squared topic weights (n, n_topics), which sum to 1 per study if `normalise`."""
    squared = topics.astype(np.float64) ** 2
    return squared / squared.sum(1, keepdims=True) if normalise else squared


def measure(*, studies: str | Path, out: str | Path, grid: str, seed: int = 0) -> None:
    """Write the ladder of the classical models on validation and test studies of a folder as CSV.

    Columns: split, mode (conditional or completion), model, bits with its 95 % interval, n_studies, n_foci, scale.
    """
    table, space = read_studies(studies), brain_grid(grid)
    fitted, rows = fit(table.take(table.rows("train")), space), []
    for split in ("val", "test"):
        part = table.take(table.rows(split))
        half = first_half(part, seed)
        parts = {"conditional": part, "completion": part.take_foci(~half)}
        rates = {("conditional", name): fitted.rates(name, part) for name in ("uniform", "global", "topics", "ridge")}
        rates |= {("completion", "global"): fitted.global_rate}
        rates |= {("completion", "own"): fitted.completion(part.take_foci(half))}
        for (mode, name), rate in rates.items():
            counts = foci_counts(parts[mode], space)
            n = likelihood.n_foci(counts)
            score = likelihood.score(likelihood.bits_per_focus(np.log2(rate), counts), n, seed=seed)
            rows.append((split, mode, name, *score, int((n > 0).sum()), int(n.sum()), table.scale))
    columns = ["split", "mode", "model", "bits", "low", "high", "n_studies", "n_foci", "scale"]
    with atomic_write(out) as path:
        pd.DataFrame(rows, columns=columns).to_csv(path, index=False, float_format="%.6f")


def fit_pca(maps: NDArray, k: int, seed: int = 0) -> "PCA":
    """Principal components of kernel maps (n, V) of training studies: `transform` gives latents (n, k)."""
    from sklearn.decomposition import PCA

    return PCA(min(k, *maps.shape), svd_solver="randomized", random_state=seed, iterated_power=3).fit(maps)


def first_half(studies: Studies, seed: int) -> NDArray[np.bool_]:
    """Whether each focus is in the observed half of its study, shape (n_foci,): floor(n / 2) of n foci, at random.

    The half of a study depends on the seed, its id and its number of foci alone.
    """
    half = np.zeros(len(studies.points), bool)
    for name, start, stop in zip(studies.table["id"], studies.starts, studies.starts[1:], strict=False):
        words = hashlib.sha256(f"half/{seed}/{name}".encode()).digest()
        order = np.random.default_rng(list(words)).permutation(stop - start)
        half[start + order[: (stop - start) // 2]] = True
    return half


def map_correlation(maps: NDArray, predicted: NDArray) -> float:
    """Mean over studies of the Pearson correlation of maps (n, V) with predictions (n, V); constant rows count as 0."""
    x, y = (m - m.mean(1, keepdims=True) for m in (np.asarray(maps), np.asarray(predicted)))
    norm = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    return float(((x * y).sum(1) / np.maximum(norm, 1e-12)).mean())
