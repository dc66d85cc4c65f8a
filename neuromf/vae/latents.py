"""Encoding of a study's volumes into shards of latents, and decoding of latents.

A shard is two files, one of training and validation scans, one of test scans, so that no training opens a test latent.
Each is a dict: `scans` (N names), `mean` and `std` of the posterior (N, 4, I, J, K) float32,
`augmented` (M, 4, I, J, K), posterior means of mirrored and augmented versions of training scans, and
`augmented_scans` (M names). Augmented versions are encoded as images: the autoencoder is not flip-equivariant
(its padding is one-sided), so a flipped latent is not the latent of a flipped scan.

Volumes are encoded one at a time: on a CPU, a latent has the same bytes in any shard and order. Each result is stored
at once, so that an interrupted job loses only the volume in progress.
"""

import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import pandas as pd
import torch
from torch import Tensor

from neuromf.core import parallel
from neuromf.core.files import save_tensors, sha256
from neuromf.core.hardware import default_device
from neuromf.data.augmentation import IDENTITY, MIRROR, Change, apply_change, as_text, draw_change
from neuromf.data.nifti import read_volume
from neuromf.data.participants import read_table
from neuromf.vae.maisi import DOWNSAMPLING, LATENT_CHANNELS, MAISIVAEWrapper, decode_safely, encode_safely
from neuromf.vae.weights import load

logger = logging.getLogger(__name__)

Moments = tuple[Tensor, Tensor]  # posterior mean and standard deviation of one volume, (4, I, J, K) each


def encode_shard(
    *,
    folder: Path,
    weights: Path,
    out: Path,
    test: Path,
    mirror: bool = True,
    n_augmented: int = 0,
    augmentation: Mapping[str, float] | None = None,
    precision: str = "float32",
    seed: int = 0,
    code: str = "",
) -> None:
    """Encode the accepted volumes of one shard of prepared scans.

    Arguments:
        folder: Folder with volumes and their table qc.tsv.
        weights: File of the autoencoder.
        out: File to write with training and validation scans (.pt).
        test: File to write with test scans (.pt).
        mirror: Also encode the mirrored version of each training scan.
        n_augmented: Additional augmented versions per training scan, half of them mirrored if `mirror`.
        augmentation: Largest change by name; replaces entries of `augmentation.AMOUNTS`.
        precision: "float32" or "bf16".
        seed: Seed of the augmentation.
        code: Digest of the code; results of an interrupted job with other code are not reused.
    """
    table = read_table(folder / "qc.tsv")
    vae = load(weights).to(default_device())
    accepted = table[table["status"] == "accepted"]
    settings = {"mirror": mirror, "n_augmented": n_augmented, "augmentation": augmentation, "seed": seed}
    provenance = json.dumps({"weights": sha256(weights), "code": code})
    encode_volumes(vae, accepted, out, test, precision=precision, provenance=provenance, **settings)


def encode_volumes(
    vae: MAISIVAEWrapper,
    table: pd.DataFrame,
    out: Path,
    test: Path,
    *,
    precision: str = "float32",
    provenance: str = "",
    **settings: Any,
) -> None:
    """Encode the volumes of a table into a shard.

    The latent of each volume is stored in the folder `out` with suffix .parts until all are encoded. An interrupted job
    reuses it if the bytes of the volume, the change, the precision and the provenance are the same.

    Arguments:
        table: Columns scan, split and volume (file).
        out: File to write with training and validation scans (.pt).
        test: File to write with test scans (.pt).
        provenance: Text that identifies weights and code.
        settings: Keyword arguments of `scan_versions`.
    """
    rows = table[["scan", "split", "volume"]].to_dict("records")
    versions = [scan_versions(row["scan"], **settings) if row["split"] == "train" else [IDENTITY] for row in rows]
    key = {"provenance": provenance, "precision": precision}
    parts, moments = out.with_suffix(".parts"), []
    parts.mkdir(parents=True, exist_ok=True)
    for done, (row, changes) in enumerate(zip(rows, versions, strict=True), start=1):
        moments.append(_encode_scan(vae, row, changes, parts, key))
        if done % 10 == 0 or done == len(rows):
            logger.info("%d of %d scans encoded", done, len(rows))
    for file, of_test in ((out, False), (test, True)):
        chosen = [k for k, row in enumerate(rows) if (row["split"] == "test") == of_test]
        save_tensors(_as_shard([rows[k]["scan"] for k in chosen], [moments[k] for k in chosen]), file)
    shutil.rmtree(parts)


