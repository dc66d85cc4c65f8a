"""Posterior collapse: active units, use of the latent by the decoder, and a verdict with what to read and try next.

A covariance penalty can make every unit "active" while the decoder ignores z, so a verdict needs active units, bypass
ratio and KL divergence together.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

ACTIVE_VARIANCE = 0.01  # of the posterior mean over samples
AU_FRACTION, BYPASS, KL_NATS = 0.08, 0.20, 10.0  # bounds of a healthy latent; 8 % of d is 10 units at d = 128
COLLAPSED_BYPASS, COLLAPSED_KL, COLLAPSED_VARIANCE = 0.05, 2.0, 0.01


def active_units(mu: Tensor) -> int:
    """Number of dimensions whose posterior mean has a population variance above 0.01; mu (N, d)."""
    return int((mu.float().var(0, correction=0) > ACTIVE_VARIANCE).sum())


def posterior_statistics(mu: Tensor, logvar: Tensor) -> dict[str, float]:
    """Active units and moments of the posteriors of N samples, shape (N, d); z_std is the mean posterior s.d."""
    mu, logvar = mu.float(), logvar.float()
    count = active_units(mu)
    return {
        "au_count": count,
        "au_frac": count / mu.shape[1],
        "mu_var_mean": float(mu.var(0, correction=0).mean()),
        "logvar_mean": float(logvar.mean()),
        "z_std": float((0.5 * logvar).exp().mean()),
    }


def bypass_ratio(mse_mu: float, mse_zero: float) -> float:
    """Relative increase of the reconstruction error if z = 0 is decoded in place of the posterior mean."""
    return (mse_zero - mse_mu) / max(mse_mu, torch.finfo(torch.float32).tiny)


class Verdict(NamedTuple):
    """State "healthy", "suspect" or "collapsed"; rows below their bound; what they mean; what to try next."""

    state: str
    failing: tuple[str, ...]
    reading: tuple[str, ...]
    recipe: str

    def columns(self) -> dict[str, str]:
        """Columns of a table."""
        return {"verdict": self.state, "failing": " ".join(self.failing), "reading": "; ".join(self.reading),
                "next": self.recipe}  # fmt: skip


def verdict(row: Mapping[str, float], z_dim: int, floor: float = 0.0) -> Verdict:
    """Verdict on a latent space.

    Arguments:
        row: au_count, kl_raw (nats), bypass_ratio and mu_var_mean.
        z_dim: Latent dimensions d.
        floor: Nats that free bits allow, f d.
    """
    bounds = {"au_count": AU_FRACTION * z_dim, "kl_raw": max(KL_NATS, floor), "bypass_ratio": BYPASS}
    failing = tuple(name for name, bound in bounds.items() if not _reaches(name, row[name], bound))
    collapsed = row["bypass_ratio"] < COLLAPSED_BYPASS or row["kl_raw"] < COLLAPSED_KL or row["au_count"] == 0
    state = "collapsed" if collapsed else "suspect" if failing else "healthy"
    return Verdict(state, failing, tuple(_readings(row, floor)), _recipe(state, floor))


def _reaches(name: str, value: float, bound: float) -> bool:
    """Active units and KL must exceed their bound, the bypass ratio must reach it; NaN does not."""
    return value >= bound if name == "bypass_ratio" else value > bound


def _readings(row: Mapping[str, float], floor: float) -> list[str]:
    """What failing rows mean."""
    rules = {
        "the decoder ignores z: decoding 0 gives the same error": row["bypass_ratio"] < COLLAPSED_BYPASS,
        "the encoder gives near-constant means": row["mu_var_mean"] < COLLAPSED_VARIANCE,
        "the encoder has collapsed to the prior: KL below the free-bits floor": row["kl_raw"] < floor,
    }
    return [text for text, holds in rules.items() if holds]


def _recipe(state: str, floor: float) -> str:
    """What to try next (presets in studies/growth)."""
    if state == "healthy":
        return "exp2_recipe2_sbd: the broadcast decoder"
    if state == "suspect":
        return "exp2_recipe4_offdiag, or a longer training"
    if not floor:
        return "loss.reduction sum or nll (exp1_recommended), or exp2_dipvae_sbd with free bits"
    return "exp2_recipe3_free_bits, or loss.reduction nll (exp2_recommended)"
