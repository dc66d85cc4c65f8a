"""Metrics of sets of volumes against a fixed reference of training and test scans, as rows of `table.py`."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from neuromf.metrics import controls, privacy, resampling
from neuromf.metrics.anatomy import morphometry, regions, tissues
from neuromf.metrics.distances.frechet import frechet_distance
from neuromf.metrics.distances.table import distances
from neuromf.metrics.features.registry import Features, FeatureSet, extract
from neuromf.metrics.images import similarity, spectral
from neuromf.metrics.table import row, set_columns
from neuromf.metrics.two_sample import two_sample_rows

logger = logging.getLogger(__name__)

AGAINST = {"test": "", "reconstruction": "_reconstruction"}  # ending of the names of two-sample tests


@dataclass(frozen=True)
class Reference:
    """Features of real scans, computed once and shared by all runs.

    Arguments:
        train: Features of the training scans by feature set.
        test: Features of the test scans.
        reconstruction: Features of the autoencoded test scans.
        train_images: Block means of the training scans and their mirror images, shape (N, 2, P).
        test_images: Block means of the test scans and their mirror images.
        channel_std: Standard deviation of each latent channel over the training scans, shape (C,).
        scales: Scales of feature sets by name, see `features.registry.feature_scales`.
    """

    BY_NAME: ClassVar = ("train", "test", "reconstruction", "scales")  # dicts of arrays
    train: Features
    test: Features
    reconstruction: Features
    train_images: NDArray
    test_images: NDArray
    channel_std: NDArray
    scales: Features

    @property
    def primary(self) -> str:
        """Name of the first feature set."""
        return next(iter(self.train))

    def save(self, path: Path) -> None:
        """Write the arrays to an npz file, as float32."""
        shared = (field.name for field in fields(self) if field.name not in self.BY_NAME)
        arrays = {name: getattr(self, name) for name in shared}
        for split in self.BY_NAME:
            arrays |= {f"{split}/{name}": array for name, array in getattr(self, split).items()}
        single = {name: np.asarray(array, np.float32) for name, array in arrays.items()}
        np.savez(path, **single)  # type: ignore[arg-type]  # no array is called allow_pickle

    @classmethod
    def load(cls, path: Path) -> "Reference":
        """Read a file of `save`."""
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files}
        values: dict[str, Any] = {name: array for name, array in arrays.items() if "/" not in name}
        for split in cls.BY_NAME:
            names = [name for name in arrays if name.startswith(f"{split}/")]
            values[split] = {name.removeprefix(f"{split}/"): arrays[name] for name in names}
        return cls(**values)


class Evaluator:
    """Computes metrics of sets of volumes; distances are to the training scans.

    A set is named by a string, or, for samples of a run, by their number of network evaluations (`table.set_columns`).
    Results are in `rows` (metrics) and `spectra` (power spectra).

    Arguments:
        reference: Features of real scans.
        sets: The feature sets of the reference, in the same order.
        spacing_mm: Isotropic voxel size in mm.
        n_pairs: Pairs of volumes for the diversity of a set, and for the similarity to nearest training scans.
        n_anatomy: Volumes of a set that are segmented.
        n_boot: Bootstrap resamples of an interval.
        segmentation: Segmentation of regional volumes, "atlas" or "synthseg".
        two_sample: Whether classifier two-sample tests are made, see `add`.
        seed: Seed of resamples, pairs and folds.
    """

    def __init__(
        self,
        reference: Reference,
        sets: Sequence[FeatureSet],
        *,
        spacing_mm: float,
        n_pairs: int = 24,
        n_anatomy: int = 24,
        n_boot: int = 200,
        segmentation: str = "atlas",
        two_sample: bool = False,
        seed: int = 0,
    ) -> None:
        self.reference, self.sets, self.spacing_mm, self.segmentation = reference, sets, spacing_mm, segmentation
        self.n_pairs, self.n_anatomy, self.n_boot, self.seed = n_pairs, n_anatomy, n_boot, seed
        self.two_sample = two_sample
        self.features: dict[str | int, Features] = {}
        self.rows: list[dict] = []
        self.spectra: list[dict] = []

    def record(self, which: str | int, rows: Sequence[dict]) -> None:
        """Append rows of a set."""
        self.rows += [{**set_columns(which), **row} for row in rows]

    def add(
        self, which: str | int, volumes: NDArray, *, features: Features | None = None, paired: bool = False
    ) -> None:
        """Feature distances of a set, and its classifier two-sample tests against test scans and autoencoded ones.

        Arguments:
            which: Name of the set. "test" has no two-sample test, "reconstruction" none against itself.
            volumes: Volumes (N, I, J, K) in [0, 1].
            features: Their features; extracted if not given.
            paired: Whether volume k is a version of test scan k.
        """
        logger.info("evaluating %d volumes of set %s", len(volumes), which)
        self.features[which] = extract(self.sets, volumes) if features is None else features
        for name, train in self.reference.train.items():
            self.record(which, self._distances(train, self.features[which][name], name))
        known = {"test": self.reference.test, "reconstruction": self.reference.reconstruction}
        for other in known if which not in known else ("test",) if which == "reconstruction" else ():
            for name, real in known[other].items():
                rows = self._two_sample(real, self.features[which][name], name, paired=paired)
                self.record(which, [{**one, "metric": one["metric"] + AGAINST[other]} for one in rows])

    def add_train_halves(self) -> None:
        """Distances and two-sample tests of two random halves of the training set: the effect of sample size alone."""
        for name, train in self.reference.train.items():
            first, second = controls.halves(len(train), self.seed)
            self.record("train_halves", self._distances(train[first], train[second], name))
            self.record("train_halves", self._two_sample(train[first], train[second], name))

    def _distances(self, real: NDArray, fake: NDArray, name: str) -> list[dict]:
        return distances(real, fake, name, n_boot=self.n_boot, seed=self.seed)

    def _two_sample(self, real: NDArray, fake: NDArray, name: str, *, paired: bool = False) -> list[dict]:
        return two_sample_rows(real, fake, name, paired=paired, seed=self.seed) if self.two_sample else []

    def diversity(self, which: str | int, volumes: NDArray) -> None:
        """Mean multi-scale SSIM between pairs of volumes of a set."""
        n_pairs = min(self.n_pairs, len(volumes) * (len(volumes) - 1) // 2)
        self.record(which, [row("pair_ms_ssim", similarity.pair_ms_ssim(volumes, n_pairs, self.seed), n_pairs)])

    def anatomy(self, which: str | int, volumes: NDArray) -> None:
        """Symmetry, topology, tissue volumes and power spectrum of a set."""
        tissue = tissues.describe(volumes[: self.n_anatomy], self.spacing_mm)
        ratio = spectral.high_frequency_ratio(volumes, self.spacing_mm)
        columns = {"symmetry": tissues.symmetry(volumes), "high_frequency_ratio": ratio}
        for table in (pd.DataFrame(columns), tissues.topology(volumes), tissue):
            self.record(which, morphometry.mean_rows(table, features="", seed=self.seed))
        frequency, power = spectral.radial_spectrum(volumes, self.spacing_mm)
        spectrum = zip(frequency, power.mean(0), strict=True)
        self.spectra += [{**set_columns(which), "frequency": f, "power": p} for f, p in spectrum]

    def segment(self, volumes: NDArray) -> pd.DataFrame:
        """Regional volumes in ml of volumes (N, I, J, K), a row per volume."""
        return regions.volumes(volumes, np.diag([self.spacing_mm] * 3 + [1.0]), method=self.segmentation)

    def compare_regions(self, which: str | int, real: pd.DataFrame, fake: pd.DataFrame) -> None:
        """Distances of regional volumes in ml to those of real scans, and the asymmetry of the ventricles."""
        boot: dict[str, Any] = {"features": self.segmentation, "n_boot": self.n_boot, "seed": self.seed}
        rows = morphometry.compare(real, fake, **boot)
        self.record(which, [{name: one[name] for name in one if name not in ("chance", "p")} for one in rows])
        asymmetry = morphometry.asymmetry(fake)
        self.record(which, morphometry.mean_rows(asymmetry, features=self.segmentation, seed=self.seed))

    def audit_privacy(self, which: str | int, volumes: NDArray) -> pd.DataFrame:
        """Privacy audit of a set in image space and in the primary features.

        Returns:
            Nearest training scan of each sample and test scan in image space, see `privacy.audit`.
        """
        images, known = privacy.block_means(volumes), self.reference
        result, table = privacy.audit(images, known.train_images, known.test_images, seed=self.seed)
        self.record(which, privacy.rows(result, len(volumes), privacy.IMAGE_FEATURES))
        name = known.primary
        flat = [x.mean(axis=1) for x in (self.features[which][name], known.train[name], known.test[name])]
        result, _ = privacy.audit(*flat, seed=self.seed)
        self.record(which, privacy.rows(result, len(volumes), name))
        return table

    def nearest_similarity(self, which: str | int, volumes: NDArray, nearest: NDArray) -> None:
        """Multi-scale SSIM of volumes to their nearest training scans, arrays of the same shape."""
        values = pd.DataFrame({"nearest_ms_ssim": similarity.ms_ssim(volumes, nearest)})
        self.record(which, morphometry.mean_rows(values, features="", seed=self.seed))

    def latent_std(self, which: str | int, latents: NDArray) -> None:
        """Relative error of each channel's standard deviation of latents (N, C, ...), against the training set."""
        std = np.moveaxis(latents, 1, 0).reshape(latents.shape[1], -1).std(1, ddof=1)
        errors = std / self.reference.channel_std - 1
        rows = [row(f"latent_std_error_{c}", error, len(latents)) for c, error in enumerate(errors)]
        self.record(which, [*rows, row("latent_std_error", np.abs(errors).max(), len(latents))])

    def compare_sets(self, which: str | int, other: str) -> None:
        """Fréchet distance of a set over that of another set, drawn from the same noise volume by volume.

        The bootstrap resamples the volumes of both sets jointly, so the interval covers the choice of the noise.
        """
        name = self.reference.primary
        train, both = self.reference.train[name], (self.features[which][name], self.features[other][name])
        pair = np.concatenate(both, axis=2)
        rng = np.random.default_rng(self.seed)
        draws = (rng.integers(len(pair), size=len(pair)) for _ in range(self.n_boot))
        low, high = resampling.percentile_interval([_frechet_ratio(train, pair[draw]) for draw in draws])
        value = _frechet_ratio(train, pair)
        self.record(which, [row(f"frechet_over_{other}", value, len(pair), low=low, high=high, features=name)])


def _frechet_ratio(train: NDArray, pair: NDArray) -> float:
    """Fréchet distance to `train` of the first half of the feature columns of `pair` over that of the second half."""
    first, second = (
        frechet_distance(resampling.stack_slices(train), resampling.stack_slices(x)) for x in np.split(pair, 2, axis=2)
    )
    return first / second
