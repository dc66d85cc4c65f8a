"""Latents of a study: encoded once, their posterior moments kept, normalised by statistics of training people.

A shard is one file: a dict of `scans` (names), `mean` and `std` (N, 4, I, J, K) float32, and `copies`
(M, 4, I, J, K), posterior means of mirrored and augmented versions of training scans, whose names stand in `copied`.
Copies are encoded as images, since the autoencoder pads one side of each axis and is not flip-equivariant:
flipping a latent is not encoding a flipped head.

Volumes are encoded one by one, so that on a CPU a latent has the same bytes in any shard and order. Each waits beside
the shard as soon as it is there: a killed job loses the volume in flight, and the next one goes on from there.
"""

import hashlib
import json
import logging
import pickle
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from neuromf import parallel
from neuromf.augmentation import MIRROR, NOTHING, Change, apply, as_text, draw
from neuromf.files import save_tensors
from neuromf.vae import DOWNSAMPLING, LATENT_CHANNELS, MAISIVAEWrapper, evaluate
from neuromf.volumes import read_volume

logger = logging.getLogger(__name__)

KEYS = {"scans", "mean", "std", "copies", "copied"}  # of a shard
UNREADABLE = (OSError, EOFError, RuntimeError, ValueError, KeyError, TypeError, pickle.UnpicklingError)
EVERY_S = 15  # seconds between two lines of progress
PCA_PEOPLE = 4096  # at most so many span the principal components, whose Gram matrix is people x people
EDGES = np.linspace(-8, 8, 161)  # of histograms, in standard deviations; what lies beyond is in the outermost bins

Moments = tuple[Tensor, Tensor]  # posterior mean and standard deviation of one volume, (4, I, J, K) each


# --- encoding ----------------------------------------------------------------------------------------


def encode_shard(
    vae: MAISIVAEWrapper,
    table: pd.DataFrame,
    out: Path,
    *,
    made_by: str = "",
    mirror: bool = True,
    copies: int = 0,
    augmentation: Mapping[str, float] | None = None,
    precision: str = "float32",
    seed: int = 0,
) -> None:
    """Write the shard of the volumes of a table, each encoded once, whatever stops the job on its way.

    Moments wait in a folder of the shard's name with .parts until all are there. They are taken from it only if made
    of the same bytes, with the same change, precision and `made_by`.

    Arguments:
        table: One row per volume, with columns scan, split and volume (its file).
        made_by: What latents depend on besides, such as digests of weights and code.
        mirror: Also encode training scans with left and right changed.
        copies: Augmented versions of each training scan on top, half of them mirrored where `mirror`.
        augmentation: Their largest changes by name, in place of those of `augmentation.AMOUNTS`.
        precision: "float32" or "bf16".
        seed: Of the augmentation.
    """
    drawing: dict[str, Any] = {"mirror": mirror, "copies": copies, "amounts": augmentation, "seed": seed}
    rows = table[["scan", "split", "volume"]].to_dict("records")
    todo = [changes(row["scan"], **drawing) if row["split"] == "train" else [NOTHING] for row in rows]
    parts, progress = out.with_suffix(".parts"), _Progress(sum(map(len, todo)))
    parts.mkdir(parents=True, exist_ok=True)
    how = {"made_by": made_by, "precision": precision}
    kept = [_encode_scan(vae, row, some, parts, progress, how) for row, some in zip(rows, todo, strict=True)]
    save_tensors(_as_shard([row["scan"] for row in rows], kept), out)
    shutil.rmtree(parts)


def changes(
    scan: str, *, mirror: bool, copies: int, amounts: Mapping[str, float] | None = None, seed: int = 0
) -> list[Change]:
    """The versions in which a training scan is encoded: as it is, mirrored, then augmented."""
    drawn = [draw(seed, scan, number, amounts=amounts, mirror=mirror) for number in range(copies)]
    return [NOTHING, *([MIRROR] if mirror else []), *drawn]


def _encode_scan(
    vae: MAISIVAEWrapper, row: dict, todo: list[Change], parts: Path, progress: "_Progress", how: dict
) -> list[Moments]:
    """Moments of each version of a scan, found or computed."""
    digest, volume, moments = hashlib.sha256(Path(row["volume"]).read_bytes()).hexdigest(), None, []
    for number, change in enumerate(todo):
        part = parts / f"{row['scan']}.{number}.pt"
        key = json.dumps({**how, "volume": digest, "change": as_text(change)}, sort_keys=True)
        found = _read_part(part, key)
        if not found:
            volume = volume or read_volume(row["volume"])
            made = _encode(vae, *volume, change, how["precision"])
            save_tensors({"key": key, "moments": made}, part)
        moments.append(found or made)
        progress.count(computed=not found)
    return moments


