"""GPU memory and time of every job of a study, before it runs: a page with two accounts, and a refusal of small GPUs.

Jobs: the training of each run (runs with the same memory are one row), sampling, decoding, encoding.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from neuromf.benchmarks import memory_cpu, memory_fake
from neuromf.benchmarks.memory_jobs import CONTEXT_MB, Account, gpu_autocast, new_sampling
from neuromf.vae.maisi import ARCHITECTURES, DOWNSAMPLING, LATENT_CHANNELS, MAISIVAEWrapper

HALF = 2  # the real autoencoder runs on volumes of half the side, with an eighth of the memory
FLOW = ("prediction", "prior", "tangent", "target", "derivative")  # settings of the flow that change memory
TRAIN = ("batch", "precision", "averages", "checkpoint_activations")


@dataclass(frozen=True)
class Machine:
    """Peak operations per second in bfloat16 and in float32 (TF32 on a GPU), and the fraction that is reached."""

    bf16: float
    float32: float
    utilisation: float

    def seconds(self, bf16: float, float32: float) -> float:
        """Seconds of these operations."""
        return (bf16 / self.bf16 + float32 / self.float32) / self.utilisation


# Peaks without sparsity, from NVIDIA's data sheets; the CPU without a unit for bfloat16. Utilisation is an assumption.
MACHINES = {
    "RTX 4060 Laptop": Machine(24e12, 12e12, 0.3),
    "A100": Machine(312e12, 156e12, 0.3),
    "two CPU cores": Machine(0.2e12, 0.2e12, 0.5),
}


@dataclass(frozen=True)
class Job:
    """A GPU job: its name, the runs that it stands for, and its two accounts."""

    name: str
    fake: Callable[[], Account]
    cpu: Callable[[], Account]


def jobs(
    *, runs: Mapping[str, dict], shape: Sequence[int], architecture: str, num_splits: int, precision: str
) -> list[Job]:
    """GPU jobs of a study.

    Arguments:
        runs: Sections net, flow, train and samples of every run; the main run first.
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
    return [*found, sampling_job(main, latent), autoencoder_job(decode), autoencoder_job(encode)]


