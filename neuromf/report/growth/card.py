"""The model card of the growth system: data, verdicts, scores, gates, cost and limits.

Every number is looked up in the result files. What was not measured is listed as missing.
"""

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment

from neuromf.core.files import write_json, write_text
from neuromf.report import templating
from neuromf.report.results import Results
from neuromf.simulation.tumours import CONTRASTS

TEMPLATES = Path(__file__).with_name("templates")
EXPERIMENTS = {
    "exp1": "variational autoencoder",
    "exp2": "DIP-VAE",
    "exp3": "supervised parts",
}
COHORTS = {"gompertz": "Gompertz growth", "treated": "growth interrupted by treatment", "logistic": "logistic growth"}
SCORES = ("r2_vol", "r2_bright_voxels", "r2_loc", "r2_shape", "ode_readiness", "grade", "traversal_spearman",
          "n_test_patients")  # fmt: skip
MEASURED_BY = {  # rule of every part of the card
    "subjects": "growth_index",
    "scores of experiments": "growth_fig_3",
    "forecasts of simulated volumes": "growth_ladder",
    "forecasts of the volume latent": "growth_latent_forecast",
    "forecasts of images": "growth_image_forecast",
    "forecasts of real volumes": "growth_real_ladder",
    "gates": "growth_gate",
    "training": "growth_train",
}


def write_card(*, results: Results, out: Path, page: Path, **about: Any) -> dict[str, Any]:
    """Write the card as JSON to `out` and as Markdown to `page`; see `card`."""
    content = card(results, **about)
    write_json(out, content, indent=2)
    write_text(page, environment().get_template("card.md.j2").render(content))
    return content


def card(results: Results, *, study: str, scale: str, simulated: str, spacing_mm: float, code: str) -> dict[str, Any]:
    """The model card as a JSON-compatible dict.

    Arguments:
        results: Results of the study.
        study: Name of the study.
        scale: growth.scale of the config.
        simulated: Statement about simulated data; "" for real subjects.
        spacing_mm: Voxel size of images.
        code: Digest of the code.
    """
    content: dict[str, Any] = {
        "about": {
            "study": study,
            "scale": scale,
            "simulated": simulated,
            "spacing_mm": spacing_mm,
            "code": code,
            "t1c_factor": CONTRASTS["t1c"].mass,
        },
        "data": subjects(results),
        "experiments": experiments(results),
        "verdicts": [*verdicts(results)],
        "volumes": [ladder(results, name) for name in (*COHORTS, "real")],
        "latent": results.table("growth/tables/latent_forecast.csv").to_dict("records"),
        "images": results.json("growth/forecast/images.json"),
        "gates": [gate(results, name) for name in EXPERIMENTS],
        "training": [training(results, name) for name in EXPERIMENTS],
    }
    return templating.plain({**content, "missing": missing(content)})


# --- parts -------------------------------------------------------------------------------------------


def subjects(results: Results) -> list[dict[str, Any]]:
    """Numbers of scans and patients by split."""
    tables = {split: results.table(f"growth/index/{split}.csv") for split in ("train", "val", "test")}
    return [{"split": split, "scans": len(table), "patients": table["patient"].nunique()}
            for split, table in tables.items() if len(table)]  # fmt: skip


def experiments(results: Results) -> list[dict[str, Any]]:
    """Scores on test patients by experiment."""
    table = results.table("growth/tables/disentanglement.csv")
    rows = []
    for name, title in EXPERIMENTS.items():
        found = table[table["experiment"] == name].to_dict("records") if len(table) else []
        own = found[0] if found else results.json(f"growth/disentanglement/{name}.json")
        if own:
            rows.append({"experiment": name, "title": title} | {score: own.get(score) for score in SCORES})
    return rows


def ladder(results: Results, name: str) -> dict[str, Any]:
    """Scores of the last visit from the rest of one study of volumes, {} if it was not run."""
    table = results.table(f"growth/ladder/{name}/scores.csv")
    if table.empty:
        return {}
    rows = table[(table["protocol"] == "last_from_rest") & (table["horizon"] == "all")]
    columns = ["model", "title", "n", "r2", "skill", "mae", "cov95", "is95"]
    return {"name": name, "title": COHORTS.get(name, "real lesion volumes, not brain"),
            "rows": rows[columns].to_dict("records")}  # fmt: skip


def gate(results: Results, name: str) -> dict[str, Any]:
    """Status of the gate of an experiment and its failed criteria."""
    record = results.json(f"growth/gates/{name}.json")
    failed = [{key: row.get(key) for key in ("id", "what", "measured", "bound")} for row in record.get("rows", [])
              if not row["passed"]]  # fmt: skip
    return {"experiment": name, "status": record.get("status", "MISSING"), "failed": failed}


