"""DIP-VAE: penalties on the covariance of the aggregate posterior, with estimators for small batches.

Cov = Cov_b(mu) + diag(mean_b exp(lv)) (II), or Cov_b(mu) alone (I). The penalties are od = sum_{i != j} Cov_ij^2 and
d = sum_i (Cov_ii - 1)^2.
DIP-II is 0 if q(z|x) = N(0, I) for every x, that is at full collapse; DIP-I is d there.

Reference:
    Variational inference of disentangled latent concepts from unlabeled observations (Kumar et al., 2018)
"""

from contextlib import nullcontext

import torch
from torch import Tensor, nn

from neuromf.vae.elbo import full_precision

ESTIMATORS = ("batch", "bank", "ustat")


def covariance(mu: Tensor, logvar: Tensor, kind: str = "II") -> Tensor:
    """Covariance (d, d) of the aggregate posterior of B samples; unbiased (B - 1) for the means."""
    if kind not in ("I", "II"):
        raise ValueError(f"loss.dip must be I or II; got {kind!r}")
    centred = mu - mu.mean(0)
    cov = centred.T @ centred / (len(mu) - 1)
    return cov + torch.diag(logvar.exp().mean(0)) if kind == "II" else cov


def dip_penalties(mu: Tensor, logvar: Tensor, kind: str = "II", *, fp32: bool = True) -> tuple[Tensor, Tensor]:
    """(od, d): squared off-diagonal covariances, and squared distances of variances to 1, of B >= 2 samples.

    Arguments:
        mu, logvar: Posterior, shape (B, d).
        fp32: Compute in float32 at least, also under autocast.
    """
    with torch.autocast(mu.device.type, enabled=False) if fp32 else nullcontext():
        mu, logvar = (full_precision(mu), full_precision(logvar)) if fp32 else (mu, logvar)
        cov = covariance(mu, logvar, kind)
        diagonal = cov.diagonal()
        return cov.square().sum() - diagonal.square().sum(), (diagonal - 1).square().sum()


def unbiased_penalties(mu: Tensor, logvar: Tensor, kind: str = "II") -> tuple[Tensor, Tensor]:
    """(od, d) with unbiased estimates of every Cov_ij(mu)^2, which may be negative; B >= 4 samples.

    Cov_ij^2 is the U-statistic sum_{k != l} A^i_kl A^j_kl / (B (B - 3)) of U-centred matrices of products x_ki x_li.
    The mean of exp(logvar) in the diagonal is taken as known.

    Reference:
        Partial distance correlation (Székely & Rizzo, 2014), section 2: U-centring
    """
    n = len(mu)
    if n < 4:
        raise ValueError(f"loss.dip_estimator ustat needs 4 samples per batch; got {n}")
    mu, logvar = full_precision(mu), full_precision(logvar)
    squares = torch.stack([u_centred(column[:, None] * column).square().sum() for column in mu.T]) / (n * (n - 3))
    every = u_centred(mu @ mu.T).square().sum() / (n * (n - 3))
    variance = mu.var(0)
    other = logvar.exp().mean(0) - 1 if kind == "II" else torch.full_like(variance, -1.0)
    return every - squares.sum(), (squares + 2 * variance * other + other.square()).sum()


def u_centred(products: Tensor) -> Tensor:
    """U-centred matrix of inner products, shape (n, n): rows sum to 0 without the diagonal, which is 0."""
    n = len(products)
    off = products - torch.diag(products.diagonal())
    row = off.sum(1) / (n - 2)
    centred = off - row[:, None] - row[None] + off.sum() / ((n - 1) * (n - 2))
    return centred - torch.diag(centred.diagonal())


class PosteriorBank(nn.Module):
    """The last M posteriors, detached: `extend` returns the current batch, with gradient, and the stored ones.

    Arguments:
        z_dim: Latent dimensions d.
        size: Stored samples M.
    """

    stored: Tensor
    n_stored: Tensor

    def __init__(self, z_dim: int, size: int = 512) -> None:
        super().__init__()
        self.register_buffer("stored", torch.zeros(size, 2 * z_dim))
        self.register_buffer("n_stored", torch.zeros((), dtype=torch.long))

    def extend(self, mu: Tensor, logvar: Tensor) -> tuple[Tensor, Tensor]:
        """mu and logvar of the batch and of the stored samples, shape (B + stored, d)."""
        old = self.stored[: int(self.n_stored)].to(mu)
        return torch.cat([mu, old[:, : mu.shape[1]]]), torch.cat([logvar, old[:, mu.shape[1] :]])

    @torch.no_grad()
    def push(self, mu: Tensor, logvar: Tensor) -> None:
        """Store a batch; the oldest samples leave."""
        new = torch.cat([mu, logvar], dim=1).to(self.stored)
        self.stored.copy_(torch.cat([new, self.stored])[: len(self.stored)])
        self.n_stored.fill_(min(len(self.stored), int(self.n_stored) + len(new)))