def latent_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """Latent shape (C, I, J, K) of volumes of this shape."""
    return LATENT_CHANNELS, *(n // DOWNSAMPLING for n in shape)


def runs_by_memory(runs: Mapping[str, dict]) -> list[list[str]]:
    """Names of the runs whose trainings need the same memory, the main run in the first list."""
    groups: dict[str, list[str]] = {}
    for name, run in runs.items():
        flow, train = run["flow"], run["train"]
        key = [run["net"], [flow[k] for k in FLOW], flow["times"]["fraction_r_equals_t"]]
        key += [[train[k] for k in TRAIN], len(train["ema_images"])]
        groups.setdefault(json.dumps(key, sort_keys=True), []).append(name)
    return list(groups.values())


def training_job(names: Sequence[str], run: dict, latent: tuple[int, ...]) -> Job:
    """Job of the trainings with these names."""
    settings: dict[str, Any] = {key: run[key] for key in ("net", "flow", "train")} | {"shape": latent}
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
    half = {**settings, "shape": [n // HALF for n in settings["shape"]]}

    def fake() -> Account:
        return memory_fake.inference_account(lambda: new_autoencoder(**settings, onednn=False))

    return Job(
        settings["task"], fake, lambda: memory_cpu.inference_account(lambda: new_autoencoder(**half), scale=HALF**3)
    )


def new_autoencoder(
    *, architecture: str, num_splits: int, shape: Sequence[int], task: str, precision: str, onednn: bool = True
) -> tuple[list[nn.Module], Callable[[], Tensor]]:
    """Autoencoder with random weights, and a function that encodes or decodes one volume."""
    vae = MAISIVAEWrapper(ARCHITECTURES[architecture], num_splits=num_splits)
    if not onednn:
        for module in vae.modules():
            module.__class__ = nn.Conv3d if isinstance(module, nn.Conv3d) else type(module)

    def call() -> Tensor:
        with gpu_autocast(precision):
            return vae.encode(torch.rand(1, 1, *shape))[0] if task == "encode" else vae.decode(torch.randn(1, *latent))

    latent = latent_shape(shape)
    return [vae], call


def write(*, study: str, table: Path, page: Path, **settings: Any) -> None:
    """Write both accounts of every job as CSV, and the page with memory and time.

    Arguments:
        study: Name of the study.
        table, page: CSV and Markdown file to write.
        settings: Arguments of `jobs`, and scans (versions of all scans that are encoded).
    """
    scans = settings.pop("scans")
    rows = [row(job) for job in jobs(**settings)]
    hours = time_table(settings["runs"], latent_shape(settings["shape"]))
    pd.DataFrame(rows).to_csv(table, index=False, float_format="%.6g")
    page.write_text(
        markdown(study, rows, hours, latents_mb=scans * math.prod(latent_shape(settings["shape"])) * 4 / 1e6)
    )


def row(job: Job) -> dict[str, Any]:
    """Row of the table: parts and total of the account with fake tensors, total of the other, their difference."""
    fake, cpu = job.fake(), job.cpu()
    totals = {"context": CONTEXT_MB, "total": fake.total, "total_cpu": cpu.total}
    return {"job": job.name, **asdict(fake), **totals, "difference": difference(fake, cpu)}


def difference(fake: Account, cpu: Account) -> float:
    """Difference of two accounts relative to the first, without the context."""
    return (cpu.total - fake.total) / (fake.total - CONTEXT_MB)


def time_table(runs: Mapping[str, dict], latent: tuple[int, ...]) -> list[dict[str, Any]]:
    """Operations and hours on each machine of the training of every run."""
    counted = {names[0]: memory_fake.training_operations(**_sections(runs[names[0]]), shape=latent)
               for names in runs_by_memory(runs)}  # fmt: skip
    first = {name: names[0] for names in runs_by_memory(runs) for name in names}
    return [time_row(name, run, *counted[first[name]]) for name, run in runs.items()]


def _sections(run: dict) -> dict:
    return {key: run[key] for key in ("net", "flow", "train")}


def time_row(name: str, run: dict, matching: float, derivative: float) -> dict[str, Any]:
    """Row of the time table, from the operations of a batch of flow matching and those that pairs with r < t add."""
    train = run["train"]
    open_steps = max(0, train["steps"] - run["flow"]["flow_matching_steps"])
    batches = train["accumulate"]
    plain, dual = matching * train["steps"] * batches, derivative * open_steps * batches
    bf16 = plain if train["precision"].startswith("bf16") else 0.0  # the derivative is float32 in either case
    hours = {m: machine.seconds(bf16, plain - bf16 + dual) / 3600 for m, machine in MACHINES.items()}
    return {"run": name, "steps": train["steps"], "images": train["batch"] * batches * train["steps"],
            "PFLOP": (plain + dual) / 1e15, **hours}  # fmt: skip


def refuse_small_card(*, study: str, card_mb: float, runs: Mapping[str, dict], shape: Sequence[int]) -> None:
    """Raise before the first job if a training of the study does not fit on the GPU.

    Raises:
        SystemExit: With the account, and the values to try.
    """
    latent = latent_shape(shape)
    for names in runs_by_memory(runs):
        run = runs[names[0]]
        account = memory_fake.training_account(**_sections(run), shape=latent)
        if account.total > card_mb:
            raise SystemExit(refusal(study, names[0], account, card_mb, run, fitting_batch(run, latent, card_mb)))


def fitting_batch(run: dict, latent: tuple[int, ...], card_mb: float) -> int:
    """Largest batch, by halving, whose training fits on the GPU; 0 if none does."""
    batch = run["train"]["batch"] // 2
    while batch:
        sections = {**_sections(run), "train": {**run["train"], "batch": batch}}
        if memory_fake.training_account(**sections, shape=latent).total <= card_mb:
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


def markdown(study: str, rows: Sequence[dict], hours: Sequence[dict], *, latents_mb: float) -> str:
    """Page with the memory of every job, the hours of every training, and notes."""
    total: dict[str, Any] = {name: sum(row[name] for row in hours) for name in ("images", "PFLOP", *MACHINES)}
    machines = "; ".join(f"{name}: {m.bf16 / 1e12:g} and {m.float32 / 1e12:g} TFLOP/s, {m.utilisation:.0%}"
                         for name, m in MACHINES.items())  # fmt: skip
    notes = [
        "Memory in MB (10^6 bytes). `total`: fake tensors, followed by torch's MemTracker. `total_cpu`: a real step on "
        "the CPU with a small batch, scaled. `difference`: between them, without the context.",
        f"`context`: {CONTEXT_MB:.0f} MB for the CUDA context, workspaces and fragmentation. Gradients count in full.",
        f"Hours are operations divided by peak and assumed utilisation ({machines}; bf16 and float32). The derivative "
        "is float32.",
        f"Host memory: all latents in float32 need {latents_mb:,.0f} MB; above half of mem_mb they stay on disk.",
    ]
    head = f"# Memory and time of study {study}\n\nComputed without a GPU.\n"
    tables = [_table(rows), _table([*hours, {"run": "all", "steps": "", **total}])]
    return "\n".join([head, tables[0], "", tables[1], "", *(f"- {note}" for note in notes)]) + "\n"


def _table(rows: Sequence[dict]) -> str:
    lines = [list(rows[0]), ["---", *["---:"] * (len(rows[0]) - 1)]]
    lines += [[_text(value) for value in row.values()] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
