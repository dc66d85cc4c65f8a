"""What a study of many scans would take, from the benchmarks and the files of this one."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from neuromf.benchmarks.projection import Stage, page, row
from neuromf.data.participants import read_table
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    inputs = ("benchmarks", "qc", "volumes:paths", "latents:paths", "card", "samples:paths", "config:json")
    args = arguments(__doc__, argv, *inputs, "table", "page")
    plan, card = args.config, json.loads(args.card.read_text())
    rows = [row(stage, plan["workers"]) for stage in stages(args, plan, card)]
    pd.DataFrame(rows).to_csv(args.table, index=False, float_format="%.6g")
    args.page.write_text(
        page(rows, title=f"{plan['scans']:,} scans, from what {plan['study']} took", notes=notes(plan, card))
    )


def stages(args: argparse.Namespace, plan: dict, card: dict) -> list[Stage]:
    """What was measured here, stage by stage, and how much of it is planned."""
    qc, run = read_table(args.qc), args.card.parent.name
    train = int((qc["split"] == "train").sum())
    encoded = int((qc["status"] == "accepted").sum()) + (plan["versions"] - 1) * train
    scans, runs, evaluations = plan["scans"], plan["trainings"], len(args.samples)
    shards = -(-scans // plan["scans_per_shard"])
    drawn = sum(len(read_table(folder / "samples.tsv")) for folder in args.samples)
    draws = plan["samples"] * evaluations * runs
    seconds = card["seconds"] / card["config"]["train"]["steps"] * plan["steps"]
    taken = {name: cost(args.benchmarks, name) for name in ("prepare", "encode", "stats", "reference")}
    taken |= {name: cost(args.benchmarks, f"{name}/{run}*") for name in ("sample", "measure")}
    return [
        Stage("prepare", "scan", len(qc), *taken["prepare"], megabytes(args.volumes), scans, shards),
        Stage("encode", "version of a scan", encoded, *taken["encode"], megabytes(args.latents),
              round(scans * encoded / len(qc)), shards),
        Stage("stats", "training scan", train, *taken["stats"], 0.0, round(scans * train / len(qc)), 1),
        Stage("train", f"{plan['steps']:,} steps", 1, seconds, card["peak_mb"], megabytes([args.card.parent]), runs,
              runs),
        Stage("sample", "volume", drawn, *taken["sample"], megabytes(args.samples), draws, evaluations * runs),
        Stage("reference", "scan", len(qc), *taken["reference"], 0.0, scans, 1),
        Stage("measure", "volume", drawn, *taken["measure"], 0.0, draws, runs),
    ]  # fmt: skip


def cost(benchmarks: Path, name: str) -> tuple[float, float]:
    """Seconds of all jobs of a rule, and the largest memory of one in MB."""
    found = sorted([*benchmarks.glob(f"{name}.tsv"), *benchmarks.glob(f"{name}/*.tsv")])
    if not found:
        raise SystemExit(
            f"no benchmark of {name} in {benchmarks}: its jobs have not run here, so nothing is known of them"
        )
    table = pd.concat([pd.read_csv(path, sep="\t") for path in found])
    return float(table["s"].sum()), float(table["max_rss"].max())


def megabytes(paths: Sequence[Path]) -> float:
    """What files, and all below folders, take on disk."""
    files = [file for path in paths for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file()]
    return sum(file.stat().st_size for file in files) / 1e6


def notes(plan: dict, card: dict) -> list[str]:
    """What has to be known to read the table."""
    shape = " x ".join(map(str, plan["shape"]))
    return [
        f"Measured on {card['device']}: volumes of {shape} voxels, a network of {card['parameters']:,} parameters at "
        f"batch {card['config']['train']['batch']}. Another network, grid or machine needs a small study of its own.",
        f"Planned: trainings: {plan['trainings']}; {plan['samples']:,} volumes for each number of evaluations, "
        f"{plan['scans_per_shard']} scans a shard. Hours are of so many workers, one job each; a training is one job.",
        "Seconds hold the start of every job. Memory is that of the largest job here; training latents that need more "
        "than half of a job's mem_mb stay on disk, so that a training does not grow with the scans; reference and "
        "measure hold their volumes, and grow with them.",
    ]


if __name__ == "__main__":
    main()
