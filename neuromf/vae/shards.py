"""Latent shards on disk: opened memory-mapped, joined, and selected by split."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

KEYS = {"scans", "mean", "std", "copies", "copied"}  # of a shard


# --- shards and splits -------------------------------------------------------------------------------


def open_shards(paths: Sequence[Path]) -> list[dict]:
    """The shards that hold any scan, memory-mapped: what is not looked at is not read."""
    shards = [torch.load(path, weights_only=True, mmap=True) for path in paths]
    for path, shard in zip(paths, shards, strict=True):
        if shard.keys() != KEYS:
            raise ValueError(
                f"{path} holds {', '.join(sorted(shard))}, wanted {', '.join(sorted(KEYS))}: another version made it; "
                "encode again"
            )
    if not any(shard["scans"] for shard in shards):
        raise ValueError(f"no scan in any of {len(shards)} shards: all were set aside, each with its reason in qc.tsv")
    return [shard for shard in shards if shard["scans"]]  # one may hold only scans that were set aside


def load_shards(paths: Sequence[Path]) -> dict:
    """All shards as one dict, memory-mapped where there is only one."""
    return _joined(open_shards(paths))


def load_split(paths: Sequence[Path], splits: Mapping[str, str], split: str) -> dict:
    """The scans of one split from all shards: as `select_split` of `load_shards`, without the others in memory."""
    return _joined([select_split(shard, splits, split) for shard in open_shards(paths)])


def _joined(shards: list[dict]) -> dict:
    if len(shards) == 1:
        return shards[0]
    names = {name: [scan for shard in shards for scan in shard[name]] for name in ("scans", "copied")}
    return names | {name: torch.cat([shard[name] for shard in shards]) for name in ("mean", "std", "copies")}


def select_split(shards: dict, splits: Mapping[str, str], split: str) -> dict:
    """The part of joined shards whose scans belong to a split; splits maps scans to splits."""
    rows, copied = (rows_of_split(shards[name], splits, split) for name in ("scans", "copied"))
    return {
        "scans": [shards["scans"][i] for i in rows],
        "mean": shards["mean"][rows],
        "std": shards["std"][rows],
        "copies": shards["copies"][copied],
        "copied": [shards["copied"][i] for i in copied],
    }


def rows_of_split(scans: Sequence[str], splits: Mapping[str, str], split: str) -> Tensor:
    return torch.tensor([i for i, scan in enumerate(scans) if splits[scan] == split], dtype=torch.long)


def check_shards(paths: Sequence[Path]) -> dict:
    """How many scans are encoded, in which shapes, and whether every value of theirs and of their copies is finite."""
    shards = open_shards(paths)
    return {
        "encoded": sum(len(shard["scans"]) for shard in shards),
        "copies": sum(len(shard["copied"]) for shard in shards),
        "shapes": sorted({str(list(shard["mean"].shape[1:])) for shard in shards}),
        "finite": all(bool(shard[name].isfinite().all()) for shard in shards for name in ("mean", "std", "copies")),
    }