def training(results: Results, name: str) -> dict[str, Any]:
    """Cost, device and versions of a training, {} if it was not run."""
    record = results.json(f"growth/runs/{name}/provenance.json")
    names = ("seconds", "peak_mb", "device", "versions", "git")
    return {"experiment": name, **{key: record.get(key) for key in names}} if record else {}


# --- verdicts ----------------------------------------------------------------------------------------


def verdicts(results: Results) -> Iterator[dict[str, Any]]:
    """Answers to the questions of the system: quantity, value, interval, p, answer and source."""
    yield from _readable_volume(results)
    for name in COHORTS:
        study = results.json(f"growth/ladder/{name}/study.json")
        yield from _earned(study, ("M10", "M11"), "M4r", f"{COHORTS[name]}: ODE over reduced NLME", name)
    study = results.json("growth/ladder/volume_latent/study.json")
    yield from _earned({"verdicts": study.get("over_locf", [])}, ("M10",), "M1", "volume latent: ODE over LOCF",
                       "volume_latent")  # fmt: skip
    yield from _earned(study, ("M10",), "M4r", "volume latent: ODE over reduced NLME", "volume_latent")
    source = "growth/forecast/images.json"
    for row in results.json(source).get("comparisons", []):
        question = f"future image: decoded forecast ({row['kind']}) over {row['reference']}"
        answer = f"{row['outcome']} the {row['reference']}"
        yield _verdict(question, "difference of Dice", row["gain"], row, answer, source)
    yield from _earned(results.json("growth/ladder/real/study.json"), ("M3", "M9"), "M1", "real volumes: over LOCF",
                       "real")  # fmt: skip


def _readable_volume(results: Results) -> Iterator[dict[str, Any]]:
    """R^2 of ln V of experiment 3 on test patients, and its difference to a count of bright voxels."""
    source = "growth/disentanglement/exp3.json"
    scores = results.json(source)
    if "volume_gain" not in scores:
        return
    for question, quantity, name, no in (
        ("is ln V readable from the supervised latent, in unseen anatomies?", "R2", "r2_vol_probe", "no"),
        ("is it read better than by a count of bright t1c voxels?", "difference of R2", "volume_gain", "no, worse"),
    ):
        row: dict[str, Any] = {end: scores.get(f"{name}_{end}") for end in ("low", "high", "p")}
        answer = "yes" if row["low"] > 0 else no if row["high"] < 0 else "not clearly"
        yield _verdict(question, quantity, scores[name], row, answer, source)


def _verdict(
    question: str, quantity: str, value: float, row: Mapping[str, Any], answer: str, source: str
) -> dict[str, Any]:
    """An answer; `row` has the ends of the interval and p."""
    ends = {key: row[key] for key in ("low", "high", "p")}
    return {"question": question, "quantity": quantity, "value": value, **ends, "answer": answer, "source": source}


def _earned(
    study: Mapping[str, Any], models: tuple[str, ...], reference: str, question: str, name: str
) -> Iterator[dict[str, Any]]:
    """Comparisons of the last visit from the rest, by the decision rule."""
    for row in study.get("verdicts", []):
        if row["model"] in models and row["reference"] == reference and row["protocol"] == "last_from_rest":
            answer = "earned" if row["earned"] else "no, it is worse" if row["high"] < 0 else "not earned"
            source = f"growth/ladder/{name}/study.json"
            yield _verdict(f"{question} ({row['model']})", "gain of skill", row["gain"], row, answer, source)


# --- text --------------------------------------------------------------------------------------------


def missing(content: Mapping[str, Any]) -> list[str]:
    """Parts of the card that were not measured, each with the rule that measures it."""
    by_name = {part["name"]: part for part in content["volumes"] if part}
    present = {
        "subjects": content["data"],
        "scores of experiments": len(content["experiments"]) == len(EXPERIMENTS),
        "forecasts of simulated volumes": {"gompertz", "treated"} <= by_name.keys(),
        "forecasts of the volume latent": content["latent"],
        "forecasts of images": content["images"],
        "forecasts of real volumes": "real" in by_name,
        "gates": all(row["status"] != "MISSING" for row in content["gates"]),
        "training": all(content["training"]),
    }
    return [f"{name} (rule {MEASURED_BY[name]})" for name, there in present.items() if not there]


@functools.cache
def environment() -> Environment:
    """Environment of the Markdown template."""
    env = templating.environment(TEMPLATES)
    env.filters |= {"number": number, "interval": interval}
    return env


def number(value: float | str | None) -> str:
    """A number with two decimals below 10, else with three digits; text unchanged."""
    if isinstance(value, float) and abs(value) < 10 and not value.is_integer():
        return f"{value:.2f}"
    return "not measured" if value is None else templating.number(value)


def interval(row: Mapping[str, Any]) -> str:
    """Value, 95 % interval and p of a verdict."""
    p = "" if row["p"] is None else ", p < .001" if row["p"] < 0.001 else f", p = {row['p']:.3f}"
    return f"{row['value']:.3f} ({row['low']:.3f} to {row['high']:.3f}){p}"
