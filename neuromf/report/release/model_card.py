"""The model card of a run: whom it was trained on, under which terms, what for, how good, how private, at what cost.

Every number is read from the results of the run itself, and says how many volumes and which features it is of. What was
not measured is named as missing. The card is a dict in the words of JSON; Markdown is made from it by a template.
"""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from neuromf.data.licences import IXI
from neuromf.metrics.table import select_set
from neuromf.report.results import Results
from neuromf.report.tables.style import number

TEMPLATES = Path(__file__).with_name("templates")
SHOWN = (  # metrics of the card, in its order; a distance stands once for each feature set
    *("frechet", "kid", "precision", "recall", "pair_ms_ssim", "tissue_contrast", "ventricle_ml"),
    *("betti_0", "high_frequency_ratio", "latent_std_error"),
)
NAMES = {
    "frechet": "Fréchet distance",
    "kid": "KID",
    "precision": "precision",
    "recall": "recall",
    "pair_ms_ssim": "MS-SSIM between pairs",
    "tissue_contrast": "white-grey contrast",
    "ventricle_ml": "ventricles, ml",
    "betti_0": "pieces of more than 8 voxels",
    "high_frequency_ratio": "share of power above half of Nyquist",
    "latent_std_error": "latent standard deviation, worst channel, off by",
}
SETS = {"prior": "Gaussian prior", "test": "test scans", "reconstruction": "reconstruction"}  # beside the generated ones
AUDIT = (  # metrics of the privacy audit
    *("memorised_fraction", "nearest_train_ratio", "nearest_train_ratio_p"),
    *("membership_auc", "membership_p", "privacy_alarm"),
)
TEMPLATE = {
    "name": "ICBM152 2009 template, as nilearn brings it",
    "address": "https://www.bic.mni.mcgill.ca/ServicesAtlases/ICBM152NLin2009",
    "asks": "the copyright notice of the McConnell Brain Imaging Centre stays with every copy",
}
DATA = {  # terms of what a source of scans gives; None where the workflow cannot know them
    "embedded": TEMPLATE,
    "ixi": {"name": IXI["name"], "address": IXI["address"], "asks": f"no {IXI['forbids']}"},
}
CODE = {
    "name": "Apache-2.0",
    "address": "https://www.apache.org/licenses/LICENSE-2.0",
    "asks": "licence and notice stay with every copy",
}
PUBLISHED = {
    "name": "the licence of the published autoencoder, which the config does not name",
    "address": None,
    "asks": "look it up before anything made with it is handed on; autoencoder_v2.pt is non-commercial",
}


def card(results: Results, *, about: Mapping[str, Any], phases: Sequence[int]) -> dict[str, Any]:
    """The model card of the run that results speak of.

    Arguments:
        results: What there is; only files of this run and those that all runs share are read.
        about: Study, source (of the scans), spacing_mm, evaluations, decoder (see `export.terms`), vae (its licence),
            and what else the card should say of how the run was made.
        phases: Gates that are told, by number.

    Returns:
        A dict with about, data, licences, metrics, privacy, gates, autoencoder, training, costs and missing.
    """
    table = measured(results)
    told = {
        "about": {**about, "run": results.run},
        "data": data(results, about["source"]),
        "licences": licences(about),
        "metrics": metrics(table, about["evaluations"]),
        "privacy": privacy(table),
        "gates": [gate(results, phase) for phase in phases],
        "autoencoder": results.facts("vae/validation.json"),
        "training": results.card(),
        "costs": results.rows(f"bench/generation-{results.run}.csv").to_dict("records"),
    }
    return _plain({**told, "missing": missing(told)})


def measured(results: Results) -> pd.DataFrame:
    """Metrics of the run and of real people, one row per value."""
    tables = [results.rows(name) for name in (f"runs/{results.run}/metrics.csv", "metrics/reference.csv")]
    there = [table.fillna({"features": ""}) for table in tables if len(table)]
    return pd.concat(there, ignore_index=True) if there else pd.DataFrame(columns=["metric", "set", "nfe", "features"])


def data(results: Results, source: str) -> dict[str, Any]:
    """How many people of each split, their ages and sexes, and the terms of their scans."""
    table = results.rows("cohort/participants.tsv")
    train = table[table["split"] == "train"] if "split" in table else table
    ages = pd.to_numeric(train["age"], errors="coerce").dropna() if "age" in train else pd.Series(dtype=float)
    sexes = train["sex"].replace("", pd.NA).dropna().value_counts().to_dict() if "sex" in train else {}
    span = {"n": len(ages), "mean": ages.mean(), "low": ages.min(), "high": ages.max()} if len(ages) else None
    return {"source": source, "people": results.people, "age": span, "sex": dict(sorted(sexes.items()))}