def _encode(vae: MAISIVAEWrapper, volume: NDArray, affine: NDArray, change: Change, precision: str) -> Moments:
    changed = apply(volume, change, spacing_mm=nib.affines.voxel_sizes(affine))
    mean, std = evaluate(vae, "encode", torch.from_numpy(changed)[None, None], precision=precision)
    return mean[0], std[0]


def _read_part(part: Path, key: str) -> Moments | None:
    """Moments that wait in a file, None where there are none, or not of this key."""
    if not part.exists():
        return None
    try:
        stored = torch.load(part, weights_only=True)
        return tuple(stored["moments"]) if stored["key"] == key else None
    except UNREADABLE as error:
        logger.warning("%s cannot be read (%s) and is made again", part, type(error).__name__)
        return None


def _as_shard(scans: list[str], kept: list[list[Moments]]) -> dict:
    """The dict of a shard, from the moments of each version of each scan, the first being the scan as it is."""
    nobody = kept[0][0][0].new_empty(0, *kept[0][0][0].shape) if kept else torch.empty(0, LATENT_CHANNELS, 0, 0, 0)
    copies = [(scan, mean) for scan, versions in zip(scans, kept, strict=True) for mean, _ in versions[1:]]
    return {
        "scans": scans,
        "mean": torch.stack([versions[0][0] for versions in kept]) if kept else nobody,
        "std": torch.stack([versions[0][1] for versions in kept]) if kept else nobody,
        "copies": torch.stack([mean for _, mean in copies]) if copies else nobody,
        "copied": [scan for scan, _ in copies],
    }


class _Progress:
    """Says every few seconds how many of n volumes are there, how fast, and how long the rest takes."""

    def __init__(self, n: int) -> None:
        self.n, self.done, self.computed = n, 0, 0
        self.start = self.said = time.monotonic()

    def count(self, *, computed: bool) -> None:
        self.done, self.computed, now = self.done + 1, self.computed + computed, time.monotonic()
        if self.done == self.n or now - self.said > EVERY_S:
            self.said, rate = now, self.computed / max(now - self.start, 1e-9)
            left = f", {(self.n - self.done) / rate:.0f} s left" if rate else ""
            text = "%d of %d volumes encoded (%d of them before), %.2f per second%s"
            logger.info(text, self.done, self.n, self.done - self.computed, rate, left)


def decode_each(vae: MAISIVAEWrapper, latent: Tensor, *, precision: str = "float32") -> Iterator[Tensor]:
    """Volumes (I, J, K) in [0, 1] of denormalised latents (N, C, i, j, k), one at a time, as they are asked for."""
    for one in latent:
        yield evaluate(vae, "decode", one[None], precision=precision)[0][0, 0].clamp(0, 1)


def decode(vae: MAISIVAEWrapper, latent: Tensor, *, precision: str = "float32") -> Tensor:
    """Volumes (N, I, J, K) in [0, 1] of denormalised latents (N, C, i, j, k), several at a time on a CPU."""
    volumes = torch.empty(len(latent), *(DOWNSAMPLING * n for n in latent.shape[2:]))

    def into(place: Tensor, one: Tensor) -> None:
        place.copy_(next(decode_each(vae, one[None], precision=precision)))

    parallel.each(into, volumes, latent)
    return volumes


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
    """The scans of one split from all shards: as `of_split` of `load_shards`, without the others in memory."""
    return _joined([of_split(shard, splits, split) for shard in open_shards(paths)])


def _joined(shards: list[dict]) -> dict:
    if len(shards) == 1:
        return shards[0]
    names = {name: [scan for shard in shards for scan in shard[name]] for name in ("scans", "copied")}
    return names | {name: torch.cat([shard[name] for shard in shards]) for name in ("mean", "std", "copies")}


def of_split(shards: dict, splits: Mapping[str, str], split: str) -> dict:
    """The part of joined shards whose scans belong to a split; splits maps scans to splits."""
    rows, copied = (rows_of(shards[name], splits, split) for name in ("scans", "copied"))
    return {
        "scans": [shards["scans"][i] for i in rows],
        "mean": shards["mean"][rows],
        "std": shards["std"][rows],
        "copies": shards["copies"][copied],
        "copied": [shards["copied"][i] for i in copied],
    }


def rows_of(scans: Sequence[str], splits: Mapping[str, str], split: str) -> Tensor:
    return torch.tensor([i for i, scan in enumerate(scans) if splits[scan] == split], dtype=torch.long)


