"""Cost of encoding and decoding: MAISI's published autoencoder in MONAI's class, and in ours.

Both have the same random weights; time and memory do not depend on them. Times are medians over rounds in which the
variants take turns, so that other load on the machine affects all alike. The first round is a warm-up and gives the
results from which errors are computed. A peak is the largest resident memory of a fresh process that does one call.
"""

import logging
import multiprocessing
import statistics
import time
from pathlib import Path

import pandas as pd
import torch
from monai.apps.generation.maisi.networks.autoencoderkl_maisi import AutoencoderKlMaisi
from torch import Tensor, nn

from neuromf.core import hardware
from neuromf.vae.maisi import (
    DOWNSAMPLING,
    LATENT_CHANNELS,
    PUBLISHED,
    Architecture,
    MAISIVAEWrapper,
    decode_safely,
    encode_safely,
)

logger = logging.getLogger(__name__)

VARIANTS = (("MONAI", "float32"), ("ours", "float32"), ("ours", "bf16"))  # network and precision
TASKS = ("encode", "decode")
SPLITS = 4  # pieces of each convolution, as in NV-Generate


def benchmark(*, out: Path, side: int = 128, rounds: int = 3, num_splits: int = SPLITS) -> None:
    """Write a table with seconds, speed-up over MONAI, peak memory and relative error per task and variant.

    Arguments:
        out: CSV file to write.
        side: Voxels of a volume along each axis.
        rounds: Timed rounds.
        num_splits: Pieces in which MONAI's network computes each convolution.
    """
    rows = []
    for task in TASKS:
        times = measure_times(task, side=side, rounds=rounds, num_splits=num_splits)
        for variant, (seconds, error) in zip(VARIANTS, times, strict=True):
            row = {"task": task, "network": variant[0], "precision": variant[1], "side": side, "seconds": seconds}
            peak = peak_mb(variant, task, side=side, num_splits=num_splits)
            rows.append({**row, "times_faster": times[0][0] / seconds, "peak_mb": peak, "relative_error": error})
    device = f"cpu, {torch.get_num_threads()} threads"
    pd.DataFrame(rows).assign(device=device).to_csv(out, index=False, float_format="%.4g")


class MonaiAutoencoder(nn.Module):
    """MONAI's class as documented: MONAI's group normalisation and split convolutions, in float32 (CPU)."""

    def __init__(self, architecture: Architecture = PUBLISHED, *, num_splits: int = SPLITS) -> None:
        super().__init__()
        levels = len(architecture.widths)
        self.net = AutoencoderKlMaisi(
            spatial_dims=3,
            in_channels=architecture.patch**3,
            out_channels=architecture.patch**3,
            latent_channels=LATENT_CHANNELS,
            num_channels=architecture.widths,
            num_res_blocks=(architecture.res_blocks,) * levels,
            norm_num_groups=architecture.norm_groups,
            norm_eps=1e-6,
            attention_levels=(False,) * levels,
            with_encoder_nonlocal_attn=False,
            with_decoder_nonlocal_attn=False,
            norm_float16=False,
            num_splits=num_splits,
            dim_split=1,
        ).eval()


def build(
    network: str, architecture: Architecture = PUBLISHED, *, num_splits: int = SPLITS
) -> MonaiAutoencoder | MAISIVAEWrapper:
    """The network "MONAI" or "ours", with the same random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        monai = MonaiAutoencoder(architecture, num_splits=num_splits)
    if network == "MONAI":
        return monai
    ours = MAISIVAEWrapper(architecture)
    ours.net.load_state_dict(monai.net.state_dict())
    return ours


def random_input(task: str, side: int) -> Tensor:
    """Volume (1, 1, side, side, side) to encode, or a latent of such a volume to decode."""
    g = torch.Generator().manual_seed(1)
    if task == "encode":
        return torch.rand((1, 1, side, side, side), generator=g)
    return torch.randn((1, LATENT_CHANNELS, *(side // DOWNSAMPLING,) * 3), generator=g)


def call(net: MonaiAutoencoder | MAISIVAEWrapper, precision: str, task: str, x: Tensor) -> Tensor:
    """Posterior mean of a volume, or the volume of a latent."""
    if isinstance(net, MAISIVAEWrapper):
        encoding = task == "encode"
        return encode_safely(net, x, precision=precision)[0] if encoding else decode_safely(net, x, precision=precision)
    with torch.no_grad():
        return net.net.encode(x)[0] if task == "encode" else net.net.decode(x)


def measure_times(task: str, *, side: int, rounds: int, num_splits: int) -> list[tuple[float, float]]:
    """Median seconds and error relative to MONAI's result (root mean squares), per variant."""
    nets = {network: build(network, num_splits=num_splits) for network, _ in VARIANTS}
    x = random_input(task, side)
    seconds: dict[tuple[str, str], list[float]] = {variant: [] for variant in VARIANTS}
    results: dict[tuple[str, str], Tensor] = {}
    for number in range(rounds + 1):
        for variant in VARIANTS:
            start = time.perf_counter()
            result = call(nets[variant[0]], variant[1], task, x)
            seconds[variant].append(time.perf_counter() - start)
            results.setdefault(variant, result)
            logger.info("%s, round %d of %d: %s %s %.1f s", task, number, rounds, *variant, seconds[variant][-1])
    exact = results[VARIANTS[0]]
    errors = [float((results[v] - exact).square().mean().sqrt() / exact.square().mean().sqrt()) for v in VARIANTS]
    return [(statistics.median(seconds[v][1:]), error) for v, error in zip(VARIANTS, errors, strict=True)]


def peak_mb(variant: tuple[str, str], task: str, *, side: int, num_splits: int) -> float:
    """Largest resident memory in MB of a fresh process that does one call, libraries and weights included."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak, (variant, task, side, num_splits, torch.get_num_threads()))


def _peak(variant: tuple[str, str], task: str, side: int, num_splits: int, n_threads: int) -> float:
    torch.set_num_threads(n_threads)
    call(build(variant[0], num_splits=num_splits), variant[1], task, random_input(task, side))
    return hardware.peak_mb("cpu")
