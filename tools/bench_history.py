"""What rules took, from study to study: a line for each job in a table that git keeps.

    python -m tools.bench_history results docs/benchmarks.csv

Seconds and memory are those of Snakemake's benchmarks. It is run where the study ran, whose processor and commit it
writes down; neither the machine's name nor any path is written.
"""

import argparse
import json
import logging
import os
import platform
import re
import subprocess
from collections.abc import Sequence
from io import StringIO
from pathlib import Path

import pandas as pd

from neuromf.core.files import atomic_write
from neuromf.report.page.costs import jobs

COLUMNS = ["date", "commit", "study", "machine", "cores", "rule", "job", "seconds", "max_rss_mb"]
RAN = ["date", "study", "rule", "job", "seconds"]  # of one job that ran once, whoever looks at it and when

logger = logging.getLogger("tools.bench_history")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="of a study that ran: with its benchmarks and gates")
    parser.add_argument("history", type=Path, help="the table that lines are added to")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    new = lines(args.results, study=study_of(args.results), commit=commit())
    logger.info("%d new lines in %s", add(new, args.history), args.history)


def lines(results: Path, *, study: str, commit: str) -> pd.DataFrame:
    """The table's columns, a row for each job: when it ended (UTC), and what it took; no memory where it was too short.

    Raises:
        SystemExit: If there are no benchmarks.
    """
    table = jobs(results / "benchmarks")
    if table.empty:
        raise SystemExit(f"no benchmarks in {results / 'benchmarks'}: run a study first")
    date = pd.to_datetime(table["ended"].round(), unit="s", utc=True).dt.strftime("%Y-%m-%dT%H:%M:%SZ")
    about = {"commit": commit, "study": study, "machine": machine(), "cores": os.cpu_count()}
    table = table.assign(date=date, **about).rename(columns={"s": "seconds", "max_rss": "max_rss_mb"})
    return table[COLUMNS].sort_values(["date", "rule", "job"], ignore_index=True)


def add(new: pd.DataFrame, path: Path) -> int:
    """Append to a history the jobs that it does not hold yet; how many they are. What stands in it stays as it is."""
    text = path.read_text() if path.exists() else ",".join(COLUMNS) + "\n"
    known = set(_ran(pd.read_csv(StringIO(text), dtype=str, keep_default_na=False)))
    fresh = new[[ran not in known for ran in _ran(new)]]
    with atomic_write(path) as part:
        part.write_text(text + fresh.to_csv(index=False, header=False))
    return len(fresh)


def _ran(table: pd.DataFrame) -> list[tuple[str, ...]]:
    return list(table[RAN].astype(str).itertuples(index=False, name=None))


def study_of(results: Path) -> str:
    """The name of the study, as its gates have it.

    Raises:
        SystemExit: If there is no gate.
    """
    gates = sorted(results.glob("gates/phase_*.json"))
    if not gates:
        raise SystemExit(f"no gate in {results / 'gates'}, which would name the study: run a study first")
    return json.loads(gates[0].read_text())["study"]


def commit() -> str:
    """The commit that is checked out, with + where files differ from it."""
    here = Path(__file__).parent
    asked = ["git", "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=+"]
    return subprocess.run(asked, cwd=here, capture_output=True, text=True, check=True).stdout.strip()


def machine() -> str:
    """Model of the processor, such as AMD EPYC 7763."""
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text()) if cpuinfo.exists() else None
    return found[1].strip() if found else platform.machine()


if __name__ == "__main__":
    main()
