"""Split the time of a study into work, start and end of jobs, and waiting.

    python -m tools.overhead results --cores 2

For a study that ran without interruption on cores of its own. Seconds of a job come from Snakemake's benchmark, seconds
of work from the last line of its log (`workflow_scripts/_cli.py`). Waiting is the remaining time of all cores between
the start of the first job and the end of the last one.
"""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from neuromf.report.page.costs import jobs
from neuromf.report.results import Results

WORKED = re.compile(r"worked ([\d.]+) s on (\d+) core")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="results of a finished study, with benchmarks/ and logs/")
    parser.add_argument("--cores", type=int, required=True, help="number of cores that Snakemake used")
    args = parser.parse_args(argv)
    table = work_by_job(args.results)
    wall = table["ended"].max() - (table["ended"] - table["s"]).min()
    busy, work = ((table[name] * table["cores"]).sum() / (wall * args.cores) for name in ("s", "work"))
    print(f"{len(table)} jobs in {wall / 60:.1f} minutes on {args.cores} cores: work {work:.1%}, "
          f"start and end of jobs {busy - work:.1%}, waiting {1 - busy:.1%}")  # fmt: skip


def work_by_job(results: Path) -> pd.DataFrame:
    """The table of `costs.jobs` with the columns work (seconds) and cores."""
    table = jobs(Results(results, "", [results / "benchmarks"]))
    if table.empty:
        raise SystemExit(f"no benchmarks in {results / 'benchmarks'}; run the study first")
    work, cores = zip(*(_logged_work(results / "logs" / f"{stem}.log") for stem in table["stem"]), strict=True)
    return table.assign(work=work, cores=cores)


def _logged_work(path: Path) -> tuple[float, int]:
    """Seconds of work and number of cores from the end of a log."""
    lines = WORKED.findall(path.read_text()) if path.exists() else []
    if not lines:
        raise SystemExit(f"{path} has no line 'worked ... s on ... cores'; run the study again")
    return float(lines[-1][0]), int(lines[-1][1])


if __name__ == "__main__":
    main()
