"""Cost of memory-mapped training latents: training steps that read latents from disk, against steps from memory."""

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neuromf.benchmarks.training_step import new_step, noise_latents, seconds
from neuromf.core import hardware
from neuromf.core.files import save_tensors
from neuromf.vae.training_set import MemoryMappedLatents

WAY = ("single_pass", "predicted", 0.5)  # training step of the default study
PER_SHARD = 256


def write_store(folder: Path, n: int, shape: tuple) -> MemoryMappedLatents:
    """At least n latents of noise in shards in a folder, memory-mapped. All shards are equal, to be written quickly."""
    folder.mkdir(parents=True, exist_ok=True)
    noise, shards = noise_latents(PER_SHARD, shape), []
    for shard in range(-(-n // PER_SHARD)):
        path = folder / f"{shard}.pt"
        save_tensors({"mean": noise}, path)
        shards.append((torch.load(path, weights_only=True, mmap=True)["mean"], torch.arange(PER_SHARD)))
    return MemoryMappedLatents(shards, {"mean": [0.0] * shape[0], "std": [1.0] * shape[0]})


def study(folder: Path, *, gigabytes: float, rounds: int = 30, **settings: Any) -> list[dict]:
    """Benchmark steps from memory and from `gigabytes` of latents in a temporary folder inside `folder`.

    `settings` are arguments of `new_step`; the device defaults to the GPU if there is one.

    Returns:
        Rows with latents ("memory" or "disk"), gigabytes, seconds, rate_over_memory, and the name of the device.
    """
    settings = {"device": hardware.default_device(), **settings}
    shape = tuple(settings["shape"])
    size_gb = 4 * torch.Size(shape).numel() / 1e9
    with tempfile.TemporaryDirectory(dir=folder) as store:
        sets: dict[str, Tensor | MemoryMappedLatents] = {
            "memory": noise_latents(PER_SHARD, shape),
            "disk": write_store(Path(store), int(gigabytes / size_gb), shape),
        }
        times = seconds([new_step(WAY, latents=latents, **settings) for latents in sets.values()], rounds)
    return [
        {"latents": name, "gigabytes": len(latents) * size_gb, "seconds": taken, "rate_over_memory": times[0] / taken,
         "device": hardware.device_name()}
        for (name, latents), taken in zip(sets.items(), times, strict=True)
    ]  # fmt: skip
