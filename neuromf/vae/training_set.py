"""Training latents of a run: in memory where they fit, else left in their shards, memory-mapped.

Both are asked alike, for rows of a tensor (N, C, I, J, K), and give the same bits.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from neuromf.vae.shards import open_shards, rows_of_split
from neuromf.vae.statistics import normalise

logger = logging.getLogger(__name__)

CHUNK = 64  # rows normalised at once on their way into memory


class MemoryMappedLatents:
    """Normalised latents whose rows are read from memory-mapped shards when they are asked for.

    Arguments:
        parts: Latents (n, C, I, J, K) of a shard each, and which of their rows are meant.
        stats: Of `latents.normalise`.
    """

    def __init__(self, parts: Sequence[tuple[Tensor, Tensor]], stats: dict) -> None:
        self.shards, self.stats = [latent for latent, _ in parts], stats
        places = [torch.stack([torch.full_like(rows, shard), rows], dim=1) for shard, (_, rows) in enumerate(parts)]
        self.places = torch.cat(places)  # of each row: its shard, and where in it

    def __len__(self) -> int:
        return len(self.places)

    @property
    def shape(self) -> torch.Size:
        return torch.Size([len(self), *self.shards[0].shape[1:]])

    @property
    def dtype(self) -> torch.dtype:
        return self.shards[0].dtype

    @property
    def megabytes(self) -> float:
        return self.shape.numel() * self.dtype.itemsize / 1e6

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        """Rows (n, C, I, J, K), normalised, in memory."""
        found = [self.shards[shard][row] for shard, row in self.places[rows].tolist()]
        return normalise(torch.stack(found), self.stats)

    def resident(self) -> Tensor:
        """All rows in memory."""
        data = torch.empty(self.shape, dtype=self.dtype)
        for first in range(0, len(self), CHUNK):
            data[first : first + CHUNK] = self[first : first + CHUNK]
        return data


def load_training_set(
    paths: Sequence[Path],
    splits: Mapping[str, str],
    stats: dict,
    *,
    copies: bool = True,
    resident_mb: float = float("inf"),
) -> Tensor | MemoryMappedLatents:
    """Normalised latents (N, C, I, J, K) of the training people, then of their copies where wanted.

    Arguments:
        paths: Shards.
        splits: Scans to splits.
        stats: Of `latents.statistics`.
        copies: Whether mirrored and augmented versions are among them.
        resident_mb: More than this stays on disk.
    """
    shards, kinds = open_shards(paths), [("mean", "scans"), ("copies", "copied")][: 1 + copies]
    picked = [(shard[name], rows_of_split(shard[names], splits, "train")) for name, names in kinds for shard in shards]
    stored = MemoryMappedLatents([(latent, rows) for latent, rows in picked if len(rows)], stats)
    if stored.megabytes <= resident_mb:
        return stored.resident()
    logger.info(
        "%d latents, %.0f MB, stay on disk: at most %.0f MB in memory", len(stored), stored.megabytes, resident_mb
    )
    return stored
