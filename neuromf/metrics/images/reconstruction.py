"""What the autoencoder keeps of a head: the round trip of volumes, inside the head and outside, and its posterior.

Volumes have shape (N, 1, I, J, K), intensities in [0, 1]; latents (N, C, i, j, k). The autoencoder comes as two
functions: `encode` gives posterior mean and standard deviation of a volume (1, 1, I, J, K), `decode` a volume.
A value is None where nothing can be said: no such voxels, no error at all, sides too short.

LPIPS is the AlexNet one, computed here from the published weights, since the package that carries it needs
torchvision. The weights are a file of `torch.save(lpips.LPIPS(net="alex").state_dict(), path)`, made anywhere.

References:
    The Unreasonable Effectiveness of Deep Features as a Perceptual Metric (Zhang et al., 2018), arXiv:1801.03924
"""

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from neuromf.metrics.images.similarity import MS_SIDE, WINDOW, ms_ssim, psnr, windows
from neuromf.metrics.images.spectral import high_frequency_ratio

Encode = Callable[[Tensor], tuple[Tensor, Tensor]]
Decode = Callable[[Tensor], Tensor]

LPIPS_SIDE = 31  # voxels; AlexNet pools shorter slices away
LPIPS_LAYERS = (  # place in torchvision's AlexNet, stride, padding and whether it pools before
    ("slice1.0", 4, 2, False),
    ("slice2.3", 1, 2, True),
    ("slice3.6", 1, 1, True),
    ("slice4.8", 1, 1, False),
    ("slice5.10", 1, 1, False),
)


@torch.no_grad()
def validate(
    encode: Encode, decode: Decode, volumes: Tensor, inside: NDArray, *, lpips: str | Path | None = None
) -> dict:
    """How volumes come back from the autoencoder, and how sure it is of their latents.

    Arguments:
        volumes: Held-out volumes with shape (N, 1, I, J, K).
        inside: Where the head is, with shape (N, I, J, K), bool.
        lpips: File of the weights of LPIPS, see the module; without it, that number is None, and `lpips_skipped`
            says why.

    Returns:
        n; ssim, psnr (dB) and mae (mean absolute error) of the whole volume, also with _inside and _outside of the head
        (SSIM: of windows with their middle there); ssim_each and psnr_each; ms_ssim; high_frequency, the share of power
        above half of Nyquist over that of the original; sigma_inside and sigma_outside, per channel over latent_std,
        the channel's standard deviation over these volumes; lpips. All but the lists of each are means over volumes.
    """
    weights, skipped = _lpips_weights(lpips, volumes.shape[2:])
    rows, latents = [], []
    for volume, head in zip(volumes.float().split(1), inside, strict=True):
        mean, std = encode(volume)
        decoded = decode(mean).clamp(0, 1)
        rows.append({**fidelity(volume[0, 0].numpy(), decoded[0, 0].numpy(), head), **_sigma(std, head)})
        rows[-1]["lpips"] = lpips_distance(weights, volume, decoded, head) if weights else None
        latents.append(mean)
    return _summary(rows, torch.cat(latents)) | {"lpips_skipped": skipped}


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
    """Mean over a number, None where any value is missing or not finite: no JSON can hold it."""
    known = [math.nan if value is None else value for value in values]
    mean = sum(known) / len(known) / over if over else math.nan
    return mean if math.isfinite(mean) else None


