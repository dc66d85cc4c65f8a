"""Captions of figures and tables: reStructuredText from templates, with n, seeds, units and device of the study.

A caption is written from the provenance file (JSON) beside its figure or table and from the results. The report page
and Snakemake's own report show the same captions. A value that is missing is printed as not recorded.
"""

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment

from neuromf.core.files import write_text
from neuromf.figures import names
from neuromf.figures.catalogue import FIGURES, TABLES
from neuromf.metrics.table import SAMPLES
from neuromf.report import templating
from neuromf.report.results import Results
from neuromf.report.templating import MISSING

TEMPLATES = Path(__file__).parent
MARKUP = re.compile(r"([*`|_\\<>\[\]])")  # characters that reStructuredText reads as markup
FOLDERS = ("figures", "tables")


def write(results: Results, out: Path) -> list[str]:
    """Write the caption of every figure and table that has a provenance file to out/{name}.rst.

    Returns:
        Names of the figures and tables, sorted.
    """
    found = sorted(Path(path).stem for folder in FOLDERS for path in results.names(folder, ".json"))
    out.mkdir(parents=True, exist_ok=True)
    for name in found:
        write_text(out / f"{name}.rst", caption(name, results))
    return found


def caption(name: str, results: Results) -> str:
    """Caption of a figure or table as one paragraph of reStructuredText.

    Arguments:
        name: File name without suffix, such as fig_3, dashboard-meanflow or table_1.
        results: Results of the study, with the provenance file of the figure or table.

    Raises:
        FileNotFoundError: If the figure or table has no provenance file.
    """
    record = provenance(name, results)
    template, _, run = name.partition("-")
    known = (TEMPLATES / f"{template}.rst.j2").is_file()
    text = environment().get_template(f"{template if known else '_other'}.rst.j2").render(
        name=name, of_run=run or results.run, **_values(record, results), **_lookups(results)
    )  # fmt: skip
    return " ".join(text.split()) + "\n"


def provenance(name: str, results: Results) -> dict[str, Any]:
    """Content of the provenance file of a figure or table."""
    for folder in FOLDERS:
        if results.path(f"{folder}/{name}.json"):
            return results.json(f"{folder}/{name}.json")
    raise FileNotFoundError(
        f"no provenance file {name}.json in {' or '.join(FOLDERS)} of {results.root}; run the rule of that "
        "figure or table"
    )


@functools.cache
def environment() -> Environment:
    """Environment of the caption templates; the filter `plain` escapes text."""
    env = templating.environment(TEMPLATES)
    env.filters |= {"plain": plain, "number": templating.number, "percent": percent, "duration": templating.duration}
    return env


def plain(text: object) -> str:
    """Text with the markup characters of reStructuredText escaped."""
    return MARKUP.sub(r"\\\1", str(text))


def percent(value: float | None) -> str:
    return MISSING if value is None else f"{100 * value:.3g} %"


def _values(record: dict, results: Results) -> dict[str, Any]:
    """Values that the templates print, with defaults for missing ones."""
    distance = record.get("distance", {})
    metric = names.metric(distance.get("metric") or "distance")
    first = results.table(f"samples/{results.run}/nfe-1/samples.tsv")
    return {
        "record": record,
        "study": record.get("study", "without a name"),
        "run": results.run,
        "seed": record.get("seed", first["seed"][0] if len(first) else MISSING),
        "spacing_mm": record.get("spacing_mm"),
        "config": record.get("values", {}),
        "scan_counts": results.scan_counts,
        "metric": " in features ".join(filter(None, (metric, distance.get("features")))),
        "n_pairs": len(results.table("fcd/pairs.tsv")),
        "timing_device": results.timing_device,
    }


def _lookups(results: Results) -> dict[str, Callable]:
    return {
        "run_record": results.run_record,
        "json_file": results.json,
        "metric_row": results.row,
        "arms": lambda name: _arms(results.table(f"ablations/{(FIGURES | TABLES)[name].ablation}.csv")),
        "regions": lambda: _regions(results.table(f"runs/{results.run}/regions.csv")),
    }


def _arms(table: pd.DataFrame) -> dict[str, Any]:
    """Numbers of arms and runs of an ablation, training seeds, volumes per value, and arms without metrics."""
    if table.empty:
        return {"arms": 0, "runs": 0, "seeds": [], "n": [], "missing": []}
    measured, missing = table[table["metric"] != ""], table[table["metric"] == ""]
    distances = measured[(measured["metric"] == "frechet") & (measured["set"] == SAMPLES)]
    return {
        "arms": measured["arm"].nunique(),
        "runs": measured["run"].nunique(),
        "seeds": sorted(set(measured["seed"])),
        "n": sorted({int(n) for n in distances["n"].dropna()}),
        "missing": sorted({f"{row['arm']} (seed {row['seed']})" for row in missing.to_dict("records")}),
    }


def _regions(table: pd.DataFrame) -> str:
    """Number of volumes of each set with measured regions, as text."""
    if table.empty:
        return ""
    counts = table.groupby(["set", "region"], sort=False).size().groupby("set", sort=False).max()
    return ", ".join(f"{n} {plain(names.SETS.get(name, name))}" for name, n in counts.items())
