"""Costs of a study: run time and memory of every rule, from Snakemake's benchmark files."""

import pandas as pd

from neuromf.report.results import Results

COLUMNS = ["rule", "jobs", "seconds", "longest", "peak_mb"]


def costs(results: Results) -> pd.DataFrame:
    """One row per rule, the most expensive first.

    Returns:
        Columns rule, jobs (number), seconds (sum over jobs), longest (seconds of the longest job) and peak_mb (largest
        resident memory of a job; NaN if all jobs were too short to be sampled). Each job counts with its last run.
    """
    table = jobs(results)
    if table.empty:
        return pd.DataFrame(columns=COLUMNS)
    rules = table.groupby("rule").agg(
        jobs=("s", "size"), seconds=("s", "sum"), longest=("s", "max"), peak_mb=("max_rss", "max")
    )
    return rules.reset_index().sort_values(["seconds", "rule"], ascending=[False, True], ignore_index=True)


def jobs(results: Results) -> pd.DataFrame:
    """One row per benchmark file, benchmarks/{rule}.tsv or benchmarks/{rule}/{wildcards}.tsv.

    Returns:
        Columns s, max_rss (MB), rule, job (wildcards, "" without), ended (seconds since 1970) and stem (path below
        benchmarks/ without suffix; logs/{stem}.log is the log of the job).
    """
    tables = [_job(name, results) for name in results.names("benchmarks", ".tsv")]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def _job(name: str, results: Results) -> pd.DataFrame:
    path = results.root / name
    stem = name.removeprefix("benchmarks/").removesuffix(".tsv")
    rule, _, job = stem.removeprefix("partial/").partition("/")
    rule += " (partial)" * stem.startswith("partial/")
    table = pd.read_csv(path, sep="\t", na_values=["-", "NA"]).reindex(columns=["s", "max_rss"]).astype(float)
    return table.assign(rule=rule, job=job, ended=path.stat().st_mtime, stem=stem)