def licences(about: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Terms that bind who uses or hands on the run: of the scans, of the autoencoder, of the code and weights."""
    unknown = {"name": "not recorded", "address": None, "asks": "ask who owns the scans before handing anything on"}
    terms = [{"of": "scans it was trained on", **(DATA.get(about["source"]) or unknown)}]
    if not about["decoder"]["included"]:
        theirs = about["decoder"]["licence"]
        terms.append({"of": "autoencoder, whose latents it was trained on", **(_asks(theirs) if theirs else PUBLISHED)})
    return [*terms, {"of": "code", **CODE}]


def _asks(licence: Mapping[str, str]) -> dict[str, str]:
    """A licence of the config, which says what it forbids, in the words of the card."""
    return {"name": licence["name"], "address": licence["address"], "asks": f"no {licence['forbids']}"}


def metrics(table: pd.DataFrame, evaluations: Sequence[int]) -> list[dict[str, Any]]:
    """A row per metric and feature set: the number at each count of evaluations and of each set beside them."""
    columns = [*evaluations, *SETS]
    there = list(dict.fromkeys(zip(table["metric"], table["features"], strict=True))) if len(table) else []
    keys = [key for name in SHOWN for key in [key for key in there if key[0] == name] or [(name, "")]]
    return [
        {"metric": name, "features": kind, "values": {str(column): cell(table, column, name, kind) for column in columns}}
        for name, kind in keys
    ]


def cell(table: pd.DataFrame, which: str | int, metric: str, features: str) -> dict[str, Any] | None:
    """n, value and interval of the one row that is meant; None where there is none.

    Raises:
        ValueError: If it stands there more than once.
    """
    found = select_set(table[(table["metric"] == metric) & (table["features"] == features)], which)
    if len(found) > 1:
        where = f"{metric} of {which} in features {features!r}"
        raise ValueError(f"{where} stands {len(found)} times in the metrics, wanted once")
    return found.iloc[0][["n", "value", "low", "high"]].to_dict() if len(found) else None


def privacy(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The audit of one-step samples, a row per kind of features: copies, distances to training people, membership."""
    asked = select_set(table[table["metric"].isin(AUDIT)], 1)
    rows = []
    for kind in dict.fromkeys(asked["features"]):
        found = {name: one for name in AUDIT if (one := cell(table, 1, name, kind))}
        if len(found) == len(AUDIT):
            rows.append({"features": kind, "n": found["membership_auc"]["n"], **{k: v["value"] for k, v in found.items()}})
    return rows


def gate(results: Results, phase: int) -> dict[str, Any]:
    """A gate in short: its status, and the rows that did not pass."""
    found = results.facts(f"gates/phase_{phase}.json")
    failed = [row for row in found.get("rows", []) if not row["passed"]]
    kept = ("id", "what", "measured", "bound", "kind")
    return {
        "phase": phase,
        "status": found.get("status", "MISSING"),
        "blocked_by": found.get("blocked_by", []),
        "failed": [{name: row.get(name) for name in kept} for row in failed],
    }


def missing(told: Mapping[str, Any]) -> list[str]:
    """What the card should hold and the results do not, in words."""
    parts = {
        "who the people are": told["data"]["people"],
        "privacy audit": told["privacy"],
        "round trip of the autoencoder": told["autoencoder"],
        "training": told["training"],
        "cost of generation": told["costs"],
    }
    gates = [f"gate of phase {each['phase']}" for each in told["gates"] if each["status"] == "MISSING"]
    absent = [
        f"{NAMES[row['metric']]} at {nfe} evaluation{'s' * (nfe != '1')}"
        for row in told["metrics"]
        for nfe, found in row["values"].items()
        if found is None and nfe.isdigit()
    ]
    return [*(name for name, found in parts.items() if not found), *gates, *absent]


# --- words -------------------------------------------------------------------------------------------


@functools.cache
def environment() -> Environment:
    """The environment of the templates. Markdown is text: nothing is escaped; an unknown name is an error."""
    env = Environment(loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, autoescape=False,
                      trim_blocks=True, lstrip_blocks=True)  # fmt: skip
    env.filters |= {"number": printed, "counted": counted}
    env.filters["cell"] = lambda found: printed(**found) if found else "not measured"
    return env


def printed(value: float | None, low: float | None = None, high: float | None = None, **_: object) -> str:
    """A number and its interval as the tables of the paper print them, with the digits that the interval allows."""
    ends = [float("nan") if end is None else end for end in (value, low, high)]
    return number(*ends) if value is not None else "not measured"


def counted(values: Mapping[str, Any], sets: Sequence[Any]) -> str:
    """How many volumes each of these sets has, where it was measured."""
    found = [values[str(name)] for name in sets if values[str(name)]]
    return " or ".join(dict.fromkeys(f"{int(each['n'])}" for each in found)) or "none"


def markdown(card: Mapping[str, Any], example: str) -> str:
    """The card as Markdown, with the lines that turn the folder into NIfTI."""
    return environment().get_template("card.md.j2").render(**card, names=NAMES, sets=SETS, example=example)


def licence(card: Mapping[str, Any]) -> str:
    """The terms of everything that a packed run holds, as Markdown."""
    return environment().get_template("licence.md.j2").render(**card)


def _plain(thing: Any) -> Any:  # noqa: ANN401
    """The same without numpy's types, NaN as None: what JSON can say."""
    if isinstance(thing, Mapping):
        return {str(name): _plain(each) for name, each in thing.items()}
    if isinstance(thing, (list, tuple)):
        return [_plain(each) for each in thing]
    thing = thing.item() if hasattr(thing, "item") else thing
    return None if isinstance(thing, float) and thing != thing else thing
