"""From seeds to volumes: a trained run, noise, a few evaluations, the decoder, NIfTI.

Sample k of seed s is the same volume whatever the batch it was made in (on a CPU up to the rounding of float32, as
convolutions add in another order in another batch).
"""

import gzip
import hashlib
import json
import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
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


# --- latents -----------------------------------------------------------------------------------------


def solver(sampler: str, steps: int) -> Callable[[flow.MeanVelocity, Tensor], Tensor]:
    """What takes u and noise to data in so many evaluations, by one of `flow.SAMPLERS`.

    Raises:
        ValueError: If the sampler cannot share out so many.
    """
    solve, per_interval = flow.SAMPLERS[sampler]
    if steps % per_interval:
        raise ValueError(f"{sampler} takes {per_interval} evaluations an interval; {steps} cannot be shared out")
    times = flow.uniform_times(steps // per_interval)
    return lambda u, eps: solve(u, eps, times)


def sample_batch(run: Run, numbers: Sequence[int], *, steps: int, seed: int, sampler: str = "mean") -> Tensor:
    """Denormalised latents (N, C, I, J, K) of the samples with these numbers, drawn in one batch, on the CPU.

    Arguments:
        steps: Network evaluations for each sample.
        sampler: One of `flow.SAMPLERS`.

    Raises:
        ValueError: If a sample is not finite.
    """
    eps = seeds.noise(seed, list(numbers), run.shape).to(run.device)
    drawn = statistics.denormalise(solver(sampler, steps)(run.u, eps), run.stats).cpu()
    wrong = [k for k, one in zip(numbers, drawn, strict=True) if not one.isfinite().all()]
    if wrong:
        raise ValueError(
            f"samples {wrong} of seed {seed} are not finite after {steps} evaluations by {sampler}; the run's weights "
            "are damaged or its training diverged: look at its dashboard and train it again"
        )
    return drawn


def batches(n: int, batch: int) -> list[range]:
    """The numbers 0 to n - 1, in order, so many at once."""
    return [range(first, min(first + batch, n)) for first in range(0, n, batch)]


def sample_latents(run: Run, *, n: int, batch: int = 16, **drawing: Any) -> Tensor:
    """n denormalised latents (n, C, I, J, K), as `sample_batch` gives them, batch by batch."""
    return torch.cat([sample_batch(run, numbers, **drawing) for numbers in batches(n, batch)])


# --- volumes on disk ---------------------------------------------------------------------------------


def write_samples(
    run: Run,
    vae: MAISIVAEWrapper,
    out: Path,
    *,
    n: int,
    steps: int,
    seed: int,
    spacing_mm: float,
    batch: int = 16,
    sampler: str = "mean",
    dtype: str = "int16",
    precision: str = "float32",
    code: str = "",
) -> None:
    """Draw n samples into the folder out: volumes, latents.pt, samples.tsv, and card.json with what made them.

    Latents are drawn batch by batch, volumes decoded and written one by one, so memory does not grow with n. All is
    made in the folder .{out.name}.part beside it, which becomes `out` once it is whole. Where a killed run left that
    folder, volumes in it are kept if weights, settings, code, device and version of torch are the same.

    Arguments:
        spacing_mm: Voxel size of the volumes.
        dtype: Of the volumes: int16 (scaled, error below 2e-5) or float32.
        precision: Of the decoder: "float32" or "bf16".
        code: Digest of the code that is run; one that changed keeps nothing of a killed run.

    Raises:
        ValueError: If the dtype is another one, or a sample is not finite.
        FileExistsError: If `out` holds something else than samples.
    """
    if dtype not in WRITERS:
        raise ValueError(f"dtype of volumes must be one of {', '.join(WRITERS)}; got {dtype!r}")
    if out.exists() and any(out.iterdir()) and not (out / "samples.tsv").exists():
        raise FileExistsError(f"{out} holds other files than samples, which this would remove; name another folder")
    drawing: dict[str, Any] = {"steps": steps, "seed": seed, "sampler": sampler}
    writing: dict[str, Any] = {"spacing_mm": spacing_mm, "dtype": dtype, "precision": precision}
    stats = {name: run.stats[name] for name in ("mean", "std")}
    made_by = {"weights": digest(run.u, vae), "stats": stats, "code": code, "torch": torch.__version__}
    part = _part(out, {**drawing, **writing, **made_by, "n": n, "batch": batch, "device": run.device})
    files, start = [part / f"{number:05d}.nii.gz" for number in range(n)], time.monotonic()
    for numbers in batches(n, batch):
        missing = [k for k in numbers if not files[k].exists()]
        if not missing:
            continue
        drawn = sample_batch(run, numbers, **drawing)
        _store(part / "latents.raw", numbers[0], drawn)
        for k in missing:
            write_sample(vae, drawn[k - numbers[0]], files[k], **writing)
        logger.info("%d of %d volumes, %.0f s", numbers[-1] + 1, n, time.monotonic() - start)
    if (part / "latents.raw").exists():
        _gather(part / "latents.raw", (n, *run.shape))
    rows = [_row(number, out / file.name, **drawing) for number, file in enumerate(files)]
    write_table(pd.DataFrame(rows), part / "samples.tsv")
    shutil.rmtree(out, ignore_errors=True)
    os.replace(part, out)


def write_sample(
    vae: MAISIVAEWrapper,
    latent: Tensor,
    file: Path,
    *,
    spacing_mm: float,
    dtype: str = "int16",
    precision: str = "float32",
) -> None:
    """Decode one latent (C, i, j, k) to NIfTI, whole or not at all.

    The grid is RAS+ with the origin in the middle of the volume, as no scanner says where it was.
    """
    volume = decode(vae, latent[None], precision=precision)[0].numpy()
    affine = np.diag([spacing_mm] * 3 + [1.0])
    affine[:3, 3] = [-spacing_mm * (n - 1) / 2 for n in volume.shape]
    WRITERS[dtype](file, volume, affine)


def write_float32(path: Path, array: NDArray, affine: NDArray) -> None:
    """Write a volume as float32 NIfTI, whole or not at all; the same volume gives the same bytes."""
    image = nib.Nifti1Image(array.astype(np.float32), affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    part = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        part.write_bytes(gzip.compress(image.to_bytes(), compresslevel=3, mtime=0))
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


WRITERS = {"int16": write_volume, "float32": write_float32}


def digest(*nets: nn.Module) -> str:
    """Digest of all weights and buffers of these networks."""
    found = hashlib.blake2b(digest_size=16)
    for net in nets:
        for name, value in net.state_dict().items():
            found.update(name.encode())
            found.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return found.hexdigest()


def _part(out: Path, card: dict) -> Path:
    """The folder beside `out` to work in: that of a killed run where its card is the same, else an empty one."""
    part, text = out.with_name(f".{out.name}.part"), json.dumps(card, indent=1, sort_keys=True) + "\n"
    note = part / "card.json"
    if not note.exists() or note.read_text() != text:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        note.write_text(text)
        return part
    for half in part.glob(".*"):
        half.unlink()
    logger.info("%s: %d volumes of a run that was stopped are kept", part, len(list(part.glob("*.nii.gz"))))
    return part


def _store(path: Path, first: int, drawn: Tensor) -> None:
    """Write latents (B, C, I, J, K) to their place in a raw file of float32, before any volume of theirs."""
    values = drawn.float().numpy()
    with open(path, "r+b" if path.exists() else "w+b") as file:
        file.seek(first * values[0].nbytes)
        file.write(values.tobytes())


def _gather(raw: Path, shape: tuple[int, ...]) -> None:
    """Turn the raw file into latents.pt, one tensor, without holding it in memory."""
    mapped = torch.from_file(str(raw), shared=False, size=math.prod(shape), dtype=torch.float32)
    save_tensors(mapped.view(shape), raw.with_name("latents.pt"))
    raw.unlink()


def _row(number: int, file: Path, *, seed: int, steps: int, sampler: str) -> dict:
    """Row of samples.tsv: what `sample_batch` needs to make the sample again, and where its volume is."""
    about = {"number": number, "participant_id": f"sample-{number:05d}", "seed": seed}
    return {**about, "evaluations": steps, "sampler": sampler, "file": str(file)}
