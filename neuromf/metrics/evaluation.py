"""Sets of volumes beside the people they should resemble: every metric of them, as tidy rows.

Distances are taken between features of the study's own encoder: posterior means, averaged over blocks of
2 x 2 x 2 positions and projected on the principal axes of the training people. The feature set and the number
of volumes are part of every row, since distances of other features or other numbers are other numbers.
"""

import logging
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from neuromf.metrics import anatomy, frechet, neighbours, similarity, spectral

logger = logging.getLogger(__name__)


def encoder_features(mean: Tensor) -> NDArray:
    """Posterior means (N, C, I, J, K), block-averaged by 2 and flattened: (N, F)."""
    return F.avg_pool3d(mean, 2).flatten(1).double().numpy()


class Evaluation:
    """Collects the rows of every set of volumes that is added; distances are to the training people.

    Arguments:
        train: Posterior means of training people, with shape (N, C, i, j, k).
        test: Those of held-out people, who say how near an unseen person is.
        encoder: Posterior mean of volumes (B, 1, I, J, K).
        spacing_mm: Voxel size of the volumes.
        n_components: Principal axes of the training features that distances are taken along.
        n_pairs: Pairs of volumes for the diversity of a set.
        n_anatomy: Volumes of a set that are segmented.
        n_boot: Redraws of a bootstrap interval.
    """

    def __init__(
        self,
        train: Tensor,
        test: Tensor,
        *,
        encoder: Callable[[Tensor], Tensor],
        spacing_mm: float,
        n_components: int = 32,
        n_pairs: int = 24,
        n_anatomy: int = 24,
        n_boot: int = 200,
        seed: int = 0,
    ) -> None:
        features = encoder_features(train)
        self.axes = frechet.fit_pca(features, min(n_components, len(features) - 1))
        self.train, self.test = self.axes.project(features), self.axes.project(encoder_features(test))
        self.latent_std = train.double().transpose(0, 1).flatten(1).std(1)
        self.encoder, self.spacing_mm, self.n_boot, self.seed = encoder, spacing_mm, n_boot, seed
        self.n_pairs, self.n_anatomy = n_pairs, n_anatomy
        self.features: dict[str, NDArray] = {}  # of every set that was added
        self.rows: list[dict] = []
        self.spectra: list[dict] = []

    def add(self, nfe: str, volumes: Tensor, *, latent: Tensor | None = None, looks: bool = True) -> None:
        """Measure one set of volumes (N, I, J, K) in [0, 1].

        Arguments:
            nfe: The number of evaluations, or what else the set is: "real", "vae", "mean-head", ...
            latent: What the volumes were decoded from, where they were, with shape (N, C, i, j, k).
            looks: Whether anatomy and spectrum are measured too, or the distance alone.
        """
        logger.info("measuring %d volumes: %s", len(volumes), nfe)
        with torch.no_grad():
            mean = torch.cat([self.encoder(volume[None, None]) for volume in volumes])
        features = self.features[nfe] = self.axes.project(encoder_features(mean))
        rows = [self.distance(features)]
        if looks:
            rows += self.nearness(features) + self.looks(volumes.numpy())
            frequency, power = spectral.radial_spectrum(volumes.numpy(), self.spacing_mm)
            pairs = zip(frequency, power.mean(0), strict=True)
            self.spectra += [{"nfe": nfe, "frequency": f, "power": p} for f, p in pairs]
        if latent is not None:
            rows += self.channel_deviation(latent)
        self.rows += [{"nfe": nfe, **row} for row in rows]

    def distance(self, features: NDArray) -> dict:
        """Row of the Fréchet distance to the training people, with its bootstrap interval."""
        low, high = frechet.bootstrap(frechet.frechet_distance, self.train, features, self.n_boot, self.seed)
        value, name = frechet.frechet_distance(self.train, features), f"encoder-pca{features.shape[1]}"
        return row("frechet", value, len(features), low=low, high=high, features=name)

    def compare(self, nfe: str, other: str) -> None:
        """Add the Fréchet distance of a set over that of another from the same noise, volume by volume.

        The interval draws the volumes of both sets together, so it says whether their difference is more than
        the choice of the noise.
        """
        n_axes = self.train.shape[1]

        def ratio(real: NDArray, fake: NDArray) -> float:
            ours, theirs = (frechet.frechet_distance(real[:, :n_axes], part) for part in np.split(fake, 2, axis=1))
            return ours / theirs

        sets = np.hstack([self.train, self.train]), np.hstack([self.features[nfe], self.features[other]])
        low, high = frechet.bootstrap(ratio, *sets, self.n_boot, self.seed)
        about = {"low": low, "high": high, "features": f"encoder-pca{n_axes}"}
        self.rows.append({"nfe": nfe, **row(f"frechet_over_{other}", ratio(*sets), len(sets[1]), **about)})

    def nearness(self, features: NDArray) -> list[dict]:
        """Rows that say whether a set repeats training people: nearest ones against those of unseen people."""
        found = neighbours.memorisation(features, self.train, self.test)
        name = f"encoder-pca{features.shape[1]}"
        return [row(f"nearest_{key}", value, len(features), features=name) for key, value in found.items()]

    def looks(self, volumes: NDArray) -> list[dict]:
        """Rows of diversity, symmetry and anatomy, each with the middle 95 % of its volumes."""
        segmented = anatomy.describe(volumes[: self.n_anatomy], self.spacing_mm)
        per_volume = {
            "symmetry": anatomy.symmetry(volumes),
            "components": anatomy.components(volumes),
            "high_frequency_ratio": spectral.high_frequency_ratio(volumes, self.spacing_mm),
            **{name: column.to_numpy() for name, column in segmented.items()},
        }
        n_pairs = min(self.n_pairs, len(volumes) * (len(volumes) - 1) // 2)
        rows = [row("pair_ms_ssim", similarity.pair_ms_ssim(volumes, n_pairs, self.seed), n_pairs)]
        for name, values in per_volume.items():
            low, high = np.nanpercentile(values, [2.5, 97.5])
            rows.append(row(name, np.nanmean(values), len(values), low=low, high=high))
        return rows

    def channel_deviation(self, latent: Tensor) -> list[dict]:
        """Rows of each channel's standard deviation over that of the training people, less one, and the largest."""
        errors = latent.double().transpose(0, 1).flatten(1).std(1) / self.latent_std - 1
        rows = [row(f"latent_std_error_{c}", error, len(latent)) for c, error in enumerate(errors)]
        return [*rows, row("latent_std_error", errors.abs().max(), len(latent))]


def row(metric: str, value: float, n: int, *, low: float = np.nan, high: float = np.nan, features: str = "") -> dict:
    """One line of metrics.csv without what it was measured on."""
    return {"metric": metric, "features": features, "n": n, "value": float(value), "low": low, "high": high}
