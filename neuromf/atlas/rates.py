"""Rates of a trained model: the one way in which its maps become a distribution of foci.

The rate of a study is the mean over latents z of its decoded maps floored at 1e-6, normalised in the mask. Latents come
from the prior N(0, I) (conditional on metadata alone), or from q(z | map of half of the foci) (completion).
"""

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neuromf.atlas.kernel_maps import kernel_maps
from neuromf.atlas.metadata import Schema, encode
from neuromf.atlas.studies import Studies
from neuromf.core.seeds import generator
from neuromf.data.brain_grid import BrainGrid
from neuromf.metrics import likelihood

N_Z = 64
DECODED_AT_ONCE = 256
FWHM_MM = 12.0  # of maps that are encoded, reconstructed and generated


class Atlas(Protocol):
    """What a trained model offers; metadata m are vectors (B, d_m) with NaN for what is missing, or None.

    A single row of m or `own` holds for all latents.
    """

    z_dim: int
    schema: Schema | None

    def decode(self, z: Tensor, m: Tensor | None = None, own: Tensor | None = None) -> Tensor:
        """Maps (B, I, J, K) of latents (B, d); `own` are kernel maps (B, I, J, K) of foci that are observed."""

    def encode(self, maps: Tensor, m: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Posterior mean and log-variance (B, d) of maps (B, I, J, K)."""


def metadata_of(atlas: Atlas, studies: Studies) -> Tensor | None:
    """Metadata (n, d_m) of studies for a model, NaN where an entry is missing; None for an unconditional model."""
    if atlas.schema is None:
        return None
    return metadata_tensor(*encode(studies, atlas.schema))


def metadata_tensor(values: NDArray, observed: NDArray) -> Tensor:
    """Metadata (n, d_m) of `metadata.encode` as one tensor, NaN where an entry is not observed."""
    return torch.from_numpy(np.where(observed, values, np.nan).astype(np.float32))


def decoded(
    atlas: Atlas, grid: BrainGrid, z: Tensor, m: Tensor | None, own: Tensor | None = None
) -> NDArray[np.float64]:
    """Decoded maps in the mask (B, V), in chunks; arguments as for `Atlas.decode`.

    Raises:
        FloatingPointError: If a map is not finite.
    """
    parts = []
    for start in range(0, len(z), DECODED_AT_ONCE):
        rows = slice(start, start + DECODED_AT_ONCE)
        with torch.inference_mode():
            chunk = (part if part is None or len(part) == 1 else part[rows] for part in (m, own))
            maps = atlas.decode(z[rows], *chunk)
        parts.append(grid.vector(maps.reshape(-1, *grid.shape).numpy()).astype(np.float64))
    out = np.concatenate(parts)
    if not np.isfinite(out).all():
        raise FloatingPointError(f"decoded maps {np.flatnonzero(~np.isfinite(out).all(1))[:5].tolist()} are not finite")
    return out


def encoded(atlas: Atlas, grid: BrainGrid, maps: NDArray, m: Tensor | None) -> tuple[Tensor, Tensor]:
    """Posterior means and log-variances (n, d) of maps (n, V), in chunks."""
    parts = []
    for start in range(0, len(maps), DECODED_AT_ONCE):
        rows = slice(start, start + DECODED_AT_ONCE)
        with torch.inference_mode():
            volumes = torch.from_numpy(grid.volume(np.asarray(maps[rows], np.float32)))
            parts.append(atlas.encode(volumes, None if m is None else m[rows]))
    return torch.cat([mu for mu, _ in parts]), torch.cat([logvar for _, logvar in parts])


def prior_rates(
    atlas: Atlas,
    grid: BrainGrid,
    studies: Studies,
    n_z: int = N_Z,
    seed: int = 0,
    prior: Callable[[Tensor], Tensor] | None = None,
) -> NDArray[np.float64]:
    """Rates (n, V) of studies given their metadata alone; the z of a study depend on the seed and its id.

    Arguments:
        prior: Function from standard normal noise (B, d) to latents (B, d); None: the noise itself, N(0, I).
    """
    m, rates = metadata_of(atlas, studies), np.empty((len(studies), grid.n_voxels))
    for k, name in enumerate(studies.table["id"]):
        z = _noise(name, n_z, atlas.z_dim, seed)
        z = z if prior is None else prior(z)
        rates[k] = mean_rate(decoded(atlas, grid, z, None if m is None else m[k : k + 1]))
    return rates


def posterior_rates(
    atlas: Atlas, grid: BrainGrid, observed: Studies, n_z: int = N_Z, seed: int = 0
) -> NDArray[np.float64]:
    """Rates (n, V) of studies given metadata and their observed foci: z from q(z | map of these foci)."""
    m, rates = metadata_of(atlas, observed), np.empty((len(observed), grid.n_voxels))
    maps = kernel_maps(observed, grid, FWHM_MM, dtype=np.float32)
    mu, logvar = encoded(atlas, grid, maps, m)
    for k, name in enumerate(observed.table["id"]):
        z = mu[k] + (0.5 * logvar[k]).exp() * _noise(name, n_z, atlas.z_dim, seed)
        own = torch.from_numpy(grid.volume(maps[k : k + 1]))
        rates[k] = mean_rate(decoded(atlas, grid, z, None if m is None else m[k : k + 1], own))
    return rates


def mean_rate(maps: NDArray) -> NDArray[np.float64]:
    """Rate (V,): normalised mean of maps (n_z, V) floored at 1e-6."""
    return likelihood.normalised_rate(np.maximum(maps, likelihood.FLOOR).mean(0))


def _noise(name: str, n_z: int, z_dim: int, seed: int) -> Tensor:
    return torch.randn((n_z, z_dim), generator=generator("rates", seed, str(name)))


def draw_foci(rates: NDArray, n_foci: NDArray, grid: BrainGrid, seed: int = 0) -> list[NDArray[np.float32]]:
    """Foci in mm drawn from rates (n, V) or (V,), n_foci[k] for row k, uniform within their voxels."""
    found = []
    for k, n in enumerate(n_foci):
        random = np.random.default_rng([seed, 30, k])
        rate = rates if rates.ndim == 1 else rates[k]
        voxels = random.choice(len(rate), int(n), p=rate)
        jitter = (random.random((int(n), 3)) - 0.5) * grid.spacing_mm
        found.append((grid.centres_mm[voxels] + jitter).astype(np.float32))
    return found
