"""Sets of volumes beside the people they should resemble: every metric of them, as tidy rows.

What is known of real people (`People`) is made once and shared by all runs: features of training and held-out heads,
block means of their images, their regions. An `Evaluation` then measures one set of volumes after another against it.
The feature set and the number of volumes are part of every row, since distances of other features or other numbers
are other numbers. Rows are those of `table.py`.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from neuromf.metrics import controls, privacy, resampling
from neuromf.metrics.anatomy import morphometry, regions, tissues
from neuromf.metrics.distances import frechet
from neuromf.metrics.distances.table import WORSE_WHEN_SMALLER, distances
from neuromf.metrics.features.registry import Autoencoder, FeatureSet, calibrate, open_features
from neuromf.metrics.images import similarity, spectral
from neuromf.metrics.table import row, set_columns

logger = logging.getLogger(__name__)

CALIBRATION = 32  # training heads that set the units of encoder features
POOL = 4  # side in voxels of the blocks whose means are compared in image space
Features = dict[str, NDArray]  # (N, S, F) by the name of the feature set, its plane behind it


@dataclass(frozen=True)
class People:
    """What is known of real heads: features by name, block means (N, 2, P) with those of their mirror images."""

    train: Features
    test: Features
    train_images: NDArray
    test_images: NDArray
    channel_std: NDArray  # of the training latents, (C,)
    scale: NDArray  # of the encoder's features, as `features.calibrate` finds it

    @property
    def primary(self) -> str:
        """Name of the first feature set, in which sets are compared with one another."""
        return next(iter(self.train))


def scale_of(specs: Sequence[dict], *, vae: Autoencoder, people: NDArray) -> NDArray:
    """The scale of the encoder's features by the first training volumes (N, I, J, K); empty where none asks for it."""
    asked = any(spec["name"] == "encoder" for spec in specs)
    return calibrate(vae, people[:CALIBRATION]) if asked else np.empty(0, np.float32)


def open_sets(specs: Sequence[dict], *, vae: Autoencoder, scale: NDArray) -> list[FeatureSet]:
    """The feature sets of a study, from the arguments of `features.open_features`; the first is the primary one."""
    return [open_features(**spec, vae=vae, scale=scale) for spec in specs]


def extract(sets: Sequence[FeatureSet], volumes: NDArray) -> Features:
    """Features of volumes (N, I, J, K) in every set, by full name."""
    found = [(each.name, key, array) for each in sets for key, array in each(volumes).items()]
    return {f"{name}-{key}" if key else name: array for name, key, array in found}


def save_people(people: People, path: Path) -> None:
    """Write what is known of real people to one npz file."""
    shared = (field.name for field in fields(People) if field.name not in ("train", "test"))
    arrays = {name: getattr(people, name) for name in shared}
    for split in ("train", "test"):
        arrays |= {f"{split}/{name}": array for name, array in getattr(people, split).items()}
    single = {name: np.asarray(array, np.float32) for name, array in arrays.items()}
    np.savez(path, **single)  # type: ignore[arg-type]  # none is called allow_pickle


def load_people(path: Path) -> People:
    """The same from a file of `save_people`."""
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    split: dict[str, Any] = {
        part: {name.removeprefix(f"{part}/"): array for name, array in arrays.items() if name.startswith(f"{part}/")}
        for part in ("train", "test")
    }
    whole = {field.name: arrays[field.name] for field in fields(People) if field.name in arrays}
    return People(**split, **whole)


