"""GPU memory and time of every job of a study, before it runs: a page with two accounts, and a refusal of small GPUs.

Jobs: the training of each run (runs with the same memory are one row), LoRA fine-tuning, sampling, decoding, encoding.
"""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor, nn

from neuromf.benchmarks import memory_cpu, memory_fake, memory_time
from neuromf.benchmarks.memory_jobs import (
    CONTEXT_MB,
    Account,
    latent_shape,
    new_autoencoder,
    new_sampling,
    runs_by_memory,
    sections,
)
from neuromf.benchmarks.memory_time import MACHINES

logger = logging.getLogger(__name__)

HALF = 2  # the real autoencoder runs on volumes of half the side, with an eighth of the memory


@dataclass(frozen=True)
class Job:
    """A GPU job: its name, the runs that it stands for, and its two accounts."""

    name: str
    fake: Callable[[], Account]
    cpu: Callable[[], Account]


def jobs(
    *,
    runs: Mapping[str, dict],
    pairs: dict,
    shape: Sequence[int],
    architecture: str,
    num_splits: int,
    precision: str,
) -> list[Job]:
    """GPU jobs of a study.

    Arguments:
        runs: Sections net, flow, train and samples of every run; the main run first.
        pairs: Sections adapter and finetune of fine-tuning, and n (training pairs with their versions).
        shape: Shape of volumes in voxels.
        architecture: Key of `ARCHITECTURES`.
        num_splits: Pieces of each convolution of the autoencoder.
        precision: Precision of encoding, "float32" or "bf16".
    """
    latent = latent_shape(shape)
    found = [training_job(names, runs[names[0]], latent) for names in runs_by_memory(runs)]
    main = next(iter(runs.values()))
    vae = {"architecture": architecture, "num_splits": num_splits, "shape": shape}
    decode, encode = ({**vae, "task": "decode", "precision": main["samples"]["precision"]},
                      {**vae, "task": "encode", "precision": precision})  # fmt: skip
    found.append(training_job(["LoRA"], main, latent, pairs))
    return [*found, sampling_job(main, latent), autoencoder_job(decode), autoencoder_job(encode)]


def training_job(names: Sequence[str], run: dict, latent: tuple[int, ...], pairs: dict | None = None) -> Job:
    """Job of the trainings with these names; with `pairs`, of the fine-tuning of a run."""
    settings: dict[str, Any] = {**sections(run, pairs), "shape": latent}
    more = f" and {len(names) - 1} more" if names[1:] else ""
    return Job(f"train {names[0]}{more}", lambda: memory_fake.training_account(**settings),
               lambda: memory_cpu.training_account(**settings))  # fmt: skip


def sampling_job(run: dict, latent: tuple[int, ...]) -> Job:
    """Job that draws latents with the network of a run."""
    n = run["samples"]["batch"]

    def build(batch: int) -> tuple[list[nn.Module], Callable[[], Tensor]]:
        u, draw = new_sampling(net=run["net"], flow=run["flow"], shape=latent, batch=batch)
        return [u], draw

    return Job("sample, network", lambda: memory_fake.inference_account(lambda: build(n)),
               lambda: memory_cpu.inference_account(lambda: build(1), scale=n))  # fmt: skip


