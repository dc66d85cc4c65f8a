"""The model card of a run: training data, licences, quality, privacy and cost.

Every number is looked up in the results of the run, with its number of volumes and feature set. Values that were not
measured are listed as missing. The card is a JSON-compatible dict; a template renders it as Markdown.
"""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment

from neuromf.data.licences import IXI
from neuromf.figures import names
from neuromf.report import templating
from neuromf.report.results import Results
from neuromf.report.samples_gate import blocked_paragraph
from neuromf.report.tables.style import number

TEMPLATES = Path(__file__).with_name("templates")
METRICS = {  # metrics of the card with their printed names; one row per feature set
    **{name: names.metric(name) for name in ("frechet", "kid", "precision", "recall", "pair_ms_ssim")},
    "tissue_contrast": "white-grey matter contrast",
    "ventricle_ml": "ventricle volume, ml",
    "betti_0": "connected components of more than 8 voxels",
    "high_frequency_ratio": "fraction of power above half the Nyquist frequency",
    "latent_std_error": "largest relative error of a latent channel's standard deviation",
}
SETS = {"prior": "Gaussian prior", "test": "test scans", "reconstruction": "reconstructions"}
AUDIT = ("memorised_fraction", "nearest_train_ratio", "nearest_train_ratio_p", "membership_auc", "membership_p",
         "privacy_alarm")  # fmt: skip
SOURCES = {  # licences of sources of scans
    "embedded": {
        "name": "ICBM152 2009 template, as distributed by nilearn",
        "address": "https://www.bic.mni.mcgill.ca/ServicesAtlases/ICBM152NLin2009",
        "condition": "every copy includes the copyright notice of the McConnell Brain Imaging Centre",
    },
    "ixi": {"name": IXI["name"], "address": IXI["address"], "condition": f"no {IXI['forbids']}"},
}
UNKNOWN = {"name": "not recorded", "address": None, "condition": "ask the owner of the scans before sharing anything"}
CODE = {
    "name": "Apache-2.0",
    "address": "https://www.apache.org/licenses/LICENSE-2.0",
    "condition": "every copy includes licence and notice",
}
PUBLISHED = {
    "name": "the licence of the published autoencoder, which the config does not name",
    "address": None,
    "condition": "check it before sharing anything generated with it; autoencoder_v2.pt is non-commercial",
}


def card(results: Results, *, about: Mapping[str, Any], phases: Sequence[int]) -> dict[str, Any]:
    """The model card of a run.

    Arguments:
        results: Results of the run.
        about: study, source (of the scans), spacing_mm, nfe, n_samples, sampling, threads, decoder (see
            `package.terms`), shape and code.
        phases: Phases whose gates the card lists.

    Returns:
        A dict with about, blocked (failed criteria of gate 5 as text, "" if it is open), data, licences, metrics,
        privacy, gates, autoencoder, training, costs and missing.
    """
    content = {
        "about": {**about, "run": results.run},
        "blocked": blocked_paragraph(results),
        "data": data(results, about["source"]),
        "licences": licences(about["source"], about["decoder"]),
        "metrics": metrics(results, about["nfe"]),
        "privacy": privacy(results),
        "gates": [gate(results, phase) for phase in phases],
        "autoencoder": results.json("vae/validation.json"),
        "training": results.run_record(),
        "costs": results.generation_times.to_dict("records"),
    }
    return templating.plain({**content, "missing": missing(content)})


def data(results: Results, source: str) -> dict[str, Any]:
    """Number of scans of each split, and age and sex of the training participants."""
    table = results.table("cohort/participants.tsv")
    train = table[table["split"] == "train"] if "split" in table else table
    age = pd.to_numeric(train["age"], errors="coerce").dropna() if "age" in train else pd.Series(dtype=float)
    sex = train["sex"].replace("", pd.NA).dropna().value_counts().to_dict() if "sex" in train else {}
    ages = {"n": len(age), "mean": age.mean(), "low": age.min(), "high": age.max()} if len(age) else None
    return {"source": source, "scans": results.scan_counts, "age": ages, "sex": dict(sorted(sex.items()))}


