"""Add run time and memory of every job of a finished study to a table under version control.

    python -m tools.bench_history results docs/benchmarks.csv

Values come from Snakemake's benchmark files. Run it on the machine of the study: processor and commit are recorded, but
neither host name nor paths.
"""

import argparse
import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from neuromf.core.files import write_text
from neuromf.core.hardware import device_name
from neuromf.report.page.costs import jobs
from neuromf.report.results import Results

COLUMNS = ["date", "commit", "study", "machine", "cores", "rule", "job", "seconds", "max_rss_mb"]
KEY = ["date", "study", "rule", "job", "seconds"]  # identifies one run of a job


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="results of a finished study, with benchmarks/ and gates/")
    parser.add_argument("history", type=Path, help="CSV file that the rows are added to")
    args = parser.parse_args(argv)
    print(f"{add(rows(args.results, commit()), args.history)} new rows in {args.history}")


def rows(results: Path, commit: str) -> pd.DataFrame:
    """One row per job with its end (UTC), seconds and memory (NaN if the job was too short)."""
    table = jobs(Results(results, "", [results / "benchmarks"]))
    gates = sorted(results.glob("gates/phase_*.json"))
    if table.empty or not gates:
        missing = "benchmarks" if table.empty else "gates"
        raise SystemExit(f"no {missing} in {results / missing}; run the study first")
    date = pd.to_datetime(table["ended"].round(), unit="s", utc=True).dt.strftime("%Y-%m-%dT%H:%M:%SZ")
    about = {"commit": commit, "study": json.loads(gates[0].read_text())["study"],
             "machine": device_name("cpu").rpartition(", ")[0], "cores": os.cpu_count()}  # fmt: skip
    table = table.assign(date=date, **about).rename(columns={"s": "seconds", "max_rss": "max_rss_mb"})
    return table[COLUMNS].sort_values(["date", "rule", "job"], ignore_index=True)


def add(new: pd.DataFrame, path: Path) -> int:
    """Append rows that the history lacks; existing lines do not change. Returns the number of new rows."""
    text = path.read_text() if path.exists() else ",".join(COLUMNS) + "\n"
    known = pd.read_csv(path, dtype=str, keep_default_na=False) if path.exists() else pd.DataFrame(columns=COLUMNS)
    keys = set(known[KEY].itertuples(index=False, name=None))
    fresh = new[[key not in keys for key in new[KEY].astype(str).itertuples(index=False, name=None)]]
    write_text(path, text + fresh.to_csv(index=False, header=False))
    return len(fresh)


def commit() -> str:
    """The commit that is checked out, with + if files differ from it."""
    command = ["git", "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=+"]
    return subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main()
