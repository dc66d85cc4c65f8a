"""What it costs to leave training latents on disk: steps that read them from there, beside steps from memory."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neuromf.benchmarks.training_step import new_step, noise_latents, seconds
from neuromf.core.files import save_tensors
from neuromf.vae.training_set import MemoryMappedLatents

WAY = ("joint", "predicted", 0.5)  # the training step of the default study
PER_SHARD = 256


def write_store(folder: Path, n: int, shape: tuple) -> MemoryMappedLatents:
    """n latents of noise in shards of a folder, memory-mapped again; those of a shard are alike, to be written fast."""
    folder.mkdir(parents=True, exist_ok=True)
    part, parts = noise_latents(PER_SHARD, shape), []
    for shard in range(-(-n // PER_SHARD)):
        path = folder / f"{shard}.pt"
        save_tensors({"mean": part}, path)
        parts.append((torch.load(path, weights_only=True, mmap=True)["mean"], torch.arange(PER_SHARD)))
    return MemoryMappedLatents(parts, {"mean": [0.0] * shape[0], "std": [1.0] * shape[0]})


def study(folder: Path, *, gigabytes: float, rounds: int = 30, **settings: Any) -> list[dict]:
    """Rows of both: where latents lie, how many GB there are, seconds of a step, its rate over that from memory."""
    shape = tuple(settings["shape"])
    n = int(gigabytes * 1e9 / (4 * torch.Size(shape).numel()))
    places: dict[str, Tensor | MemoryMappedLatents] = {
        "memory": noise_latents(PER_SHARD, shape),
        "disk": write_store(folder, n, shape),
    }
    times = seconds([new_step(WAY, latents=latents, **settings) for latents in places.values()], rounds)
    sizes = [len(latents) * 4 * torch.Size(shape).numel() / 1e9 for latents in places.values()]
    return [
        {"latents": name, "gigabytes": size, "seconds": taken, "rate_over_memory": times[0] / taken}
        for name, size, taken in zip(places, sizes, times, strict=True)
    ]