def licences(source: str, decoder: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Licences of scans, autoencoder (unless it is ours) and code, with the conditions for sharing."""
    terms = [{"of": "training scans", **SOURCES.get(source, UNKNOWN)}]
    if not decoder["included"]:
        named = decoder["licence"]
        theirs = named and {"name": named["name"], "address": named["address"], "condition": f"no {named['forbids']}"}
        terms.append({"of": "autoencoder that computed the latents", **(theirs or PUBLISHED)})
    return [*terms, {"of": "code", **CODE}]


def metrics(results: Results, nfe: Sequence[int]) -> list[dict[str, Any]]:
    """One row per metric and feature set: n, value and interval at each NFE and of each set, None if not measured."""
    table, rows = results.metrics, []
    for name in METRICS:
        for features in dict.fromkeys(table.loc[table["metric"] == name, "features"]) or [""]:
            sets: list[int | str] = [*nfe, *SETS]
            values = {str(which): _interval(results.row(name, which, features=features)) for which in sets}
            rows.append({"metric": name, "features": features, "values": values})
    return rows


def privacy(results: Results) -> list[dict[str, Any]]:
    """The privacy audit of one-step samples, one row per feature set."""
    table, rows = results.metrics, []
    for features in dict.fromkeys(table.loc[table["metric"] == "membership_auc", "features"]):
        found = {name: results.row(name, 1, features=features) for name in AUDIT}
        if all(found.values()):
            n = found["membership_auc"]["n"]
            rows.append({"features": features, "n": n, **{name: row["value"] for name, row in found.items()}})
    return rows


def gate(results: Results, phase: int) -> dict[str, Any]:
    """Status of a gate and its failed criteria."""
    record = results.json(f"gates/phase_{phase}.json")
    columns = ("id", "what", "measured", "bound", "kind")
    return {
        "phase": phase,
        "status": record.get("status", "MISSING"),
        "blocked_by": record.get("blocked_by", []),
        "failed": [{name: row.get(name) for name in columns} for row in record.get("rows", []) if not row["passed"]],
    }


def missing(content: Mapping[str, Any]) -> list[str]:
    """Parts of the card that the results lack."""
    parts = {
        "description of the participants": content["data"]["scans"],
        "privacy audit": content["privacy"],
        "reconstruction quality of the autoencoder": content["autoencoder"],
        "training": content["training"],
        "cost of generation": content["costs"],
    }
    gates = [f"gate of phase {gate['phase']}" for gate in content["gates"] if gate["status"] == "MISSING"]
    values = [
        f"{METRICS[row['metric']]} at {which} network evaluation{'s' * (which != '1')}"
        for row in content["metrics"]
        for which, value in row["values"].items()
        if value is None and which.isdigit()
    ]
    return [*(name for name, part in parts.items() if not part), *gates, *values]


@functools.cache
def environment() -> Environment:
    """Environment of the Markdown templates."""
    env = templating.environment(TEMPLATES)
    env.filters |= {"number": printed, "counts": counts}
    env.filters["cell"] = lambda value: printed(**value) if value else "not measured"
    return env


def printed(value: float | None, low: float | None = None, high: float | None = None, **_: object) -> str:
    """A number and its interval, with the digits that the interval allows."""
    ends = [float("nan") if end is None else end for end in (low, high)]
    return "not measured" if value is None else number(value, *ends)


def counts(values: Mapping[str, Any], sets: Sequence[Any]) -> str:
    """Numbers of volumes of some sets."""
    found = [values[str(name)] for name in sets if values[str(name)]]
    return " or ".join(dict.fromkeys(f"{int(value['n'])}" for value in found)) or "none"


def markdown(card: Mapping[str, Any], example: str) -> str:
    """The card as Markdown, with example code that generates NIfTI files."""
    return environment().get_template("card.md.j2").render(**card, names=METRICS, sets=SETS, example=example)


def licence(card: Mapping[str, Any]) -> str:
    """Licences of all parts of a packed run, as Markdown."""
    return environment().get_template("licence.md.j2").render(**card)


def _interval(row: Mapping[str, Any]) -> dict[str, Any] | None:
    return {name: row[name] for name in ("n", "value", "low", "high")} if row else None
