"""Evidence lower bound of a VAE with Gaussian posterior, in the reductions sum, mean and nll.

Notation: B batch, N numbers per sample, S_b = sum (x_hat - x)^2 of sample b, KL_b = 1/2 sum_j (exp(lv_j) + mu_j^2 - 1 -
lv_j) in nats.

| reduction | loss |
|---|---|
| sum | sum_b S_b + beta sum_b KL_b |
| mean | sum_b S_b / (B N) + beta mean_b KL_b |
| nll | mean_b [S_b / (2 s^2) + N/2 ln(2 pi s^2) + beta KL_b] / N: nats per number |

One nat of KL costs as much as the error of the whole image under "mean"; the others weigh both as the ELBO does.
Everything is float32 at least, also under autocast.

References:
    Improved variational inference with inverse autoregressive flow (Kingma et al., 2016): free bits
    Understanding disentangling in beta-VAE (Burgess et al., 2018): capacity
"""

import math

import torch
from torch import Tensor

REDUCTIONS = ("sum", "mean", "nll")
FREE_BITS = ("batch_mean", "per_sample")


def full_precision(x: Tensor) -> Tensor:
    """float32 in place of half precision."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def squared_error(x: Tensor, x_hat: Tensor) -> Tensor:
    """S_b: summed squared error of each sample, shape (B,)."""
    return (full_precision(x_hat) - full_precision(x)).square().flatten(1).sum(1)


def kl_per_dimension(mu: Tensor, logvar: Tensor) -> Tensor:
    """KL divergence of N(mu, exp(logvar)) to N(0, 1) in nats, shape (B, d)."""
    mu, logvar = full_precision(mu), full_precision(logvar)
    return 0.5 * (logvar.exp() + mu.square() - 1 - logvar)


def reparameterise(mu: Tensor, logvar: Tensor, eps: Tensor | None = None) -> Tensor:
    """z = mu + eps exp(logvar / 2) with eps ~ N(0, I), shape (B, d)."""
    return mu + (torch.randn_like(mu) if eps is None else eps.to(mu)) * (0.5 * logvar).exp()


def compute_elbo(x: Tensor, x_hat: Tensor, mu: Tensor, logvar: Tensor, beta: float) -> dict[str, Tensor]:
    """Negative ELBO with sums over the batch: exactly the keys loss, recon and kl."""
    recon, kl = squared_error(x, x_hat).sum(), kl_per_dimension(mu, logvar).sum()
    return {"loss": recon + beta * kl, "recon": recon, "kl": kl}


def compute_elbo_ext(x: Tensor, x_hat: Tensor, mu: Tensor, logvar: Tensor, beta: float, **options: object) -> dict:
    """`elbo_terms` of images (B, C, I, J, K): negative ELBO in any reduction, with free bits or capacity."""
    return elbo_terms(squared_error(x, x_hat), mu, logvar, beta, n=x[0].numel(), **options)  # type: ignore[arg-type]


def elbo_terms(
    errors: Tensor,
    mu: Tensor,
    logvar: Tensor,
    beta: float,
    *,
    n: int,
    reduction: str = "sum",
    variance: Tensor | float = 0.5,
    free_bits: float = 0.0,
    free_bits_mode: str = "batch_mean",
    capacity: float | None = None,
    kl_weights: Tensor | None = None,
) -> dict[str, Tensor]:
    """Negative ELBO: loss, recon and kl as the reduction has them; kl_raw and kl_constrained in nats per sample.

    Arguments:
        errors: S_b, shape (B,).
        mu, logvar: Posterior, shape (B, d).
        beta: Weight of the KL divergence.
        n: Numbers per sample N.
        reduction: "sum", "mean" or "nll".
        variance: s^2 of "nll".
        free_bits: Nats per dimension whose KL costs nothing more; an allowance, without gradient below it.
        free_bits_mode: "batch_mean" floors the batch mean of a dimension, "per_sample" that of every sample.
        capacity: C in nats: the KL term becomes |KL - C|; None for none.
        kl_weights: Weight of the KL divergence of each dimension beside beta, shape (d,); None for 1.
    """
    if reduction not in REDUCTIONS:
        raise ValueError(f"loss.reduction must be one of {', '.join(REDUCTIONS)}; got {reduction!r}")
    nats = kl_per_dimension(mu, logvar)
    raw = nats.sum(1).mean()
    constrained = constrained_kl(nats if kl_weights is None else nats * kl_weights, free_bits, free_bits_mode)
    cost = constrained if capacity is None else (constrained - capacity).abs()
    recon, kl, unit = errors.mean() / n, raw, 1.0
    if reduction == "sum":
        recon, kl, unit = errors.sum(), len(errors) * raw, float(len(errors))
    elif reduction == "nll":
        variance = torch.as_tensor(variance, dtype=errors.dtype, device=errors.device)
        recon, unit = recon / (2 * variance) + 0.5 * torch.log(2 * math.pi * variance), 1 / n
    loss = recon + beta * unit * cost
    return {"loss": loss, "recon": recon, "kl": kl, "kl_raw": raw, "kl_constrained": constrained}


def constrained_kl(nats: Tensor, free_bits: float, mode: str = "batch_mean") -> Tensor:
    """KL divergence per sample, in which each dimension counts at least `free_bits` nats.

    Arguments:
        nats: KL per dimension, shape (B, d).
        mode: "batch_mean": sum_j max(mean_b KL_bj, f); "per_sample": mean_b sum_j max(KL_bj, f).
    """
    if mode not in FREE_BITS:
        raise ValueError(f"train.kl_free_bits_mode must be one of {', '.join(FREE_BITS)}; got {mode!r}")
    if free_bits == 0:
        return nats.sum(1).mean()
    if mode == "batch_mean":
        return nats.mean(0).clamp(min=free_bits).sum()
    return nats.clamp(min=free_bits).sum(1).mean()
