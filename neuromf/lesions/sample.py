"""Pairs of image and mask from noise: drawn in one evaluation, decoded, written beside a table of them."""

import logging
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from neuromf.data import nifti
from neuromf.data.nifti import write_volume
from neuromf.data.participants import write_table
from neuromf.lesions import mask_encoding
from neuromf.meanflow import sample
from neuromf.meanflow.run import Run
from neuromf.vae.maisi import MAISIVAEWrapper

logger = logging.getLogger(__name__)


def volume_threshold(soft: Tensor, mean_ml: float, spacing_mm: float) -> float:
    """The threshold above which soft masks (N, ...) hold so many ml in the mean.

    What is drawn in one evaluation is softer than what was encoded, so the threshold of masks there and back leaves too
    little of it. Volumes of training masks set this one: the mean volume is theirs by construction, not by merit.
    """
    share = mean_ml * 1000 / spacing_mm**3 / soft[0].numel()
    if not 0 < share < 1:
        raise ValueError(
            f"mean_ml must be above 0 and less than the volume; got {mean_ml:g} ml of {soft[0].numel()} voxels"
        )
    return float(np.quantile(soft.numpy(), 1 - share))


def write_pairs(
    run: Run,
    vae: MAISIVAEWrapper,
    out: Path,
    *,
    n: int,
    seed: int,
    spacing_mm: float,
    mean_ml: float | None,
    batch: int = 8,
) -> None:
    """Draw n pairs in one evaluation each: NNNNN_FLAIR.nii.gz, NNNNN_mask.nii.gz, and samples.tsv, whole or not at all.

    Arguments:
        run: Of `joint.load_joint`; its statistics name the mask strategy and the threshold of masks there and back.
        mean_ml: Mean volume of training lesions, which sets the threshold; that of masks there and back where None.

    Raises:
        FileExistsError: If `out` holds something else than samples.
    """
    if out.exists() and any(out.iterdir()) and not (out / "samples.tsv").exists():
        raise FileExistsError(f"{out} holds other files than samples, which this would remove; name another folder")
    latent = sample.sample_latents(run, n=n, batch=batch, steps=1, seed=seed)
    strategy, threshold = run.stats["strategy"], float(run.stats["threshold"])
    pairs = [mask_encoding.decode(vae, one[None], strategy, threshold) for one in latent]
    soft = torch.stack([pair[2][0, 0] for pair in pairs])
    own = threshold if mean_ml is None else volume_threshold(soft, mean_ml, spacing_mm)
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    part.mkdir(parents=True)
    rows = [_write(part, out, k, pair[0][0, 0], soft[k] > own, spacing_mm) for k, pair in enumerate(pairs)]
    table = pd.DataFrame(rows).assign(seed=seed, threshold=own, strategy_threshold=threshold, strategy=strategy)
    table["peak"] = soft.amax((1, 2, 3)).numpy()
    write_table(table, part / "samples.tsv")
    shutil.rmtree(out, ignore_errors=True)
    os.replace(part, out)
    logger.info("%d pairs, threshold %.3f, %d with a lesion", n, own, int((table["lesion_ml"] > 0).sum()))


def _write(part: Path, out: Path, number: int, image: Tensor, mask: Tensor, spacing_mm: float) -> dict:
    """Image and mask on a grid with its origin in the middle, and their row of the table."""
    affine = np.diag([spacing_mm] * 3 + [1.0])
    affine[:3, 3] = [-spacing_mm * (n - 1) / 2 for n in image.shape]
    names = {"image": f"{number:05d}_FLAIR.nii.gz", "mask": f"{number:05d}_mask.nii.gz"}
    write_volume(part / names["image"], image.numpy(), affine)
    nifti.write_mask(part / names["mask"], mask.numpy().astype(np.uint8), affine)
    files = {key: str(out / name) for key, name in names.items()}
    return {
        "number": number,
        "scan": f"sample-{number:05d}",
        **files,
        "lesion_ml": float(mask.sum()) * spacing_mm**3 / 1000,
    }