def autoencoder_job(settings: dict) -> Job:
    """Job that encodes or decodes one volume."""
    half = {**settings, "shape": [n // HALF for n in settings["shape"]], "onednn": True}

    def fake() -> Account:
        return memory_fake.inference_account(lambda: new_autoencoder(**settings))

    return Job(
        settings["task"],
        fake,
        lambda: memory_cpu.inference_account(lambda: new_autoencoder(**half), scale=HALF**3),
    )


def write(*, study: str, main: str, table: Path, page: Path, **settings: Any) -> None:
    """Write both accounts of every job as CSV, and the page with memory and time.

    Arguments:
        study: Name of the study.
        main: Name of the main run, which is fine-tuned and whose sampling is counted.
        table, page: CSV and Markdown file to write.
        settings: Arguments of `jobs`, and scans (versions of all scans that are encoded).
    """
    scans, runs = settings.pop("scans"), settings["runs"]
    settings["runs"] = {main: runs[main]} | runs  # runs from JSON are in alphabetical order
    rows, latent = [row(job) for job in jobs(**settings)], latent_shape(settings["shape"])
    hours, sizes = memory_time.time_table(scans=scans, **settings), memory_time.size_table(settings["runs"], latent)
    pd.DataFrame(rows).to_csv(table, index=False, float_format="%.6g")
    page.write_text(markdown(study, rows, hours, sizes, latents_mb=scans * math.prod(latent) * 4 / 1e6))


def row(job: Job) -> dict[str, Any]:
    """Row of the table: parts and total of the account with fake tensors, total of the other, their difference."""
    fake, cpu = job.fake(), job.cpu()
    logger.info("%s: %.0f and %.0f MB", job.name, fake.total, cpu.total)
    totals = {"context": CONTEXT_MB, "total": fake.total, "total_cpu": cpu.total}
    return {"job": job.name, **asdict(fake), **totals, "difference": difference(fake, cpu)}


def difference(fake: Account, cpu: Account) -> float:
    """Difference of two accounts relative to the first, without the context."""
    return (cpu.total - fake.total) / (fake.total - CONTEXT_MB)


def refuse_small_card(*, study: str, card_mb: float, runs: Mapping[str, dict], shape: Sequence[int]) -> None:
    """Raise before the first job if a training of the study does not fit on the GPU.

    Raises:
        SystemExit: With the account, and the values to try.
    """
    latent = latent_shape(shape)
    for names in runs_by_memory(runs):
        run = runs[names[0]]
        account = memory_fake.training_account(**sections(run), shape=latent)
        if account.total > card_mb:
            raise SystemExit(refusal(study, names[0], account, card_mb, run, fitting_batch(run, latent, card_mb)))


def fitting_batch(run: dict, latent: tuple[int, ...], card_mb: float) -> int:
    """Largest batch, by halving, whose training fits on the GPU; 0 if none does."""
    batch = run["train"]["batch"] // 2
    while batch:
        smaller = sections({**run, "train": {**run["train"], "batch": batch}})
        if memory_fake.training_account(**smaller, shape=latent).total <= card_mb:
            return batch
        batch //= 2
    return 0


def refusal(study: str, name: str, account: Account, card_mb: float, run: dict, batch: int) -> str:
    """Message with the account of a training that does not fit, and the values to try."""
    parts = ", ".join(f"{part} {value:,.0f}" for part, value in asdict(account).items())
    train = run["train"]
    way_out = (
        f"set meanflow.train.batch to {batch} (now {train['batch']}) and meanflow.train.accumulate to "
        f"{train['accumulate'] * train['batch'] // batch} (now {train['accumulate']})"
        if batch
        else f"lower meanflow.net.widths (now {run['net']['widths']})"
    )
    return (
        f"study {study} was not started: train {name} needs {account.total:,.0f} MB of GPU memory, the GPU has "
        f"{card_mb:,.0f} MB. Account in MB: {parts}, context {CONTEXT_MB:,.0f}. For this GPU {way_out}, or use "
        "studies/ixi.yaml, which is written for 8 GB."
    )


def markdown(
    study: str, rows: Sequence[dict], hours: Sequence[dict], sizes: Sequence[dict], *, latents_mb: float
) -> str:
    """Page with the memory of every job, the hours of every job, other sizes of the network, and notes."""
    total: dict[str, Any] = {name: sum(row[name] for row in hours) for name in ("images", "PFLOP", *MACHINES)}
    machines = "; ".join(f"{name}: {m.bf16 / 1e12:g} and {m.float32 / 1e12:g} TFLOP/s, {m.utilisation:.0%}"
                         for name, m in MACHINES.items())  # fmt: skip
    notes = [
        "Memory in MB (10^6 bytes). `total`: fake tensors, followed by torch's MemTracker. `total_cpu`: real steps on "
        "the CPU with two small batches, extrapolated. `difference`: between them, without the context.",
        f"`context`: {CONTEXT_MB:.0f} MB for the CUDA context, workspaces and fragmentation. Gradients count in full.",
        f"Hours are operations divided by peak and assumed utilisation ({machines}; bf16 and float32). `steps`: "
        "optimiser steps, or network evaluations of all samples; `images`: latents or volumes that are computed. "
        "Decoding and encoding count one volume at a time; reading and writing files is not counted.",
        "Last table: the main run with other widths of the lowest resolution, memory from fake tensors.",
        f"Host memory: all latents in float32 need {latents_mb:,.0f} MB; above half of mem_mb they stay on disk.",
    ]
    head = f"# Memory and time of study {study}\n\nComputed without a GPU.\n"
    tables = [_table(rows), _table([*hours, {"job": "all", "steps": "", **total}]), _table(sizes)]
    return "\n".join([head, *(f"{table}\n" for table in tables), *(f"- {note}" for note in notes)]) + "\n"


def _table(rows: Sequence[dict]) -> str:
    lines = [list(rows[0]), ["---", *["---:"] * (len(rows[0]) - 1)]]
    lines += [[_text(value) for value in row.values()] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
