"""Reconstruction quality of an autoencoder, inside and outside the foreground, and its posterior.

Volumes have shape (N, 1, I, J, K), values in [0, 1]; latents have shape (N, C, i, j, k). The autoencoder is given as
two functions: `encode` returns posterior mean and standard deviation of a volume (1, 1, I, J, K), `decode` a volume.
A value is None if it is undefined: no such voxels, no error at all, or sides too short.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from neuromf.metrics.images.similarity import MS_SIDE, WINDOW, ms_ssim, windows
from neuromf.metrics.images.spectral import high_frequency_ratio

Encode = Callable[[Tensor], tuple[Tensor, Tensor]]
Decode = Callable[[Tensor], Tensor]


@torch.no_grad()
def validate(encode: Encode, decode: Decode, volumes: Tensor, inside: NDArray) -> dict:
    """Reconstruction quality of volumes, and posterior standard deviation of their latents.

    Arguments:
        encode: Function of a volume.
        decode: Function of a latent.
        volumes: Test volumes, shape (N, 1, I, J, K).
        inside: Foreground masks, shape (N, I, J, K), bool.

    Returns:
        n; ssim, psnr (dB) and mae (mean absolute error) of the whole volume, with suffixes _inside and _outside for the
        foreground and the background (SSIM: windows whose centre lies there); ssim_each and psnr_each; ms_ssim;
        high_frequency, the fraction of power above half of Nyquist over that of the original; sigma_inside and
        sigma_outside, posterior standard deviation per channel over latent_std; latent_std, standard deviation of each
        channel over these volumes. All but the lists of each are means over volumes.
    """
    rows, latents = [], []
    for volume, foreground in zip(volumes.float().split(1), inside, strict=True):
        mean, std = encode(volume)
        decoded = decode(mean).clamp(0, 1)
        rows.append({**fidelity(volume[0, 0].numpy(), decoded[0, 0].numpy(), foreground), **_sigma(std, foreground)})
        latents.append(mean)
    return _summary(rows, torch.cat(latents))


def _summary(rows: list[dict], latents: Tensor) -> dict:
    latent_std = latents.double().transpose(0, 1).flatten(1).std(1, correction=0)
    report: dict[str, Any] = {
        name: _mean([row[name] for row in rows]) for name in rows[0] if not name.startswith("sigma")
    }
    for name in ("sigma_inside", "sigma_outside"):
        channels = zip(*(row[name] for row in rows), strict=True)
        report[name] = [_mean(values, float(s)) for values, s in zip(channels, latent_std, strict=True)]
    each = {f"{name}_each": [row[name] for row in rows] for name in ("ssim", "psnr")}
    return {"n": len(rows), **report, "latent_std": latent_std.tolist(), **each}


def _mean(values: Iterable[float | None], over: float = 1.0) -> float | None:
    """Mean divided by `over`; None if a value is missing or not finite, because JSON has no NaN."""
    numbers = [math.nan if value is None else value for value in values]
    mean = sum(numbers) / len(numbers) / over if over else math.nan
    return mean if math.isfinite(mean) else None


def fidelity(volume: NDArray, decoded: NDArray, foreground: NDArray) -> dict[str, float | None]:
    """Similarity of one volume (I, J, K) and its reconstruction: whole, inside and outside the foreground."""
    similarity, centres = ssim_map(volume, decoded), tuple(slice(WINDOW // 2, n - WINDOW // 2) for n in volume.shape)
    pair, everywhere = (volume[None], decoded[None]), np.ones_like(foreground)
    row = {"ms_ssim": float(ms_ssim(*pair)[0]) if min(volume.shape) >= MS_SIDE else None}
    for suffix, where in (("", everywhere), ("_inside", foreground), ("_outside", ~foreground)):
        error = np.abs(volume[where].astype(np.float64) - decoded[where])
        row[f"ssim{suffix}"] = float(similarity[where[centres]].mean()) if where[centres].any() else None
        row[f"psnr{suffix}"] = float(-10 * np.log10(np.mean(error**2))) if error.any() else None
        row[f"mae{suffix}"] = float(error.mean()) if error.size else None
    before, after = (float(high_frequency_ratio(x, 1.0)[0]) for x in pair)
    return row | {"high_frequency": after / before if before else None}


def ssim_map(a: NDArray, b: NDArray) -> NDArray:
    """SSIM of each window of 11 voxels inside two volumes (I, J, K); its mean is `similarity.ssim`."""
    x, y = (torch.as_tensor(np.ascontiguousarray(v), dtype=torch.float32)[None, None] for v in (a, b))
    return windows(x, y, WINDOW)[0][0, 0].double().numpy()


def _sigma(std: Tensor, foreground: NDArray) -> dict[str, list[float | None]]:
    """Mean posterior standard deviation per channel, weighted by the fraction of foreground and of background."""
    factor = [n // m for n, m in zip(foreground.shape, std.shape[2:], strict=True)]
    fraction = F.avg_pool3d(torch.from_numpy(foreground).double()[None, None], factor)
    weights = {"sigma_inside": fraction, "sigma_outside": 1 - fraction}
    return {
        name: [float((s * w[0, 0]).sum() / w.sum()) if w.any() else None for s in std[0].double()]
        for name, w in weights.items()
    }