def scan_versions(
    scan: str,
    *,
    mirror: bool = True,
    n_augmented: int = 0,
    augmentation: Mapping[str, float] | None = None,
    seed: int = 0,
) -> list[Change]:
    """Changes of a training scan before encoding: identity, mirror, augmentations (arguments of `encode_shard`)."""
    drawn = [draw_change(seed, scan, number, amounts=augmentation, mirror=mirror) for number in range(n_augmented)]
    return [IDENTITY, *([MIRROR] if mirror else []), *drawn]


def _encode_scan(vae: MAISIVAEWrapper, row: dict, changes: list[Change], parts: Path, key: dict) -> list[Moments]:
    """Moments of each version of a scan, computed or taken from an interrupted job."""
    digest, scan, moments = sha256(Path(row["volume"])), None, []
    for number, change in enumerate(changes):
        part = parts / f"{row['scan']}.{number}.pt"
        part_key = json.dumps({**key, "volume": digest, "change": as_text(change)}, sort_keys=True)
        if not (result := _read_part(part, part_key)):
            volume, affine = scan = scan or read_volume(row["volume"])
            changed = torch.from_numpy(apply_change(volume, change, spacing_mm=nib.affines.voxel_sizes(affine)))
            mean, std = encode_safely(vae, changed[None, None], precision=key["precision"])
            result = mean[0], std[0]
            save_tensors({"key": part_key, "moments": result}, part)
        moments.append(result)
    return moments


def _read_part(part: Path, key: str) -> Moments | None:
    """Stored moments of one version of a scan; None if missing, damaged or computed with another key."""
    if not part.exists():
        return None
    try:
        stored = torch.load(part, weights_only=True)
        return tuple(stored["moments"]) if stored["key"] == key else None
    except Exception as error:  # damaged bytes can raise anything in the unpickler
        logger.warning("%s cannot be read (%s) and is computed again", part, type(error).__name__)
        return None


def _as_shard(scans: list[str], moments: list[list[Moments]]) -> dict:
    """Dict of a shard; the first version of each scan is the scan itself."""
    shape = moments[0][0][0].shape if moments else (LATENT_CHANNELS, 0, 0, 0)
    empty = torch.empty(0, *shape)
    augmented = [(scan, mean) for scan, versions in zip(scans, moments, strict=True) for mean, _ in versions[1:]]
    return {
        "scans": scans,
        "mean": torch.stack([versions[0][0] for versions in moments]) if moments else empty,
        "std": torch.stack([versions[0][1] for versions in moments]) if moments else empty,
        "augmented": torch.stack([mean for _, mean in augmented]) if augmented else empty,
        "augmented_scans": [scan for scan, _ in augmented],
    }


def decode(vae: MAISIVAEWrapper, latent: Tensor, *, precision: str = "float32") -> Tensor:
    """Volumes (N, 4I, 4J, 4K) in [0, 1] of denormalised latents (N, 4, I, J, K), one per thread on a CPU."""
    volumes = torch.empty(len(latent), *(DOWNSAMPLING * n for n in latent.shape[2:]))

    def decode_into(volume: Tensor, one: Tensor) -> None:
        volume.copy_(decode_safely(vae, one[None], precision=precision)[0, 0].clamp(0, 1))

    parallel.map_in_threads(decode_into, volumes, latent)
    return volumes