class Evaluation:
    """Collects the rows of every set of volumes that is added; distances are to the training people.

    Arguments:
        people: What is known of real heads.
        sets: The feature sets, those of `people` in the same order.
        spacing_mm: Voxel size of the volumes.
        n_pairs: Pairs of volumes for the diversity of a set, and for its likeness to the nearest training heads.
        n_anatomy: Volumes of a set that are segmented.
        n_boot: Redraws of a bootstrap interval.
        segmentation: How regions are measured, "atlas" or "synthseg" (`regions.volumes`).
        seed: Of redraws and pairs.
    """

    def __init__(
        self,
        people: People,
        sets: Sequence[FeatureSet],
        *,
        spacing_mm: float,
        n_pairs: int = 24,
        n_anatomy: int = 24,
        n_boot: int = 200,
        segmentation: str = "atlas",
        seed: int = 0,
    ) -> None:
        self.people, self.sets, self.spacing_mm, self.segmentation = people, sets, spacing_mm, segmentation
        self.n_pairs, self.n_anatomy, self.n_boot, self.seed = n_pairs, n_anatomy, n_boot, seed
        self.features: dict[str | int, Features] = {}  # of every set that was added
        self.rows: list[dict] = []
        self.spectra: list[dict] = []

    def add(self, which: str | int, volumes: NDArray, *, features: Features | None = None) -> None:
        """Measure the distances of one set of volumes (N, I, J, K) in [0, 1]; features where they are known."""
        logger.info("measuring %d volumes: %s", len(volumes), which)
        found = self.features[which] = extract(self.sets, volumes) if features is None else features
        for name, real in self.people.train.items():
            self.keep(which, distances(real, found[name], name, n_boot=self.n_boot, seed=self.seed))

    def halves(self) -> None:
        """Measure one random half of the training people against the other: what sample size alone costs."""
        for name, real in self.people.train.items():
            first, second = controls.halves(len(real), self.seed)
            self.keep("train_halves", distances(real[first], real[second], name, n_boot=self.n_boot, seed=self.seed))

    def keep(self, which: str | int, rows: Sequence[dict]) -> None:
        """Take in rows of a set."""
        self.rows += [{**set_columns(which), **row} for row in rows]

    def diversity(self, which: str | int, volumes: NDArray) -> None:
        """Measure how alike the volumes of a set are, by multi-scale SSIM between pairs."""
        n_pairs = min(self.n_pairs, len(volumes) * (len(volumes) - 1) // 2)
        self.keep(which, [row("pair_ms_ssim", similarity.pair_ms_ssim(volumes, n_pairs, self.seed), n_pairs)])

    def look(self, which: str | int, volumes: NDArray) -> None:
        """Measure symmetry, topology, anatomy and spectrum of a set."""
        tissue = tissues.describe(volumes[: self.n_anatomy], self.spacing_mm)
        ratio = spectral.high_frequency_ratio(volumes, self.spacing_mm)
        columns = {"symmetry": tissues.symmetry(volumes), "high_frequency_ratio": ratio}
        per_volume = [pd.DataFrame(columns), tissues.topology(volumes), tissue]
        self.keep(which, [one for table in per_volume for one in morphometry.means(table, features="", seed=self.seed)])
        frequency, power = spectral.radial_spectrum(volumes, self.spacing_mm)
        pairs = zip(frequency, power.mean(0), strict=True)
        self.spectra += [{**set_columns(which), "frequency": f, "power": p} for f, p in pairs]

    def segment(self, volumes: NDArray) -> pd.DataFrame:
        """Regional volumes in ml of volumes (N, I, J, K), one row per brain."""
        return regions.volumes(volumes, np.diag([self.spacing_mm] * 3 + [1.0]), method=self.segmentation)

    def regions(self, which: str | int, real: pd.DataFrame, found: pd.DataFrame) -> None:
        """Compare regional volumes in ml, one row per brain, with those of real people."""
        about: dict[str, Any] = {"features": self.segmentation, "n_boot": self.n_boot, "seed": self.seed}
        self.keep(which, [{name: one[name] for name in one if name not in ("chance", "p")}
                        for one in morphometry.compare(real, found, **about)])  # fmt: skip
        self.keep(which, morphometry.means(morphometry.asymmetry(found), features=self.segmentation, seed=self.seed))

    def audit(self, which: str | int, volumes: NDArray) -> pd.DataFrame:
        """Look for training heads in a set, in images and in features; the table of nearest ones in images."""
        images = privacy.pooled(volumes, POOL)
        known, heldout = self.people.train_images, self.people.test_images
        found, table = privacy.audit(images, known, heldout, seed=self.seed)
        self.keep(which, privacy.rows(found, len(volumes), f"image-pool{POOL}"))
        name = self.people.primary
        flat = [x.mean(axis=1) for x in (self.features[which][name], self.people.train[name], self.people.test[name])]
        self.keep(which, privacy.rows(privacy.audit(*flat, seed=self.seed)[0], len(volumes), name))
        return table

    def likeness(self, which: str | int, volumes: NDArray, nearest: NDArray) -> None:
        """Multi-scale SSIM of volumes to the training heads nearest to them, which have the same shape."""
        values = similarity.ms_ssim(volumes, nearest)
        self.keep(which, morphometry.means(pd.DataFrame({"nearest_ms_ssim": values}), features="", seed=self.seed))

    def deviation(self, which: str | int, latent: NDArray) -> None:
        """Each channel's standard deviation of latents (N, C, ...) over that of the training people, less one."""
        errors = np.moveaxis(latent, 1, 0).reshape(latent.shape[1], -1).std(1, ddof=1) / self.people.channel_std - 1
        rows = [row(f"latent_std_error_{c}", error, len(latent)) for c, error in enumerate(errors)]
        self.keep(which, [*rows, row("latent_std_error", np.abs(errors).max(), len(latent))])

    def compare(self, which: str | int, other: str) -> None:
        """Add the Fréchet distance of a set over that of another from the same noise, volume by volume.

        The interval draws the volumes of both sets together, so it says whether their difference is more than
        the choice of the noise.
        """
        name = self.people.primary
        real = self.people.train[name]
        pair = np.concatenate([self.features[which][name], self.features[other][name]], axis=2)
        rng = np.random.default_rng(self.seed)
        again = [over(real, pair[rng.integers(len(pair), size=len(pair))]) for _ in range(self.n_boot)]
        low, high = np.percentile(again, [2.5, 97.5])
        self.keep(which, [row(f"frechet_over_{other}", over(real, pair), len(pair), low=low, high=high, features=name)])


def over(real: NDArray, pair: NDArray) -> float:
    """Fréchet distance to real of the first half of the features of a pair over that of the second."""
    ours, theirs = (
        frechet.frechet_distance(resampling.rows(real), resampling.rows(x)) for x in np.split(pair, 2, axis=2)
    )
    return ours / theirs


def ordered(table: pd.DataFrame) -> list[dict]:
    """Whether each distance puts the control sets in order: rows ordered_{metric} of 1 or 0, of the set "controls".

    Arguments:
        table: Rows of every control set, as of `table.py`.
    """
    rows = []
    for (metric, features), found in table.groupby(["metric", "features"], sort=False):
        if {name for chain in controls.CHAINS for name in chain} <= set(found["set"]):
            larger = metric not in WORSE_WHEN_SMALLER
            passed = controls.orders(found.to_dict("records"), larger_is_worse=larger)
            rows.append(
                {**set_columns("controls"), **row(f"ordered_{metric}", passed, int(found["n"].max()), features=features)}
            )
    return rows
