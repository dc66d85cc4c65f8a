"""Generated pairs of image and lesion mask: one network evaluation each, decoded to NIfTI."""

import logging
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from neuromf.data.nifti import write_mask, write_volume
from neuromf.data.participants import read_table, write_table
from neuromf.lesions import mask_encoding
from neuromf.lesions.run import load_pair_run
from neuromf.meanflow.run import load_run
from neuromf.meanflow.sample import sample_latents
from neuromf.vae.weights import load

logger = logging.getLogger(__name__)


def sample_pairs(
    *,
    run: Path,
    adapter: Path,
    weights: Path,
    pairs: Path,
    out: Path,
    n_samples: int,
    spacing_mm: float,
    mask_threshold: str = "volume",
    batch: int = 8,
    seed: int = 0,
) -> None:
    """Write NNNNN_FLAIR.nii.gz and NNNNN_mask.nii.gz of generated pairs, and samples.tsv, atomically into a folder.

    Arguments:
        run: Model file of the base run.
        adapter: Folder of the fine-tuned run.
        weights: Autoencoder weights.
        pairs: File pairs.tsv of the real pairs.
        out: Folder of samples.
        n_samples: Number of generated pairs.
        spacing_mm: Isotropic voxel size in mm.
        mask_threshold: volume: generated masks have the mean volume of training lesions. encoding: the threshold of
            the mask encoding.
        batch: Pairs per batch.
        seed: Seed of the noise.

    Raises:
        FileExistsError: If `out` contains other files than samples.
    """
    if out.exists() and any(out.iterdir()) and not (out / "samples.tsv").exists():
        raise FileExistsError(f"{out} has other files than samples, which would be removed; name another folder")
    fine_tuned, vae = load_pair_run(load_run(run), adapter), load(weights)
    latents = sample_latents(fine_tuned, n=n_samples, batch=batch, nfe=1, seed=seed)
    encoding, threshold = fine_tuned.stats["mask_encoding"], float(fine_tuned.stats["threshold"])
    generated = [mask_encoding.decode(vae, latent[None], encoding, threshold) for latent in latents]
    soft = torch.stack([pair[2][0, 0] for pair in generated])
    columns = {"seed": seed, "encoding_threshold": threshold, "mask_encoding": encoding}
    if mask_threshold == "volume":
        real = read_table(pairs)
        mean_ml = float(real.loc[real["split"] == "train", "lesion_ml"].astype(float).mean())
        threshold = volume_threshold(soft, mean_ml, spacing_mm)
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    part.mkdir(parents=True)
    rows = [_write_pair(part, out, k, x[0][0, 0], soft[k] > threshold, spacing_mm) for k, x in enumerate(generated)]
    table = pd.DataFrame(rows).assign(threshold=threshold, **columns, peak=soft.amax((1, 2, 3)).numpy())
    write_table(table, part / "samples.tsv")
    shutil.rmtree(out, ignore_errors=True)
    os.replace(part, out)
    n_lesions = int((table["lesion_ml"] > 0).sum())
    logger.info("%d pairs generated, mask threshold %.3f, %d with a lesion", n_samples, threshold, n_lesions)


def volume_threshold(soft: Tensor, mean_ml: float, spacing_mm: float) -> float:
    """Threshold above which soft masks (N, I, J, K) have a mean volume of `mean_ml`.

    Masks from one network evaluation are softer than encoded ones, so the threshold of the encoding makes them too
    small. With this threshold the mean volume of generated lesions is fixed by construction and is no result.
    """
    fraction = mean_ml * 1000 / spacing_mm**3 / soft[0].numel()
    if not 0 < fraction < 1:
        size = f"{soft[0].numel()} voxels of {spacing_mm:g} mm"
        raise ValueError(f"mean_ml must be above 0 and less than the volume, {size}; got {mean_ml:g} ml")
    return float(np.quantile(soft.numpy(), 1 - fraction))


def _write_pair(part: Path, out: Path, number: int, image: Tensor, mask: Tensor, spacing_mm: float) -> dict:
    """Write image and mask with the world origin in the middle of the volume. Returns their row of samples.tsv."""
    affine = np.diag([spacing_mm] * 3 + [1.0])
    affine[:3, 3] = [-spacing_mm * (n - 1) / 2 for n in image.shape]
    names = {"image": f"{number:05d}_FLAIR.nii.gz", "mask": f"{number:05d}_mask.nii.gz"}
    write_volume(part / names["image"], image.numpy(), affine)
    write_mask(part / names["mask"], mask.numpy().astype(np.uint8), affine)
    row = {"number": number, "scan": f"sample-{number:05d}", **{key: str(out / name) for key, name in names.items()}}
    return row | {"lesion_ml": float(mask.sum()) * spacing_mm**3 / 1000}