def fidelity(volume: NDArray, decoded: NDArray, head: NDArray) -> dict[str, float | None]:
    """Similarity of one volume (I, J, K) and what became of it, whole, inside the head and outside."""
    windows, middles = ssim_map(volume, decoded), tuple(slice(WINDOW // 2, n - WINDOW // 2) for n in volume.shape)
    pair, everywhere = (volume[None], decoded[None]), np.ones_like(head)
    row = {"ms_ssim": float(ms_ssim(*pair)[0]) if min(volume.shape) >= MS_SIDE else None}
    for suffix, where in (("", everywhere), ("_inside", head), ("_outside", ~head)):
        error = np.abs(volume[where].astype(np.float64) - decoded[where])
        row[f"ssim{suffix}"] = float(windows[where[middles]].mean()) if where[middles].any() else None
        row[f"psnr{suffix}"] = float(-10 * np.log10(np.mean(error**2))) if error.any() else None
        row[f"mae{suffix}"] = float(error.mean()) if error.size else None
    shares = [float(high_frequency_ratio(x, 1.0)[0]) for x in pair]
    return row | {"high_frequency": shares[1] / shares[0] if shares[0] else None}


def ssim_map(a: NDArray, b: NDArray) -> NDArray:
    """SSIM of each window of 11 voxels that lies inside two volumes (I, J, K); its mean is `similarity.ssim`."""
    x, y = (torch.as_tensor(np.ascontiguousarray(v), dtype=torch.float32)[None, None] for v in (a, b))
    return windows(x, y, WINDOW)[0][0, 0].double().numpy()


def _sigma(std: Tensor, head: NDArray) -> dict[str, list[float | None]]:
    """Mean posterior standard deviation per channel, each position weighted by how much of it is head, or is not."""
    factor = [n // m for n, m in zip(head.shape, std.shape[2:], strict=True)]
    share = F.avg_pool3d(torch.from_numpy(head).double()[None, None], factor)
    weights = {"sigma_inside": share, "sigma_outside": 1 - share}
    return {
        name: [float((s * w[0, 0]).sum() / w.sum()) if w.any() else None for s in std[0].double()]
        for name, w in weights.items()
    }


@torch.no_grad()
def flip_error(encode: Encode, decode: Decode, volumes: Tensor, std: list[float]) -> dict[str, float]:
    """What it would cost to flip latents, left and right, in place of encoding flipped volumes (N, 1, I, J, K).

    Arguments:
        std: Standard deviation of each latent channel over the training people.

    Returns:
        flip_error, the root mean square difference between flipped latents and latents of flipped volumes, in those
        standard deviations; psnr_of_flipped_volumes and psnr_of_flipped_latents, the mean PSNR (dB) of what both
        decode to against the flipped volumes.
    """
    errors, scores = [], []
    spread = torch.tensor(std).view(1, -1, 1, 1, 1)
    for volume in volumes.float().split(1):
        flipped, wrong = encode(volume.flip(2))[0], encode(volume)[0].flip(2)
        errors.append(float(((flipped - wrong) / spread).square().mean()))
        truth = volume.flip(2)[0].numpy()
        scores.append([psnr(truth, decode(z)[0].clamp(0, 1).numpy())[0] for z in (flipped, wrong)])
    right, cheap = np.mean(scores, axis=0)
    return {
        "flip_error": float(np.sqrt(np.mean(errors))),
        "psnr_of_flipped_volumes": float(right),
        "psnr_of_flipped_latents": float(cheap),
    }


# --- LPIPS -------------------------------------------------------------------------------------------


def _lpips_weights(path: str | Path | None, shape: tuple[int, ...]) -> tuple[dict[str, Tensor] | None, str | None]:
    """The weights of LPIPS, or None and the reason."""
    if path is None:
        return None, "vae.lpips names no weights"
    if min(shape) < LPIPS_SIDE:
        return None, f"sides of at least {LPIPS_SIDE} voxels are needed; volumes have {tuple(shape)}"
    return read_lpips(Path(path)), None


def read_lpips(path: Path) -> dict[str, Tensor]:
    """Weights of LPIPS with AlexNet by name, each checked to be there.

    Raises:
        ValueError: If it is another file; FileNotFoundError if there is none. Both say how it is made.
    """
    recipe = 'make it where torchvision is, with torch.save(lpips.LPIPS(net="alex").state_dict(), path)'
    if not path.is_file():
        raise FileNotFoundError(f"no weights of LPIPS at {path} (config key vae.lpips); {recipe}, or set it to null")
    state = torch.load(path, map_location="cpu", weights_only=True)
    names = [f"net.{name}.{part}" for name, *_ in LPIPS_LAYERS for part in ("weight", "bias")]
    names += [f"lin{k}.model.1.weight" for k in range(len(LPIPS_LAYERS))]
    names += ["scaling_layer.shift", "scaling_layer.scale"]
    if missing := [name for name in names if name not in state]:
        raise ValueError(f"{path} is not LPIPS with AlexNet: {len(missing)} tensors missing, as {missing[0]}; {recipe}")
    return {name: state[name].float() for name in names}


def lpips_distance(weights: dict[str, Tensor], a: Tensor, b: Tensor, head: NDArray) -> float:
    """Mean perceptual distance of two volumes (1, 1, I, J, K) over slices along all three axes that hold head."""
    distances = []
    for axis in range(3):
        held = np.flatnonzero(head.any(axis=tuple({0, 1, 2} - {axis})))
        slices = (x[0, 0].movedim(axis, 0)[held, None] for x in (a, b))
        distances.append(lpips_images(weights, *(s.expand(-1, 3, -1, -1) for s in slices)))
    return float(torch.cat(distances).mean())


@torch.no_grad()
def lpips_images(weights: dict[str, Tensor], a: Tensor, b: Tensor) -> Tensor:
    """Perceptual distance of images (B, 3, H, W) in [0, 1], pair by pair: (B,)."""
    total = a.new_zeros(len(a))
    for k, (x, y) in enumerate(zip(_alexnet(weights, a), _alexnet(weights, b), strict=True)):
        unit = [f / (f.square().sum(1, keepdim=True).sqrt() + 1e-10) for f in (x, y)]
        total = total + F.conv2d((unit[0] - unit[1]).square(), weights[f"lin{k}.model.1.weight"]).mean((1, 2, 3))
    return total


def _alexnet(weights: dict[str, Tensor], image: Tensor) -> Iterable[Tensor]:
    """Features of AlexNet after each of its five convolutions."""
    x = (2 * image - 1 - weights["scaling_layer.shift"]) / weights["scaling_layer.scale"]
    for name, stride, padding, pools in LPIPS_LAYERS:
        x = F.max_pool2d(x, 3, 2) if pools else x
        x = F.relu(F.conv2d(x, weights[f"net.{name}.weight"], weights[f"net.{name}.bias"], stride, padding))
        yield x
