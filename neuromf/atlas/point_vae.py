"""Conditional VAE of point sets: 30 foci in mm to a Gaussian latent, and latents with metadata to 30 points.

The encoder depends on the set of original foci alone. The decoder's points have no order; they lie inside the bounding
box of the brain mask. float32 throughout.

Encoder and decoder are sums of a linear layer and a network that starts at 0. `fit_linear` sets the linear layers to a
closed form: principal components of training sets in one order, and the regression of their scores on the transport
embedding of a set.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import Ridge
from torch import Tensor, nn

from neuromf.atlas.metadata import Schema, encode
from neuromf.atlas.point_baselines import assign, fit_ordered_pca
from neuromf.atlas.point_sets import point_sets
from neuromf.atlas.studies import Studies
from neuromf.core.files import save_tensors
from neuromf.core.seeds import generator
from neuromf.data.brain_grid import BrainGrid
from neuromf.nn.pointnet import PointNetEncoder, check_float32, transport_embedding

AT_ONCE = 256
SLACK_MM = 3.0  # of the box around centres of voxels
INSIDE = 0.99  # largest |tanh| of points that are fitted
RIDGE = 1.0  # penalty of the regression on transport embeddings
FIRST_LOGVAR = -1.5  # of the posterior


class PointVAE(nn.Module):
    """Encoder (points, mask, m) to posterior mean and log-variance; decoder (z, m) to points.

    Arguments:
        n_metadata: Entries d_m of the metadata vector; 0 for an unconditional model.
        box_mm: Lowest and highest corner of the points, ((x, y, z), (x, y, z)).
        n_points: Points that are decoded.
        z_dim: Latent dimensions.
        n_frequencies, bandwidth, centres, radii_mm, width: See `neuromf.nn.pointnet.PointNetEncoder`.
        hidden: Width of the decoder.
    """

    low: Tensor
    high: Tensor
    template: Tensor

    def __init__(
        self,
        n_metadata: int,
        box_mm: Sequence[Sequence[float]],
        *,
        n_points: int = 30,
        z_dim: int = 32,
        n_frequencies: int = 64,
        bandwidth: float = 0.01,
        centres: Sequence[int] = (16, 4),
        radii_mm: Sequence[float] = (25.0, 60.0),
        width: int = 128,
        hidden: int = 256,
    ) -> None:
        super().__init__()
        self.n_metadata, self.n_points, self.z_dim = n_metadata, n_points, z_dim
        self.register_buffer("low", torch.tensor(box_mm[0], dtype=torch.float32))
        self.register_buffer("high", torch.tensor(box_mm[1], dtype=torch.float32))
        self.encoder = PointNetEncoder(
            n_frequencies=n_frequencies, bandwidth=bandwidth, centres=centres, radii_mm=radii_mm, width=width
        )
        self.register_buffer("template", torch.zeros(n_points, 3))
        self.linear_encoder = nn.Linear(3 * n_points, z_dim)
        self.posterior = mlp([width + 3 * n_points + 2 * n_metadata, 2 * width, 2 * z_dim])
        self.linear_decoder = nn.Linear(z_dim, 3 * n_points)
        self.decoder = mlp([z_dim + 2 * n_metadata, hidden, hidden, 3 * n_points])
        nn.init.constant_(last_linear(self.posterior).bias[z_dim:], FIRST_LOGVAR)

    def encode(self, points: Tensor, mask: Tensor, m: Tensor | None = None, observed: Tensor | None = None) -> tuple:
        """Posterior mean and log-variance (B, d) of point sets (B, N, 3) with masks (B, N) and metadata (B, d_m)."""
        feature, ordered = self.encoder(points, mask), self.embed(points, mask)
        known = self._condition(feature, m, observed)
        mu, logvar = self.posterior(torch.cat([feature, ordered, known], 1)).chunk(2, dim=1)
        return mu + self.linear_encoder(ordered), logvar.clamp(-10, 3)

    def embed(self, points: Tensor, mask: Tensor) -> Tensor:
        """Transport embedding (B, 3 n_points) of point sets, as unbounded values."""
        return self.to_raw(transport_embedding(points, mask, self.template)).flatten(1)

    def decode(self, z: Tensor, m: Tensor | None = None, observed: Tensor | None = None) -> Tensor:
        """Points (B, n_points, 3) in mm of latents (B, d)."""
        check_float32(z)
        raw = self.linear_decoder(z) + self.decoder(torch.cat([z, self._condition(z, m, observed)], 1))
        return self.from_raw(raw.view(len(z), self.n_points, 3))

    def from_raw(self, raw: Tensor) -> Tensor:
        """Points in mm, inside the box, of unbounded values."""
        return (self.low + self.high) / 2 + (self.high - self.low) / 2 * raw.tanh()

    def to_raw(self, points: Tensor) -> Tensor:
        """Unbounded values of points (..., 3) in mm; points are moved inside the box."""
        inside = (2 * points - self.low - self.high) / (self.high - self.low)
        return inside.clamp(-INSIDE, INSIDE).atanh()

    def _condition(self, like: Tensor, m: Tensor | None, observed: Tensor | None) -> Tensor:
        """Observed metadata and their mask, (B, 2 d_m); zero if nothing is known."""
        if m is None:
            return like.new_zeros(len(like), 2 * self.n_metadata)
        known = m.isfinite() if observed is None else observed & m.isfinite()
        return torch.cat([torch.where(known, m, torch.zeros_like(m)), known.to(like)], 1)


def mlp(widths: Sequence[int]) -> nn.Sequential:
    """Linear layers with SiLU between them; the last one is zero at initialisation."""
    layers = [part for a, b in zip(widths, widths[1:], strict=False) for part in (nn.Linear(a, b), nn.SiLU())][:-1]
    network = nn.Sequential(*layers)
    nn.init.zeros_(last_linear(network).weight)
    nn.init.zeros_(last_linear(network).bias)
    return network


def last_linear(network: nn.Sequential) -> nn.Linear:
    """Last layer of an `mlp`."""
    layer = network[-1]
    assert isinstance(layer, nn.Linear)
    return layer


@torch.no_grad()
def fit_linear(model: PointVAE, points: NDArray, mask: NDArray, seed: int = 0) -> None:
    """Set the linear layers of a model to the closed form of training sets (B, N, 3) with masks (B, N).

    Decoder: principal components of sets ordered by a template, scaled to scores of variance 1. Encoder: ridge
    regression of the scores on the transport embedding.
    """
    pca = fit_ordered_pca(points, model.z_dim, seed)
    model.template.copy_(torch.from_numpy(pca.template))
    raw = model.to_raw(torch.from_numpy(assign(points, pca.template).astype(np.float32))).flatten(1)
    centre, scale = raw.mean(0), (len(raw) - 1) ** 0.5
    _, values, axes = torch.linalg.svd(raw - centre, full_matrices=False)
    deviations = values[: model.z_dim] / scale
    model.linear_decoder.weight.copy_((axes[: model.z_dim] * deviations[:, None]).T)
    model.linear_decoder.bias.copy_(centre)
    scores = (raw - centre) @ axes[: model.z_dim].T / deviations
    sets = zip(torch.from_numpy(points).split(AT_ONCE), torch.from_numpy(mask).split(AT_ONCE), strict=True)
    features = torch.cat([model.embed(*some) for some in sets])
    regression = Ridge(RIDGE).fit(features.numpy(), scores.numpy())
    model.linear_encoder.weight.copy_(torch.from_numpy(regression.coef_))
    model.linear_encoder.bias.copy_(torch.from_numpy(regression.intercept_))


def bounding_box(grid: BrainGrid) -> list[list[float]]:
    """Lowest and highest corner of the brain mask in mm."""
    return [(grid.centres_mm.min(0) - SLACK_MM).tolist(), (grid.centres_mm.max(0) + SLACK_MM).tolist()]


class PointAtlas:
    """A trained point model with its metadata schema and card."""

    def __init__(self, model: PointVAE, schema: Schema | None, card: Mapping[str, Any]) -> None:
        self.model, self.schema, self.card = model.eval(), schema, dict(card)

    def metadata(self, studies: Studies) -> tuple[Tensor, Tensor] | tuple[None, None]:
        """Metadata of studies and their mask, (n, d_m); None for an unconditional model."""
        if self.schema is None:
            return None, None
        values, observed = encode(studies, self.schema)
        return torch.from_numpy(values), torch.from_numpy(observed)

    @torch.inference_mode()
    def latents(self, studies: Studies, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Posterior means and log-variances (n, d) of studies."""
        points, masks = (torch.from_numpy(one) for one in point_sets(studies, self.model.n_points, seed))
        m, observed = self.metadata(studies)
        parts = []
        for k in range(0, len(studies), AT_ONCE):
            rows = slice(k, k + AT_ONCE)
            known = (None, None) if m is None or observed is None else (m[rows], observed[rows])
            parts.append(self.model.encode(points[rows], masks[rows], *known))
        mu, logvar = (torch.cat(column).numpy() for column in zip(*parts, strict=True))
        return mu, logvar

    @torch.inference_mode()
    def reconstruct(self, studies: Studies, seed: int = 0) -> NDArray[np.float32]:
        """Points (n, n_points, 3) in mm decoded from the posterior means of studies."""
        mu, _ = self.latents(studies, seed)
        return self.model.decode(torch.from_numpy(mu), *self.metadata(studies)).numpy()

    @torch.inference_mode()
    def sample(self, studies: Studies, seed: int = 0) -> NDArray[np.float32]:
        """Points (n, n_points, 3) in mm with latents from N(0, I) and the metadata of studies."""
        z = torch.randn(len(studies), self.model.z_dim, generator=generator("point atlas", seed, len(studies)))
        return self.model.decode(z, *self.metadata(studies)).numpy()


def save_points(
    path: Path, model: PointVAE, settings: Mapping[str, Any], schema: Schema | None, card: Mapping[str, Any]
) -> None:
    """Write a checkpoint that `load_points` reads."""
    box = [model.low.tolist(), model.high.tolist()]
    save_tensors({"weights": model.state_dict(), "settings": dict(settings), "box_mm": box, "card": dict(card),
                  "schema": schema.to_json() if schema else None}, path)  # fmt: skip


def load_points(checkpoint: str | Path) -> PointAtlas:
    """The trained point model of a checkpoint file, or of the run folder that holds it."""
    path = Path(checkpoint)
    state = torch.load(path / "checkpoint" if path.is_dir() else path, map_location="cpu", weights_only=True)
    schema = Schema.from_json(state["schema"]) if state["schema"] else None
    model = PointVAE(schema.width if schema else 0, state["box_mm"], **state["settings"])
    model.load_state_dict(state["weights"])
    return PointAtlas(model, schema, state["card"])
