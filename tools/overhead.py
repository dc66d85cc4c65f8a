"""How much of a study's time was work, how much the start and end of its jobs, and how much waiting for one another.

    python -m tools.overhead results --cores 2

Of a study that ran in one go, on cores of its own. Seconds of a job are those of Snakemake's benchmark, those of its
work are in the last line of its log (`workflow_scripts/_cli.py`). Waiting is what remains of all cores from the start
of the first job to the end of the last: a core without a job, and Snakemake between two of them.
"""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from neuromf.report.page.costs import jobs

WORKED = re.compile(r"worked ([\d.]+) s on (\d+) core")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="of a study that ran: with its benchmarks and logs")
    parser.add_argument("--cores", type=int, required=True, help="that Snakemake was given")
    args = parser.parse_args(argv)
    table = worked(args.results)
    wall = table["ended"].max() - (table["ended"] - table["s"]).min()
    parts = ", ".join(f"{name} {share:.1%}" for name, share in shares(table, wall, args.cores).items())
    print(f"{len(table)} jobs in {wall / 60:.1f} minutes on {args.cores} cores: {parts}")


def worked(results: Path) -> pd.DataFrame:
    """The jobs of `costs.jobs`, with work (seconds) and cores of each.

    Raises:
        SystemExit: If there are none, or a log does not say how long its job worked.
    """
    table = jobs(results / "benchmarks")
    if table.empty:
        raise SystemExit(f"no benchmarks in {results / 'benchmarks'}: run a study first")
    found = [_last(results / "logs" / f"{stem}.log") for stem in table["stem"]]
    return table.assign(work=[work for work, _ in found], cores=[cores for _, cores in found])


def _last(path: Path) -> tuple[float, int]:
    """Seconds of work and cores, as the end of a log has them."""
    said = WORKED.findall(path.read_text()) if path.exists() else []
    if not said:
        raise SystemExit(f"{path} does not say how long its job worked: run the study anew")
    return float(said[-1][0]), int(said[-1][1])


def shares(table: pd.DataFrame, wall: float, cores: int) -> dict[str, float]:
    """Shares of all cores over wall seconds: work, start and end of jobs, waiting; their sum is 1."""
    busy, work = ((table[name] * table["cores"]).sum() / (wall * cores) for name in ("s", "work"))
    return {"work": work, "start and end of jobs": busy - work, "waiting": 1 - busy}


if __name__ == "__main__":
    main()
