"""Projected costs of a larger study, extrapolated from the benchmarks of a smaller one: jobs, hours, memory, disk.

Each stage is measured in its own unit and scaled linearly. A training is one job, which further workers do not shorten,
because multi-GPU training was not timed.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from neuromf.data.participants import read_table


@dataclass(frozen=True)
class Stage:
    """Measured costs of one stage, and its size in the planned study.

    Arguments:
        name: Rule.
        unit: Unit of the counts, such as "scan".
        units: Number of measured units.
        seconds: Seconds of all measured jobs.
        peak_mb: Peak memory of the largest job in MB.
        megabytes: Disk space of the measured outputs in MB.
        planned: Number of units of the planned study.
        jobs: Number of jobs of the planned study.
    """

    name: str
    unit: str
    units: int
    seconds: float
    peak_mb: float
    megabytes: float
    planned: int
    jobs: int

    def hours(self, workers: int) -> float:
        """Hours from the first to the last job with this number of workers."""
        return self.seconds / self.units * self.planned / 3600 / self.jobs * math.ceil(self.jobs / workers)


def write(
    *,
    qc: Path,
    volumes: Sequence[Path],
    latents: Sequence[Path],
    card: Path,
    samples: Sequence[Path],
    benchmarks: Path,
    plan: Mapping[str, Any],
    table: Path,
    page: Path,
) -> None:
    """Write the projected costs as CSV and as Markdown.

    Arguments:
        qc: Table of scans.
        volumes: Folders of preprocessed volumes.
        latents: Files of latents.
        card: Record of the run (card.json).
        samples: Folders of samples, one per NFE.
        benchmarks: Folder of Snakemake's benchmarks.
        plan: Config section projection (scans, trainings, steps, samples, workers), with study, shape, scans_per_shard
            and versions (latents per training scan, with augmented versions).
        table, page: CSV and Markdown file to write.
    """
    record, scans = json.loads(card.read_text()), read_table(qc)
    train = int((scans["split"] == "train").sum())
    encoded = int((scans["status"] == "accepted").sum()) + (plan["versions"] - 1) * train
    drawn = sum(len(read_table(folder / "samples.tsv")) for folder in samples)
    units = {"scan": len(scans), "train": train, "encoded": encoded, "drawn": drawn}
    disk = {"prepare": volumes, "encode": latents, "train": [card.parent], "sample": samples}
    megabytes = {name: disk_megabytes(paths) for name, paths in disk.items()}
    stages = measured_stages(record, plan, units, megabytes, benchmarks, card.parent.name, len(samples))
    rows = [projected(stage, plan["workers"]) for stage in stages]
    pd.DataFrame(rows).to_csv(table, index=False, float_format="%.6g")
    title = f"{plan['scans']:,} scans, projected from study {plan['study']}"
    page.write_text(markdown(rows, title=title, notes=notes(record, plan)))


def measured_stages(
    record: Mapping[str, Any],
    plan: Mapping[str, Any],
    units: Mapping[str, int],
    megabytes: Mapping[str, float],
    benchmarks: Path,
    run: str,
    n_nfe: int,
) -> list[Stage]:
    """Measured costs and planned size of every stage.

    Arguments:
        record, plan, benchmarks: See `write`; `record` is the content of card.json.
        units: Numbers of scans, training scans, latents ("encoded") and samples ("drawn").
        megabytes: Disk space of the outputs by stage in MB.
        run: Name of the run.
        n_nfe: Number of NFEs at which samples are drawn.
    """

    def stage(name: str, unit: str, n: int, planned: int, jobs: int, benchmark: str = "") -> Stage:
        return Stage(name, unit, n, *job_costs(benchmarks, benchmark or name), megabytes.get(name, 0.0), planned, jobs)

    scans, runs, n = plan["scans"], plan["trainings"], units["scan"]
    shards, drawn = math.ceil(scans / plan["scans_per_shard"]), plan["samples"] * n_nfe * runs
    latents, train = round(scans * units["encoded"] / n), round(scans * units["train"] / n)
    seconds = record["seconds"] / record["config"]["train"]["steps"] * plan["steps"]
    return [
        stage("prepare", "scan", n, scans, shards),
        stage("encode", "version of a scan", units["encoded"], latents, shards),
        stage("latent_statistics", "training scan", units["train"], train, 1),
        Stage("train", f"{plan['steps']:,} steps", 1, seconds, record["peak_mb"], megabytes["train"], runs, runs),
        stage("sample", "volume", units["drawn"], drawn, n_nfe * runs, f"sample/{run}*"),
        stage("reference", "scan", n, scans, 1),
        stage("evaluate", "volume", units["drawn"], drawn, runs, f"evaluate/{run}*"),
    ]


def notes(record: Mapping[str, Any], plan: Mapping[str, Any]) -> list[str]:
    """Conditions of the measurement and of the projection."""
    return [
        f"Measured on {record['device']}: volumes of {' x '.join(map(str, plan['shape']))} voxels, a network of "
        f"{record['parameters']:,} parameters, batch {record['config']['train']['batch']}. Another network, grid or "
        "machine needs its own measurements.",
        f"Planned: trainings: {plan['trainings']}; {plan['samples']:,} samples per NFE; {plan['scans_per_shard']} "
        "scans per shard. Hours are for the given number of workers with one job each; a training is one job.",
        "Seconds include the start of every job. Memory is that of the largest measured job. Training latents that "
        "need more than half of mem_mb stay on disk, so the memory of a training does not grow with the number of "
        "scans; the memory of reference and evaluate does.",
    ]


def job_costs(benchmarks: Path, name: str) -> tuple[float, float]:
    """Seconds of all jobs of a rule, and the peak memory of the largest job in MB."""
    files = sorted([*benchmarks.glob(f"{name}.tsv"), *benchmarks.glob(f"{name}/*.tsv")])
    if not files:
        raise SystemExit(f"no benchmark of {name} in {benchmarks}; run the study first")
    table = pd.concat([pd.read_csv(path, sep="\t") for path in files])
    return float(table["s"].sum()), float(table["max_rss"].max())


def disk_megabytes(paths: Sequence[Path]) -> float:
    """Disk space of files, and of all files in folders, in MB."""
    files = [file for path in paths for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file()]
    return sum(file.stat().st_size for file in files) / 1e6


def projected(stage: Stage, workers: Sequence[int]) -> dict[str, Any]:
    """A row of the table: seconds per unit, hours by number of workers, peak MB of a job, GB on disk."""
    return {
        "stage": stage.name,
        "unit": stage.unit,
        "planned": stage.planned,
        "jobs": stage.jobs,
        "s_per_unit": stage.seconds / stage.units,
        **{f"hours_{n}": stage.hours(n) for n in workers},
        "peak_mb": stage.peak_mb,
        "gb": stage.megabytes / stage.units * stage.planned / 1e3,
    }


def total(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Totals: stages run one after another, and all outputs stay on disk."""
    summed = [name for name in rows[0] if name.startswith("hours_") or name in ("jobs", "gb")]
    sums = {name: sum(row[name] for row in rows) for name in summed}
    return {**dict.fromkeys(rows[0], ""), "stage": "all", **sums, "peak_mb": max(row["peak_mb"] for row in rows)}


def markdown(rows: Sequence[Mapping[str, Any]], *, title: str, notes: Sequence[str]) -> str:
    """Title, table with totals, and notes."""
    names = {"s_per_unit": "s per unit", "peak_mb": "peak of a job (MB)", "gb": "disk (GB)"}
    headers = [names.get(name, name.replace("hours_", "hours, workers: ")) for name in rows[0]]
    lines = [headers, ["---"] + ["---:"] * (len(headers) - 1)]
    lines += [[_text(value) for value in row.values()] for row in [*rows, total(rows)]]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"# {title}\n\n{table}\n\n" + "\n".join(f"- {note}" for note in notes) + "\n"


def _text(value: object) -> str:
    """Numbers with three significant digits, integers in full."""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
