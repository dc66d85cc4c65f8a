"""Latent shards on disk: opened memory-mapped, joined, and selected by split."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

# tensors of a shard and the names of the scans in their rows, see `vae.latents`
ROW_NAMES = {"mean": "scans", "std": "scans", "augmented": "augmented_scans"}
KEYS = {*ROW_NAMES, *ROW_NAMES.values()}


def open_shards(paths: Sequence[Path]) -> list[dict]:
    """Memory-mapped dicts of the shards that hold at least one scan."""
    shards = [torch.load(path, weights_only=True, mmap=True) for path in paths]
    for path, shard in zip(paths, shards, strict=True):
        if shard.keys() != KEYS:
            raise ValueError(
                f"{path} holds {', '.join(sorted(shard))}, expected {', '.join(sorted(KEYS))}: another version of "
                "neuromf wrote it; encode again"
            )
    if not any(shard["scans"] for shard in shards):
        raise ValueError(f"none of {len(shards)} shards holds a scan: all are quarantined, see the reasons in qc.tsv")
    return [shard for shard in shards if shard["scans"]]


def load_split(paths: Sequence[Path], splits: Mapping[str, str], split: str) -> dict:
    """Scans of one split from all shards as one dict; the other scans are not read."""
    shards = [select_split(shard, splits, split) for shard in open_shards(paths)]
    names = {key: [scan for shard in shards for scan in shard[key]] for key in ROW_NAMES.values()}
    return names | {key: torch.cat([shard[key] for shard in shards]) for key in ROW_NAMES}


def select_split(shard: dict, splits: Mapping[str, str], split: str) -> dict:
    """Rows of a shard whose scans belong to a split; `splits` maps scans to splits."""
    rows = {names: rows_of_split(shard[names], splits, split) for names in ROW_NAMES.values()}
    selected = {names: [shard[names][i] for i in rows[names]] for names in rows}
    return selected | {key: shard[key][rows[names]] for key, names in ROW_NAMES.items()}


def rows_of_split(scans: Sequence[str], splits: Mapping[str, str], split: str) -> Tensor:
    """Indices (n,) of the scans that belong to a split."""
    return torch.tensor([i for i, scan in enumerate(scans) if splits[scan] == split], dtype=torch.long)


def check_shards(paths: Sequence[Path]) -> dict:
    """Number of scans (`encoded`) and augmented versions, latent shapes, and whether all values are finite."""
    shards = open_shards(paths)
    return {
        "encoded": sum(len(shard["scans"]) for shard in shards),
        "augmented": sum(len(shard["augmented_scans"]) for shard in shards),
        "shapes": sorted({str(list(shard["mean"].shape[1:])) for shard in shards}),
        "finite": all(bool(shard[key].isfinite().all()) for shard in shards for key in ROW_NAMES),
    }
