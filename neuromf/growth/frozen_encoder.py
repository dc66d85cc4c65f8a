"""The frozen MAISI autoencoder as encoder of four modalities, for comparison: nothing is trained.

Each modality is encoded alone, its latent is averaged in 2 x 2 x 2 cells, and all numbers are projected on the d
principal components of training subjects.
"""

from collections.abc import Iterable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neuromf.core.files import sha256, write_json
from neuromf.data.semantic_features import FEATURES
from neuromf.growth.disentanglement_study import score_latents
from neuromf.growth.latents import encode_splits, read_config, read_latents, split_loader, write_store
from neuromf.vae.maisi import MAISIVAEWrapper, encode_safely
from neuromf.vae.weights import PACKAGED, load

CELLS = 2  # per axis


class FrozenEncoder(nn.Module):
    """Principal components of pooled latents of every modality.

    Arguments:
        vae: Frozen autoencoder.
        z_dim: Latent dimensions d; at most the number of training subjects.
    """

    mean: Tensor
    components: Tensor

    def __init__(self, vae: MAISIVAEWrapper, z_dim: int) -> None:
        super().__init__()
        self.vae, self.z_dim = vae, z_dim
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("components", torch.zeros(()))

    def features(self, x: Tensor) -> Tensor:
        """Pooled latents (B, 32 C) of images (B, C, I, J, K), each channel scaled to [0, 1]."""
        flat = x.flatten(2)
        low, high = flat.amin(2), torch.quantile(flat, 0.998, dim=2)
        scaled = ((x - low[..., None, None, None]) / (high - low).clamp(min=1e-6)[..., None, None, None]).clamp(0, 1)
        latent = encode_safely(self.vae, scaled.flatten(0, 1)[:, None])[0]
        return F.adaptive_avg_pool3d(latent, CELLS).unflatten(0, x.shape[:2]).flatten(1).to(x.device)

    def fit(self, batches: Iterable[dict]) -> "FrozenEncoder":
        """Principal components of training subjects."""
        rows = torch.cat([self.features(batch["image"]) for batch in batches])
        self.mean = rows.mean(0)
        self.components = torch.linalg.svd(rows - self.mean, full_matrices=False).Vh[: self.z_dim].T
        return self

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Projection (B, d), and log-variance -inf: there is no posterior."""
        mu = (self.features(x) - self.mean) @ self.components
        return mu, torch.full_like(mu, -torch.inf)


def export_frozen(folder: Path, latents: Path, out: Path, *, weights: Path = PACKAGED) -> None:
    """Store of the latents of a run's subjects from the frozen autoencoder, and its disentanglement scores as JSON.

    Arguments:
        folder: Run directory, of which splits and preprocessing are used.
        latents: Store to write.
        out: JSON file to write.
        weights: Weights of the autoencoder.
    """
    config = read_config(folder)
    encoder = FrozenEncoder(load(weights), config["model"]["z_dim"]).fit(split_loader(folder, "train"))
    modalities = config["data"]["modalities"]
    about = {"modalities": modalities, "checkpoint": sha256(weights), "features": FEATURES}
    write_store(latents, about, encode_splits(encoder, folder))
    write_json(out, score_latents(read_latents(latents, modalities), None)[0])
