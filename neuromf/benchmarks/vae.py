"""What encoding and decoding cost: MAISI's published autoencoder as MONAI documents it, beside ours.

Weights are random and the same everywhere; time and memory do not depend on them. Times are medians over rounds in
which every way has its turn, so that a busy machine slows all of them alike; the first round warms up and gives the
results that errors are taken of. Peaks are the largest resident memory of a process that does nothing else.
"""

import logging
import multiprocessing
import resource
import statistics
import time

import torch
from monai.apps.generation.maisi.networks.autoencoderkl_maisi import AutoencoderKlMaisi
from torch import Tensor, nn

from neuromf.vae.maisi import LATENT_CHANNELS, PUBLISHED, Architecture, MAISIVAEWrapper, evaluate

logger = logging.getLogger(__name__)

WAYS = (("MONAI", "float32"), ("ours", "float32"), ("ours", "bf16"))
TASKS = ("encode", "decode")
SPLITS = 4  # pieces of each convolution, as NV-Generate sets it


class Documented(nn.Module):
    """MONAI's class as it is: its own normalisation, convolutions in pieces; without halves, which a CPU lacks."""

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

    @torch.no_grad()
    def encode(self, volume: Tensor) -> Tensor:
        return self.net.encode(volume)[0]

    @torch.no_grad()
    def decode(self, latent: Tensor) -> Tensor:
        return self.net.decode(latent)


def build(
    name: str, architecture: Architecture = PUBLISHED, *, num_splits: int = SPLITS
) -> Documented | MAISIVAEWrapper:
    """MONAI's autoencoder or ours, with the same random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        documented = Documented(architecture, num_splits=num_splits)
    if name == "MONAI":
        return documented
    ours = MAISIVAEWrapper(architecture)
    ours.net.load_state_dict(documented.net.state_dict())
    return ours


def given(task: str, side: int) -> Tensor:
    """What is encoded, a volume of so many voxels along each axis, or decoded, its latent."""
    g = torch.Generator().manual_seed(1)
    shape = (1, 1, *(side,) * 3) if task == "encode" else (1, LATENT_CHANNELS, *(side // 4,) * 3)
    return torch.rand(shape, generator=g) if task == "encode" else torch.randn(shape, generator=g)


def once(net: Documented | MAISIVAEWrapper, precision: str, task: str, x: Tensor) -> Tensor:
    """The posterior mean, or the volume."""
    return getattr(net, task)(x) if isinstance(net, Documented) else evaluate(net, task, x, precision=precision)[0]


def timed(task: str, *, side: int, rounds: int, num_splits: int) -> list[dict]:
    """One row per way: median seconds and the relative error against MONAI's result (root mean squares)."""
    nets, x = {name: build(name, num_splits=num_splits) for name, _ in WAYS}, given(task, side)
    taken: dict[tuple[str, str], list[float]] = {way: [] for way in WAYS}
    results: dict[tuple[str, str], Tensor] = {}
    for number in range(rounds + 1):
        for way in WAYS:
            start = time.perf_counter()
            out = once(nets[way[0]], way[1], task, x)
            taken[way].append(time.perf_counter() - start)
            results.setdefault(way, out)
            logger.info("%s, round %d of %d: %s %s %.1f s", task, number, rounds, *way, taken[way][-1])
    exact = results[WAYS[0]]
    errors = [float((results[way] - exact).square().mean().sqrt() / exact.square().mean().sqrt()) for way in WAYS]
    medians = [statistics.median(taken[way][1:]) for way in WAYS]
    return [{"seconds": s, "relative_error": error} for s, error in zip(medians, errors, strict=True)]


def peak_mb(way: tuple[str, str], task: str, *, side: int, num_splits: int) -> float:
    """Largest resident memory in MB of a process of its own that does this once, libraries and weights included."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak, (way, task, side, num_splits, torch.get_num_threads()))


def _peak(way: tuple[str, str], task: str, side: int, num_splits: int, threads: int) -> float:
    torch.set_num_threads(threads)
    once(build(way[0], num_splits=num_splits), way[1], task, given(task, side))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def study(*, side: int = 128, rounds: int = 3, num_splits: int = SPLITS) -> list[dict]:
    """Rows of every task and way: seconds, how often faster than MONAI's, peak_mb, relative_error."""
    rows = []
    for task in TASKS:
        times = timed(task, side=side, rounds=rounds, num_splits=num_splits)
        for way, row in zip(WAYS, times, strict=True):
            peak = peak_mb(way, task, side=side, num_splits=num_splits)
            named = {"task": task, "network": way[0], "precision": way[1], "side": side}
            faster = times[0]["seconds"] / row["seconds"]
            rows.append({**named, "seconds": row["seconds"], "times_faster": faster, "peak_mb": peak})
            rows[-1]["relative_error"] = row["relative_error"]
    return rows
