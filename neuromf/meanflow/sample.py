"""Sampling: from seeds to NIfTI volumes, with a trained run and the decoder.

Sample k of a seed is the same volume in any batch (on a CPU up to float32 rounding, since the order of summation in
convolutions depends on the batch size).
"""

import hashlib
import json
import logging
import math
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from neuromf.core import seeds
from neuromf.core.files import save_tensors
from neuromf.data.nifti import write_volume
from neuromf.data.participants import write_table
from neuromf.meanflow import flow
from neuromf.meanflow.run import Run
from neuromf.vae import statistics
from neuromf.vae.latents import decode
from neuromf.vae.maisi import MAISIVAEWrapper

logger = logging.getLogger(__name__)


def sample_batch(run: Run, numbers: Sequence[int], *, nfe: int, seed: int, sampler: str = "meanflow") -> Tensor:
    """Denormalised latents (B, C, I, J, K) of the samples with these numbers, in one batch, on the CPU.

    Arguments:
        run: Trained run.
        numbers: Sample numbers.
        nfe: Network evaluations per sample.
        seed: Seed of the noise.
        sampler: Key of `flow.SAMPLERS`.

    Raises:
        ValueError: If a sample is not finite.
    """
    eps = seeds.noise(seed, list(numbers), run.shape).to(run.device)
    latents = statistics.denormalise(flow.SAMPLERS[sampler](run.u, eps, flow.uniform_times(nfe)), run.stats).cpu()
    bad = [k for k, latent in zip(numbers, latents, strict=True) if not latent.isfinite().all()]
    if bad:
        raise ValueError(
            f"samples {bad} of seed {seed} are not finite (nfe={nfe}, sampler={sampler}): the weights of the run are "
            "damaged or its training diverged; check its dashboard and train it again"
        )
    return latents


def batches(n: int, batch: int) -> list[range]:
    """The numbers 0 to n - 1 in batches."""
    return [range(first, min(first + batch, n)) for first in range(0, n, batch)]


def sample_latents(run: Run, *, n: int, batch: int = 16, **sampling: Any) -> Tensor:
    """Denormalised latents (n, C, I, J, K) of samples 0 to n - 1; further arguments as in `sample_batch`."""
    return torch.cat([sample_batch(run, numbers, **sampling) for numbers in batches(n, batch)])


def write_samples(
    run: Run,
    vae: MAISIVAEWrapper,
    out: Path,
    *,
    n: int,
    nfe: int,
    seed: int,
    spacing_mm: float,
    batch: int = 16,
    sampler: str = "meanflow",
    precision: str = "float32",
    code: str = "",
) -> None:
    """Generate n volumes into the folder `out`, with latents.pt, samples.tsv and their provenance in card.json.

    Memory does not grow with n. Files are written to .{out.name}.part, which is renamed to `out` when complete. An
    interrupted run resumes: volumes in .{out.name}.part are reused if the provenance is the same.

    Arguments:
        run: Trained run.
        vae: Autoencoder.
        out: Output folder.
        n: Number of volumes.
        nfe: Network evaluations per volume.
        seed: Seed of the noise.
        spacing_mm: Voxel size of the volumes in mm.
        batch: Latents per batch.
        sampler: Key of `flow.SAMPLERS`.
        precision: Precision of decoding, "float32" or "bf16".
        code: Digest of the code, part of the provenance.

    Raises:
        ValueError: If a sample is not finite.
        FileExistsError: If `out` contains other files than samples.
    """
    if out.exists() and any(out.iterdir()) and not (out / "samples.tsv").exists():
        raise FileExistsError(f"{out} contains files other than samples, which would be deleted; choose another folder")
    sampling: dict[str, Any] = {"nfe": nfe, "seed": seed, "sampler": sampler}
    writing: dict[str, Any] = {"spacing_mm": spacing_mm, "precision": precision}
    stats = {name: run.stats[name] for name in ("mean", "std")}
    inputs = {"weights": digest(run.u, vae), "stats": stats, "code": code, "torch": torch.__version__}
    part = _part_folder(out, {**sampling, **writing, **inputs, "n": n, "batch": batch, "device": run.device})
    files = [part / f"{number:05d}.nii.gz" for number in range(n)]
    _write_volumes(run, vae, files, batch, sampling, writing)
    rows = [_row(number, out / file.name, **sampling) for number, file in enumerate(files)]
    write_table(pd.DataFrame(rows), part / "samples.tsv")
    shutil.rmtree(out, ignore_errors=True)
    os.replace(part, out)


def _write_volumes(
    run: Run, vae: MAISIVAEWrapper, files: list[Path], batch: int, sampling: dict[str, Any], writing: dict[str, Any]
) -> None:
    """Generate the volumes that are missing, and latents.pt in the same folder."""
    raw, shape, start = files[0].with_name("latents.raw"), (len(files), *run.shape), time.monotonic()
    for numbers in batches(len(files), batch):
        missing = [k for k in numbers if not files[k].exists()]
        if not missing:
            continue
        latents = sample_batch(run, numbers, **sampling)
        _memory_map(raw, shape)[numbers[0] : numbers[-1] + 1] = latents
        for k in missing:
            write_sample(vae, latents[k - numbers[0]], files[k], **writing)
        logger.info("%d of %d volumes, %.0f s", numbers[-1] + 1, len(files), time.monotonic() - start)
    if raw.exists():
        save_tensors(_memory_map(raw, shape), raw.with_name("latents.pt"))
        raw.unlink()


def write_sample(
    vae: MAISIVAEWrapper, latent: Tensor, file: Path, *, spacing_mm: float, precision: str = "float32"
) -> None:
    """Decode one latent (C, i, j, k) to a NIfTI file (RAS+, origin at the centre of the volume)."""
    volume = decode(vae, latent[None], precision=precision)[0].numpy()
    affine = np.diag([spacing_mm] * 3 + [1.0])
    affine[:3, 3] = [-spacing_mm * (n - 1) / 2 for n in volume.shape]
    write_volume(file, volume, affine)


def digest(*nets: nn.Module) -> str:
    """Digest of all weights and buffers of networks."""
    blake = hashlib.blake2b(digest_size=16)
    for net in nets:
        for name, value in net.state_dict().items():
            blake.update(name.encode())
            blake.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return blake.hexdigest()


def _part_folder(out: Path, card: dict) -> Path:
    """The working folder next to `out`; emptied unless its card.json equals `card`."""
    part, text = out.with_name(f".{out.name}.part"), json.dumps(card, indent=1, sort_keys=True) + "\n"
    card_file = part / "card.json"
    if not card_file.exists() or card_file.read_text() != text:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        card_file.write_text(text)
        return part
    for incomplete in part.glob(".*"):
        incomplete.unlink()
    logger.info("%s: %d volumes of an interrupted run are reused", part, len(list(part.glob("*.nii.gz"))))
    return part


def _memory_map(path: Path, shape: tuple[int, ...]) -> Tensor:
    """A float32 tensor whose memory is a file, which is created if missing."""
    return torch.from_file(str(path), shared=True, size=math.prod(shape), dtype=torch.float32).view(shape)


def _row(number: int, file: Path, *, seed: int, nfe: int, sampler: str) -> dict:
    """Row of samples.tsv: the arguments of `sample_batch` that reproduce the sample, and its file."""
    names = {"number": number, "participant_id": f"sample-{number:05d}"}
    return {**names, "seed": seed, "nfe": nfe, "sampler": sampler, "file": str(file)}
