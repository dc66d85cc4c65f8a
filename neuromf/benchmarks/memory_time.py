"""Hours of every job of a study on several machines, from operations, peak speed and an assumed utilisation."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from neuromf.benchmarks import memory_fake
from neuromf.benchmarks.memory_jobs import latent_shape, new_autoencoder, new_sampling, runs_by_memory, sections

LAST_WIDTHS = (0.625, 1.0, 1.25)  # widths of the lowest resolution, relative to the study's


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


def time_table(
    *,
    runs: Mapping[str, dict],
    pairs: dict,
    shape: Sequence[int],
    architecture: str,
    num_splits: int,
    precision: str,
    scans: int,
) -> list[dict[str, Any]]:
    """Operations and hours of every training, of all samples, of encoding and of fine-tuning.

    Arguments are those of `memory.jobs`, and scans (versions of all scans that are encoded).
    """
    latent = latent_shape(shape)
    vae: dict[str, Any] = {"architecture": architecture, "num_splits": num_splits, "shape": shape}
    groups = runs_by_memory(runs)
    counted = {names[0]: memory_fake.training_operations(**sections(runs[names[0]]), shape=latent) for names in groups}
    first = {name: names[0] for names in groups for name in names}
    rows = [training_row(name, run, *counted[first[name]]) for name, run in runs.items()]
    main = next(iter(runs.values()))
    rows.append(finetuning_row(main, pairs, latent))
    encoding = memory_fake.operations(lambda: new_autoencoder(**vae, task="encode", precision=precision))
    rows.append(row("encoding", scans, scans, **{precision: scans * encoding}))
    decoding = memory_fake.operations(
        lambda: new_autoencoder(**vae, task="decode", precision=main["samples"]["precision"])
    )
    return [*rows, sampling_row(runs, latent, decoding)]


def row(job: str, steps: int, images: int, *, bf16: float = 0.0, float32: float = 0.0) -> dict[str, Any]:
    """Row of the time table: operations in each precision, and hours on each machine."""
    hours = {name: machine.seconds(bf16, float32) / 3600 for name, machine in MACHINES.items()}
    return {"job": job, "steps": steps, "images": images, "PFLOP": (bf16 + float32) / 1e15, **hours}


def training_row(name: str, run: dict, matching: float, derivative: float) -> dict[str, Any]:
    """Row of a training, from the operations of a batch of flow matching and those that pairs with r < t add."""
    train, flow = run["train"], run["flow"]
    batches = train["accumulate"]
    open_steps = max(0, train["steps"] - flow["flow_matching_steps"])
    operations = {"bf16": 0.0, "float32": 0.0}
    operations["bf16" if train["precision"].startswith("bf16") else "float32"] += matching * train["steps"] * batches
    operations[flow.get("derivative_precision", "float32")] += derivative * open_steps * batches
    return row(name, train["steps"], train["batch"] * batches * train["steps"], **operations)


def finetuning_row(main: dict, pairs: dict, latent: tuple[int, ...]) -> dict[str, Any]:
    """Row of LoRA fine-tuning of the main run for all epochs, without its evaluations on validation pairs."""
    settings = sections(main, pairs)
    steps = pairs["finetune"]["epochs"] * math.ceil(pairs["n"] / pairs["finetune"]["batch"])
    flow, train = {**settings["flow"], "flow_matching_steps": 0}, {**settings["train"], "steps": steps}
    counted = memory_fake.training_operations(**settings, shape=latent)
    return training_row(f"LoRA, {pairs['n']} pairs", {"flow": flow, "train": train}, *counted)


def sampling_row(runs: Mapping[str, dict], latent: tuple[int, ...], decoding: float) -> dict[str, Any]:
    """Row of the samples of all runs: float32 network evaluations, and decoding in the precision of the samples."""
    operations, evaluations, volumes = {"bf16": 0.0, "float32": 0.0}, 0, 0
    for names in runs_by_memory(runs):
        evaluation = evaluation_operations(runs[names[0]], latent)
        for samples in (runs[name]["samples"] for name in names):
            n, decoded = samples["n"] * sum(samples["nfe"]), samples["n"] * len(samples["nfe"])
            operations["float32"] += n * evaluation
            operations[samples["precision"]] += decoded * decoding
            evaluations, volumes = evaluations + n, volumes + decoded
    return row("sampling, all runs", evaluations, volumes, **operations)


def evaluation_operations(run: dict, latent: tuple[int, ...]) -> float:
    """Operations of one network evaluation of one latent."""

    def build() -> tuple[list, Any]:
        u, draw = new_sampling(net=run["net"], flow=run["flow"], shape=latent, batch=1)
        return [u], draw

    return memory_fake.operations(build)


def size_table(runs: Mapping[str, dict], latent: tuple[int, ...]) -> list[dict[str, Any]]:
    """Memory and hours of the main run with other widths of the lowest resolution."""
    main = next(iter(runs.values()))
    return [size_row(main, latent, factor) for factor in LAST_WIDTHS]


def size_row(run: dict, latent: tuple[int, ...], factor: float) -> dict[str, Any]:
    """Row of the table of network sizes: the lowest resolution is `factor` times as wide."""
    *widths, last = run["net"]["widths"]
    unit = math.lcm(run["net"]["norm_groups"], run["net"]["head_width"])
    net = {**run["net"], "widths": [*widths, round(last * factor / unit) * unit]}
    settings = sections({**run, "net": net})
    account = memory_fake.training_account(**settings, shape=latent)
    hours = training_row("", settings, *memory_fake.training_operations(**settings, shape=latent))
    return {"widths": " ".join(map(str, net["widths"])), "million weights": account.gradients / 4,
            "MB": account.total, **{name: hours[name] for name in ("PFLOP", *MACHINES)}}  # fmt: skip
