"""Captions of figures and tables: reStructuredText, from templates, with the n, seeds, units and device of this study.

A caption is made from the side file of its figure and from the results it was drawn from, and serves the page and
Snakemake's own report alike. What is not recorded is said to be so.
"""

import functools
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from neuromf.report.page.costs import said
from neuromf.report.results import Results

TEMPLATES = Path(__file__).parent
MARKUP = re.compile(r"([*`|_\\<>\[\]])")  # what reStructuredText would take for markup
KINDS = ("figures", "tables")
METRICS = {"frechet": "Fréchet distance", "kid": "KID"}
ABLATIONS = {"fig_4": "rectified", "fig_5": "lp", "fig_6": "prediction", "table_2": "prediction", "table_3": "lp"}


def caption(name: str, results: Results) -> str:
    """The caption of a figure or table, as one paragraph of reStructuredText.

    Arguments:
        name: Its file without suffix, such as fig_3, dashboard-meanflow or table_1.
        results: Where its side file and the numbers of the study are.

    Raises:
        FileNotFoundError: If there is no side file of that name among figures and tables.
    """
    facts = side_file(name, results)
    template, _, of = name.partition("-")
    known = (TEMPLATES / f"{template}.rst.j2").is_file()
    text = environment().get_template(f"{template if known else '_other'}.rst.j2").render(
        name=name, of=of or results.run, **_words(facts, results), **_lookups(facts, results)
    )  # fmt: skip
    return " ".join(text.split()) + "\n"


def write(results: Results, out: Path) -> list[str]:
    """Write the caption of every figure and table that has a side file as out/{name}.rst; their names, sorted."""
    names = sorted({path.stem for kind in KINDS for path in results.files(f"{kind}/*.json")})
    out.mkdir(parents=True, exist_ok=True)
    for name in names:
        (out / f"{name}.rst").write_text(caption(name, results), encoding="utf-8")
    return names


def side_file(name: str, results: Results) -> dict[str, Any]:
    """What made a figure or table, as its side file says."""
    for kind in KINDS:
        if results.file(f"{kind}/{name}.json"):
            return results.facts(f"{kind}/{name}.json")
    raise FileNotFoundError(
        f"no side file {name}.json in {' or '.join(KINDS)} of {results.root}; the rule of that figure or table makes it"
    )


@functools.cache
def environment() -> Environment:
    """The environment of the templates: an unknown name is an error, text is escaped by the filter `plain`."""
    env = Environment(loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, trim_blocks=True)
    env.filters |= {"plain": plain, "number": number, "percent": percent, "span": said}
    return env


def plain(text: object) -> str:
    """Text as reStructuredText shows it, no part of it taken for markup."""
    return MARKUP.sub(r"\\\1", str(text))


def number(value: str | float | None) -> str:
    """A number in three significant digits, whole ones whole; text as it is."""
    if value is None or isinstance(value, float) and not math.isfinite(value):
        return "not recorded"
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if float(value).is_integer() or abs(value) >= 1000 else f"{value:.3g}"


def percent(value: float | None) -> str:
    return "not recorded" if value is None else f"{100 * value:.3g} %"


def _words(facts: dict, results: Results) -> dict[str, Any]:
    """What a template reads of the side file, whether or not it is there."""
    distance = facts.get("distance", {})
    metric = METRICS.get(distance.get("metric"), distance.get("metric") or "distance")
    return {
        "facts": facts,
        "study": facts.get("study", "without a name"),
        "run": results.run,
        "seed": facts.get("seed", _seed(results)),
        "spacing_mm": facts.get("spacing_mm"),
        "values": facts.get("values", {}),
        "people_in": results.people,
        "metric": " in features ".join(filter(None, (metric, distance.get("features")))),
        "pairs": len(results.rows("fcd/pairs.tsv")),
    }


def _seed(results: Results) -> object:
    """Seed of the noise of samples, of the first sample of one evaluation."""
    table = results.rows(f"samples/{results.run}/nfe-1/samples.tsv")
    return table["seed"][0] if len(table) else "not recorded"


def _lookups(facts: dict, results: Results) -> dict[str, Callable]:
    return {
        "card": results.card,
        "file": results.facts,
        "value": results.value,
        "arms": lambda name: _arms(results.rows(f"ablations/{ABLATIONS[name]}.csv")),
        "regions": lambda: _regions(results.rows(f"runs/{results.run}/regions.csv")),
        "timed": lambda: _timed(results.rows(f"bench/generation-{results.run}.csv")),
    }


def _arms(table: pd.DataFrame) -> dict[str, Any]:
    """How many arms and runs an ablation has, their seeds, volumes of each number, and arms that are missing."""
    if table.empty:
        return {"arms": 0, "runs": 0, "seeds": [], "n": [], "missing": []}
    made = table[table["metric"] != ""]
    absent = table[table["metric"] == ""]
    drawn = made[(made["metric"] == "frechet") & made["nfe"].str.isdigit()]
    return {
        "arms": made["arm"].nunique(),
        "runs": made["run"].nunique(),
        "seeds": sorted(set(made["seed"])),
        "n": sorted({int(n) for n in drawn["n"].dropna()}),
        "missing": sorted({f"{row['arm']} (seed {row['seed']})" for row in absent.to_dict("records")}),
    }


def _regions(table: pd.DataFrame) -> str:
    """How many volumes of each set were measured in the most regions."""
    if table.empty:
        return ""
    counts = table.groupby(["set", "region"], sort=False).size().groupby("set", sort=False).max()
    return ", ".join(f"{n} {plain(name)}" for name, n in counts.items())


def _timed(table: pd.DataFrame) -> str:
    """Devices and precisions that generation was timed on."""
    return plain(" and ".join(sorted(set(table["device"] + ", " + table["precision"])))) if len(table) else ""
