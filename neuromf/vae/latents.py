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
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from neuromf.core import parallel
from neuromf.core.files import save_tensors
from neuromf.data.augmentation import MIRROR, NOTHING, Change, apply, as_text, draw
from neuromf.data.nifti import read_volume
from neuromf.vae.maisi import DOWNSAMPLING, LATENT_CHANNELS, MAISIVAEWrapper, evaluate

logger = logging.getLogger(__name__)

UNREADABLE = (OSError, EOFError, RuntimeError, ValueError, KeyError, TypeError, pickle.UnpicklingError)
EVERY_S = 15  # seconds between two lines of progress

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

    parallel.map_in_threads(into, volumes, latent)
    return volumes
