"""What the study cost: seconds and memory of its rules, from the benchmark of every job that ran."""

from pathlib import Path

import pandas as pd


def costs(folder: Path) -> pd.DataFrame:
    """One row per rule, the dearest first, over the last run of each of its jobs.

    Arguments:
        folder: Benchmarks as Snakemake writes them: {rule}.tsv, or {rule}/{wildcards}.tsv; partial results apart.

    Returns:
        Columns rule, jobs, seconds (of all jobs), longest (of one, seconds) and peak_mb (resident, of the largest job;
        NaN where no job lasted long enough to be looked at).
    """
    table = jobs(folder)
    if table.empty:
        return pd.DataFrame(columns=["rule", "jobs", "seconds", "longest", "peak_mb"])
    found = table.groupby("rule", sort=True).agg(
        jobs=("s", "size"), seconds=("s", "sum"), longest=("s", "max"), peak_mb=("max_rss", "max")
    )
    return found.reset_index().sort_values(["seconds", "rule"], ascending=[False, True], ignore_index=True)


def jobs(folder: Path) -> pd.DataFrame:
    """One row per job: rule, job (its wildcards, "" without), s, max_rss (MB), ended (seconds since 1970) and stem.

    The stem is the path of its benchmark below the folder, without .tsv: that of its log, too, below theirs.
    """
    found = [_job(path, folder) for path in sorted(folder.rglob("*.tsv"))]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()


def _job(path: Path, folder: Path) -> pd.DataFrame:
    parts = path.relative_to(folder).with_suffix("").parts
    where = parts[1:] if parts[0] == "partial" else parts
    rule = f"{where[0]} (partial)" if parts[0] == "partial" else where[0]
    table = pd.read_csv(path, sep="\t", na_values=["-", "NA"])
    about = {"rule": rule, "job": "/".join(where[1:]), "ended": path.stat().st_mtime, "stem": "/".join(parts)}
    return table.reindex(columns=["s", "max_rss"]).astype(float).assign(**about)


def said(seconds: float) -> str:
    """A span of time as a person says it: 8.4 s, 12 min, 3.2 h."""
    if seconds < 90:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
