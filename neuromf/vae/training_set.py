"""Normalised training latents of a run: in memory if they fit, else memory-mapped. Both give the same bits."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from neuromf.vae.shards import ROW_NAMES, open_shards, rows_of_split
from neuromf.vae.statistics import normalise

logger = logging.getLogger(__name__)

CHUNK = 64  # rows normalised at once when all are read into memory


class MemoryMappedLatents:
    """Normalised latents (N, C, I, J, K) whose rows are read from memory-mapped tensors on access.

    Arguments:
        parts: Pairs of a tensor (n, C, I, J, K) and the indices of its rows to use.
        stats: Channel statistics, see `statistics.normalise`.
    """

    def __init__(self, parts: Sequence[tuple[Tensor, Tensor]], stats: dict) -> None:
        self.tensors, self.stats = [latent for latent, _ in parts], stats
        index = [torch.stack([torch.full_like(rows, part), rows], dim=1) for part, (_, rows) in enumerate(parts)]
        self.index = torch.cat(index)  # (N, 2): tensor and row in it

    def __len__(self) -> int:
        return len(self.index)

    @property
    def shape(self) -> torch.Size:
        return torch.Size([len(self), *self.tensors[0].shape[1:]])

    @property
    def dtype(self) -> torch.dtype:
        return self.tensors[0].dtype

    @property
    def megabytes(self) -> float:
        return self.shape.numel() * self.dtype.itemsize / 1e6

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        """Normalised rows (n, C, I, J, K) in memory."""
        return normalise(torch.stack([self.tensors[part][row] for part, row in self.index[rows].tolist()]), self.stats)

    def in_memory(self) -> Tensor:
        """All normalised rows (N, C, I, J, K) in memory."""
        data = torch.empty(self.shape, dtype=self.dtype)
        for first in range(0, len(self), CHUNK):
            data[first : first + CHUNK] = self[first : first + CHUNK]
        return data


def load_training_set(
    paths: Sequence[Path],
    splits: Mapping[str, str],
    stats: dict,
    *,
    use_augmented: bool = True,
    resident_mb: float = float("inf"),
) -> Tensor | MemoryMappedLatents:
    """Normalised latents (N, C, I, J, K) of the training scans, followed by their augmented versions.

    Arguments:
        paths: Shards.
        splits: Split of each scan.
        stats: Channel statistics, see `statistics.statistics`.
        use_augmented: Append mirrored and augmented versions.
        resident_mb: Largest size in memory; larger sets are memory-mapped.
    """
    shards = open_shards(paths)
    parts = [
        (shard[key], rows_of_split(shard[ROW_NAMES[key]], splits, "train"))
        for key in (["mean", "augmented"] if use_augmented else ["mean"])
        for shard in shards
    ]
    latents = MemoryMappedLatents([(latent, rows) for latent, rows in parts if len(rows)], stats)
    if latents.megabytes <= resident_mb:
        return latents.in_memory()
    size = len(latents), latents.megabytes, resident_mb
    logger.info("%d latents (%.0f MB) are memory-mapped: more than %.0f MB", *size)
    return latents