def census(paths: Sequence[Path]) -> dict:
    """How many scans are encoded, in which shapes, and whether every value of theirs and of their copies is finite."""
    shards = open_shards(paths)
    return {
        "encoded": sum(len(shard["scans"]) for shard in shards),
        "copies": sum(len(shard["copied"]) for shard in shards),
        "shapes": sorted({str(list(shard["mean"].shape[1:])) for shard in shards}),
        "finite": all(bool(shard[name].isfinite().all()) for shard in shards for name in ("mean", "std", "copies")),
    }


# --- statistics --------------------------------------------------------------------------------------


def statistics(mean: Tensor, std: Tensor, n_components: int = 256) -> dict:
    """What training latents (N, C, I, J, K) look like, per channel over people and positions.

    Returns:
        mean, std, skewness, kurtosis (excess) and posterior_std, C values each; correlation (C x C); histogram,
        with edges in standard deviations and C rows of counts; pca_share, the share of variance along the first
        principal components over people, and effective_rank.
    """
    if not len(mean):
        raise ValueError("no training latents to describe: no accepted scan is in split train; see cohort.split")
    n = mean[:, 0].numel()
    centre = sum(x.sum(1) for x in _chunks(mean)) / n
    covariance = sum((x - centre[:, None]) @ (x - centre[:, None]).T for x in _chunks(mean)) / n
    spread = np.sqrt(np.diag(covariance))
    third, fourth = np.zeros((2, len(centre)))
    counts = np.zeros((len(centre), len(EDGES) - 1), int)
    for x in _chunks(mean):
        z = (x - centre[:, None]) / spread[:, None]
        third, fourth = third + (z**3).sum(1) / n, fourth + (z**4).sum(1) / n
        counts += np.stack([np.histogram(values.clip(EDGES[0], EDGES[-1]), EDGES)[0] for values in z])
    variances = _eigenvalues(mean)
    return {
        "n": len(mean),
        "shape": list(mean.shape[1:]),
        "mean": centre.tolist(),
        "std": spread.tolist(),
        "skewness": third.tolist(),
        "kurtosis": (fourth - 3).tolist(),
        "posterior_std": (sum(x.sum(1) for x in _chunks(std)) / n).tolist(),
        "correlation": (covariance / np.outer(spread, spread)).tolist(),
        "histogram": {"edges": EDGES.tolist(), "counts": counts.tolist()},
        "pca_share": (variances / variances.sum())[:n_components].tolist(),
        "effective_rank": _rank(variances),
    }


def _chunks(latent: Tensor, people: int = 32) -> Iterator[NDArray]:
    """Latents of so many people at a time as (C, people x positions) in float64, so that many fit."""
    for some in latent.split(people):
        yield some.double().transpose(0, 1).flatten(1).numpy()


def _eigenvalues(mean: Tensor) -> NDArray:
    """Eigenvalues of the covariance over people, largest first, from their Gram matrix, channel by channel.

    Of more than `PCA_PEOPLE`, every so-manyth is taken.
    """
    some = mean[:: -(-len(mean) // PCA_PEOPLE)]
    gram = mean.new_zeros((), dtype=torch.float64)
    for channel in some.unbind(1):
        x = channel.double().flatten(1)
        x = x - x.mean(0)
        gram = gram + x @ x.T
    return torch.linalg.eigvalsh(gram).flip(0).clamp(min=0).numpy()


def _rank(variances: NDArray) -> float:
    """Exponential of the entropy of the principal variances: how many directions people really differ in."""
    share = variances / variances.sum()
    share = share[share > 1e-12]
    return float(np.exp(-(share * np.log(share)).sum()))


# --- normalisation -----------------------------------------------------------------------------------


def _as_channels(values: Sequence[float], like: Tensor) -> Tensor:
    if len(values) != like.shape[1]:
        raise ValueError(f"statistics are of {len(values)} channels, latents have {like.shape[1]}: wrong stats.json?")
    return torch.tensor(values, dtype=like.dtype, device=like.device).view(1, -1, 1, 1, 1)


def normalise(latent: Tensor, stats: dict) -> Tensor:
    """Latents (B, C, I, J, K) with the channel means and deviations of the training people taken out."""
    return (latent - _as_channels(stats["mean"], latent)) / _as_channels(stats["std"], latent)


def denormalise(latent: Tensor, stats: dict) -> Tensor:
    """Inverse of `normalise`, due before decoding."""
    return latent * _as_channels(stats["std"], latent) + _as_channels(stats["mean"], latent)


def read_stats(path: Path) -> dict:
    return json.loads(path.read_text())
