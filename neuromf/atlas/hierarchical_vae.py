"""Hierarchical VAE of activation maps with two latent levels, on principal components of the maps.

    q(z1 | x), q(z2 | z1);   p(z2) = N(0, I), p(z1 | z2), p(x | z1, z2, m)

A narrow skip leads from the first layer of the encoder to the decoder, behind `detach()`: the decoder learns to read
it, and no gradient of the decoder reaches the encoder through it, so the encoder cannot learn to pass the map around
the latents. Training hides the skip of a fraction of the rows; without it the decoder depends on z1, z2 and m alone, as
in generation. With z2_dim = 0 the model is a flat VAE with the prior p(z1) = N(0, I).

Reference:
    Ladder variational autoencoders (Sønderby et al., 2016), arXiv:1602.02282
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from neuromf.core.files import save_tensors
from neuromf.vae.elbo import kl_per_dimension, reparameterise

LOGVAR = (-8.0, 4.0)  # bounds of log-variances


class Normal(NamedTuple):
    """Mean and log-variance (B, d) of a diagonal Gaussian."""

    mu: Tensor
    logvar: Tensor

    def draw(self, eps: Tensor) -> Tensor:
        """Sample (B, d) with noise eps."""
        return reparameterise(self.mu, self.logvar, eps)


def kl_between(q: Normal, p: Normal) -> Tensor:
    """KL divergence KL(q || p) in nats, (B,)."""
    ratio = (q.logvar - p.logvar).exp() + (q.mu - p.mu).square() * (-p.logvar).exp()
    return 0.5 * (ratio - 1 - q.logvar + p.logvar).sum(1)


class HierarchicalVAE(nn.Module):
    """See the module.

    Arguments:
        scale: Standard deviation of each feature in the training maps, (F,); features enter networks divided by it.
        n_metadata: Entries d_m of the metadata of the decoder; 0 for none.
        z1_dim, z2_dim: Latent dimensions; z2_dim 0: a flat VAE.
        hidden: Width of the layers.
        skip_dim: Width of the skip; 0 for none.
    """

    scale: Tensor

    def __init__(
        self, scale: Tensor, n_metadata: int, *, z1_dim: int = 24, z2_dim: int = 8, hidden: int = 256, skip_dim: int = 4
    ) -> None:
        super().__init__()
        self.register_buffer("scale", scale.float())
        self.n_metadata, self.z1_dim, self.z2_dim, self.skip_dim = n_metadata, z1_dim, z2_dim, skip_dim
        n_features = len(scale)
        self.first = nn.Sequential(nn.Linear(n_features, hidden), nn.SiLU())
        self.second = nn.Sequential(nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, 2 * z1_dim))
        if z2_dim:
            self.top = nn.Sequential(nn.Linear(z1_dim, hidden // 2), nn.SiLU(), nn.Linear(hidden // 2, 2 * z2_dim))
            self.prior = nn.Sequential(nn.Linear(z2_dim, hidden // 2), nn.SiLU(), nn.Linear(hidden // 2, 2 * z1_dim))
        self.skip = nn.Linear(hidden, skip_dim) if skip_dim else None
        inputs = z1_dim + z2_dim + 2 * n_metadata + (skip_dim + 1 if skip_dim else 0)
        self.linear = nn.Linear(inputs, n_features)
        self.decoder = nn.Sequential(
            nn.Linear(inputs, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, n_features)
        )

    def protect(self, h: Tensor) -> Tensor:
        """Encoder features as the skip reads them: without gradient."""
        return h.detach()

    def hidden(self, x: Tensor) -> Tensor:
        """First layer (B, hidden) of features x (B, F)."""
        return self.first(x / self.scale)

    def posterior(self, h: Tensor) -> Normal:
        """q(z1 | x) from the first layer."""
        return _normal(self.second(h))

    def posterior_top(self, z1: Tensor) -> Normal:
        """q(z2 | z1)."""
        return _normal(self.top(z1))

    def prior_lower(self, z2: Tensor) -> Normal:
        """p(z1 | z2); N(0, I) for a flat VAE."""
        if not self.z2_dim:
            zero = z2.new_zeros(len(z2), self.z1_dim)
            return Normal(zero, zero)
        return _normal(self.prior(z2))

    def decode(
        self, z1: Tensor, z2: Tensor, m: Tensor | None = None, observed: Tensor | None = None,
        h: Tensor | None = None, used: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Features (B, F).

        Arguments:
            m, observed: Metadata (B, d_m) and its mask; None: nothing is known.
            h: First layer of the encoder for the skip; None: no skip.
            used: Rows (B, 1) whose skip is used; None: all.
        """
        parts = [z1, z2]
        if self.n_metadata:
            zero = z1.new_zeros(len(z1), self.n_metadata)
            known = zero if observed is None else observed.to(z1)
            parts += [zero if m is None else m.nan_to_num().to(z1) * known, known]
        if self.skip is not None:
            parts.append(self._read_skip(h, used, z1))
        inputs = torch.cat(parts, dim=1)
        return (self.linear(inputs) + self.decoder(inputs)) * self.scale

    def _read_skip(self, h: Tensor | None, used: Tensor | None, like: Tensor) -> Tensor:
        assert self.skip is not None
        if h is None:
            return like.new_zeros(len(like), self.skip_dim + 1)
        used = like.new_ones(len(like), 1) if used is None else used.to(like)
        return torch.cat([self.skip(self.protect(h)) * used, used], dim=1)

    def means(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior means z1 (B, d1) and z2 (B, d2) of features."""
        z1 = self.posterior(self.hidden(x)).mu
        return z1, self.posterior_top(z1).mu if self.z2_dim else z1[:, :0]


def _normal(values: Tensor) -> Normal:
    mu, logvar = values.chunk(2, dim=1)
    return Normal(mu, logvar.clamp(*LOGVAR))


def objective(
    model: HierarchicalVAE, x: Tensor, m: Tensor | None, observed: Tensor | None, used: Tensor, eps1: Tensor,
    eps2: Tensor,
) -> dict[str, Tensor]:  # fmt: skip
    """Squared error and KL divergences per study, (B,): recon, kl_z1 and kl_z2, both in nats.

    Arguments:
        used: Rows (B, 1) whose skip is used.
        eps1, eps2: Standard normal noise (B, d1) and (B, d2).
    """
    h = model.hidden(x)
    q1 = model.posterior(h)
    z1 = q1.draw(eps1)
    z2, kl_z2 = z1[:, :0], x.new_zeros(len(x))
    if model.z2_dim:
        q2 = model.posterior_top(z1)
        z2, kl_z2 = q2.draw(eps2), kl_per_dimension(*q2).sum(1)
    recon = (model.decode(z1, z2, m, observed, h, used) - x).square().sum(1)
    return {"recon": recon, "kl_z1": kl_between(q1, model.prior_lower(z2)), "kl_z2": kl_z2}


def skip_gradient(model: HierarchicalVAE, x: Tensor) -> float:
    """Largest gradient of the decoder's output with respect to the encoder through the skip alone; 0 if detached."""
    if model.skip is None:
        return 0.0
    with torch.enable_grad():
        h = model.hidden(x.detach())
        z1 = x.new_zeros(len(x), model.z1_dim)
        out = model.decode(z1, x.new_zeros(len(x), model.z2_dim), h=h).square().sum()
        weights = list(model.first.parameters())
        found = torch.autograd.grad(out, weights, allow_unused=True)
    return max((float(one.abs().max()) for one in found if one is not None), default=0.0)


def require_detached(model: HierarchicalVAE, x: Tensor) -> None:
    """Raise ValueError if a gradient reaches the encoder through the skip."""
    if (leak := skip_gradient(model, x)) != 0.0:
        raise ValueError(f"the skip leaks a gradient of {leak:.3g} to the encoder: its input must be detached")


def save_hierarchical(path: Path, model: HierarchicalVAE, settings: Mapping[str, Any], card: Mapping[str, Any]) -> None:
    """Write weights, settings and card; `load_hierarchical` reads them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {"weights": model.state_dict(), "settings": dict(settings), "n_metadata": model.n_metadata}
    save_tensors(state | {"card": dict(card)}, path)


def load_hierarchical(path: Path) -> tuple[HierarchicalVAE, dict[str, Any]]:
    """Model in evaluation mode and card of a checkpoint."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    model = HierarchicalVAE(state["weights"]["scale"], state["n_metadata"], **state["settings"])
    model.load_state_dict(state["weights"])
    return model.eval(), state["card"]
