"""A trained volume model for use: maps of latents and metadata, latents of maps and studies, samples, completion.

Metadata m are vectors (B, d_m) of `metadata.encode` with NaN where an entry is missing; None: nothing is known.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neuromf.atlas.imputation import ImputationHead
from neuromf.atlas.kernel_maps import kernel_maps
from neuromf.atlas.metadata import Schema, encode_values
from neuromf.atlas.rates import FWHM_MM, encoded, metadata_of, metadata_tensor
from neuromf.atlas.studies import Studies
from neuromf.atlas.volume_vae import VolumeVAE
from neuromf.core.files import save_tensors
from neuromf.core.seeds import generator
from neuromf.data.brain_grid import BrainGrid, brain_grid

AT_ONCE = 64


class Atlas:
    """A trained volume model on its grid.

    Arguments:
        model: Volume VAE in evaluation mode.
        grid: Brain grid.
        schema: Schema of the metadata; None for an unconditional model.
        card: Scale, config, digests and seed of the training.
        imputation: Network that samples missing metadata; None leaves them missing.
    """

    def __init__(
        self, model: VolumeVAE, grid: BrainGrid, schema: Schema | None, card: Mapping[str, Any],
        imputation: ImputationHead | None = None,
    ) -> None:  # fmt: skip
        self.model, self.grid, self.schema, self.card = model.eval(), grid, schema, dict(card)
        self.imputation = imputation
        self.z_dim = model.z_dim

    @torch.inference_mode()
    def decode(self, z: Tensor, m: Tensor | None = None, own: Tensor | None = None) -> Tensor:
        """Maps or intensities (B, I, J, K) of latents (B, d), zero outside the mask.

        Arguments:
            m: Metadata (B, d_m), or (1, d_m) for all latents.
            own: Kernel maps (B, I, J, K), or (1, I, J, K), of foci that are already observed, for the completion of a
                study.
        """
        observed_foci = None if own is None else own[..., self.model.mask]
        return self.model.decode(z, *self._known(m), observed_foci)[:, 0]

    @torch.inference_mode()
    def encode(self, maps: Tensor, m: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Posterior mean and log-variance (B, d) of maps (B, I, J, K)."""
        return self.model.encode(maps[:, None], *self._known(m))

    def sample(self, m: Tensor | None, n: int, seed: int = 0) -> Tensor:
        """n maps (n, I, J, K) with latents from the prior; m is (1, d_m), (n, d_m) or None.

        Missing metadata are imputed, each sample anew, if the model has learnt to.
        """
        z = torch.randn(n, self.z_dim, generator=generator("atlas", seed, n))
        m = None if m is None else self.impute(m.expand(n, -1), seed)
        return torch.cat([self.decode(z[k : k + AT_ONCE], None if m is None else m[k : k + AT_ONCE])
                          for k in range(0, n, AT_ONCE)])  # fmt: skip

    @torch.inference_mode()
    def impute(self, m: Tensor, seed: int = 0) -> Tensor:
        """m (B, d_m) with missing entries of learnt fields sampled; unchanged without an imputation head."""
        if self.imputation is None:
            return m
        filled = self.imputation.sample(m, m.isfinite(), generator("impute", seed, len(m)))
        return torch.where(m.isfinite() | self.imputation.columns, filled, torch.nan)

    def rate(self, m: Tensor, own: Tensor | None = None, n: int = 64, seed: int = 0) -> Tensor:
        """Mean map (I, J, K) over n latents of one study: of the prior, or of q(z | own) if foci are observed.

        Arguments:
            m: Metadata (d_m,). own: Kernel map of its observed foci, (I, J, K).
        """
        z = torch.randn(n, self.z_dim, generator=generator("rate", seed, n))
        if own is not None:
            mu, logvar = self.encode(own[None], m[None])
            z = mu + (0.5 * logvar).exp() * z
        return self.decode(z, m[None], None if own is None else own[None]).mean(0)

    def latents(self, studies: Studies) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Posterior means and log-variances (n, d) of studies."""
        maps = kernel_maps(studies, self.grid, FWHM_MM, dtype=np.float32)
        mu, logvar = encoded(self, self.grid, maps, metadata_of(self, studies))
        return mu.numpy(), logvar.numpy()

    def metadata(self, **values: Any) -> Tensor:
        """Metadata vector (1, d_m) of values such as year=2010 or topics=weights; NaN for all others."""
        if self.schema is None:
            raise ValueError("the model is unconditional: it was trained without metadata")
        vector, observed = encode_values(self.schema, **values)
        return metadata_tensor(vector[None], observed[None])

    def _known(self, m: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """Metadata and its mask."""
        return (None, None) if m is None or not self.model.n_metadata else (m, m.isfinite())


def save_atlas(
    path: Path, model: VolumeVAE, *, grid: str, settings: Mapping[str, Any], schema: Schema | None,
    card: Mapping[str, Any], imputation: ImputationHead | None = None,
) -> None:  # fmt: skip
    """Write a checkpoint that `load_atlas` reads: weights, settings of `VolumeVAE`, grid, schema and card."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_tensors(
        {"weights": model.state_dict(), "settings": dict(settings), "grid": grid, "card": dict(card),
         "schema": schema.to_json() if schema else None,
         "imputation": imputation.state_dict() if imputation else None}, path,
    )  # fmt: skip


def load_atlas(checkpoint: str | Path) -> Atlas:
    """The trained model of a checkpoint file, or of the run folder that holds it.

    Raises:
        ValueError: If the checkpoint is of another grid than its name says.
    """
    path = Path(checkpoint)
    state = torch.load(path / "checkpoint" if path.is_dir() else path, map_location="cpu", weights_only=True)
    grid, schema = brain_grid(state["grid"]), state["schema"] and Schema.from_json(state["schema"])
    weights = state["weights"]
    if tuple(weights["mask"].shape) != grid.shape:
        raise ValueError(f"{path} has a mask of {tuple(weights['mask'].shape)}, grid {state['grid']} is {grid.shape}")
    model = build_model(grid, state["settings"], schema, weights["mean_map"], densities_of(weights))
    model.load_state_dict(weights)
    head = None
    if state["imputation"]:
        head = ImputationHead(schema)
        head.load_state_dict(state["imputation"])
    return Atlas(model, grid, schema, state["card"], head)


def build_model(
    grid: BrainGrid, settings: Mapping[str, Any], schema: Schema | None, mean_map: Tensor,
    densities: Mapping[str, Tensor] | None,
) -> VolumeVAE:  # fmt: skip
    """A volume VAE of a grid and a schema."""
    topics = None
    if schema and any(field.kind == "topics" for field in schema.fields):
        where = schema.position("topics")
        topics = (where.start, where.stop)
    return VolumeVAE(
        torch.from_numpy(grid.mask), float(grid.spacing_mm[0]), mean_map, n_metadata=schema.width if schema else 0,
        densities=densities, topic_columns=topics, **settings,
    )  # fmt: skip


def densities_of(weights: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """The arrays of `ClassicalDensity` in a state dict; None if it has none."""
    names = {"global": "global_density", "topics": "topic_densities", "count_weights": "count_weights",
             "count_bias": "count_bias"}  # fmt: skip
    if "classical.global_density" not in weights:
        return None
    return {name: weights[f"classical.{key}"] for name, key in names.items()}
