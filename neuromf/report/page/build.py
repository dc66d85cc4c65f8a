"""The report page of a study: one self-contained HTML file, rendered from the results.

Scripts, styles, pictures and volumes are embedded, and a content security policy forbids the browser to load anything.
Participants appear as pictures, a few volumes and counts; names of scans do not appear.
"""

import base64
import functools
import json
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd
from docutils.core import publish_parts
from jinja2 import Environment
from markupsafe import Markup

from neuromf.core.files import write_text
from neuromf.report import templating
from neuromf.report.captions import render
from neuromf.report.growth.section import section
from neuromf.report.page import tables
from neuromf.report.page.costs import costs
from neuromf.report.page.pictures import picture, webp_uri
from neuromf.report.results import Results
from neuromf.report.samples_gate import blocked_paragraph

TEMPLATES = Path(__file__).with_name("templates")
PACKAGES = ("neuromf", "torch", "monai", "numpy", "scikit-image", "snakemake", "matplotlib")
LIMIT = 25e6  # bytes of a page that fits into an email
VOLUMES_LIMIT = 12e6  # bytes of its volumes, before base64
PHASES = {
    0: "Autoencoder",
    1: "Latents",
    2: "Toy problem",
    3: "Tests of the mathematics",
    4: "Training",
    5: "Samples",
    6: "Ablations",
    7: "FLAIR and lesions",
    8: "Figures and tables",
}
GATE = {"id": "criterion", "what": "description", "measured": "measured", "bound": "required", "kind": "kind",
        "passed": "passed", "next": "what to do"}  # fmt: skip
METRICS = {"run": "run", "set": "set", "nfe": "NFE", "metric": "metric", "features": "features", "n": "n",
           "value": "value", "low": "low", "high": "high"}  # fmt: skip
FINDINGS = {"ablation": "ablation", "question": "statistic", "metric": "metric", "nfe": "NFE", "a": "a", "b": "b",
            "mean_a": "mean of a", "mean_b": "mean of b", "p_holm": "p (Holm)", "effect": "effect size",
            "verdict": "verdict", "finding": "finding"}  # fmt: skip
COSTS = {"rule": "rule", "jobs": "jobs", "seconds": "seconds", "longest": "longest job, s", "peak_mb": "peak, MB"}
NO_VIEWER = "// No viewer: "


def write_page(*, results: Results, preview: Path, viewer: Path, licences: Path, out: Path, **settings: Any) -> None:
    """Write the report page of a study; see `render_page`."""
    write_text(out, render_page(results, preview, viewer, licences, **settings))


def render_page(results: Results, preview: Path, viewer: Path, licences: Path, **settings: Any) -> str:
    """The report page of a study as HTML. Missing parts are listed with the reason.

    Arguments:
        results: Results of the study.
        preview: Folder of previewed volumes with look.json, see `volumes.write_volumes`.
        viewer: JavaScript bundle of the volume viewer; without it the page shows pictures.
        licences: Licences of the packages in the bundle.
        settings: study: name. source: source of the scans. config: config of the study. digests: code digest by rule.
            figures, tables, phases: names that a complete study has, each with the reason why this study lacks it (""
            if it should exist). runs: names of the runs, each with the ablation arms that use it. growth: arguments of
            `neuromf.report.growth.card.card`; without them the page has no section on growth.

    Raises:
        ValueError: If the page is larger than 25 MB.
    """
    script = viewer.read_text(encoding="utf-8") if viewer.is_file() else f"{NO_VIEWER}the rule viewer has not run\n"
    context = {
        **settings,
        "results": results,
        "run": results.run,
        "blocked": blocked_paragraph(results),
        "gates": [gate(phase, reason, results) for phase, reason in settings["phases"].items()],
        "figures": [figure(name, reason, results) for name, reason in settings["figures"].items()],
        "tables": [table(name, reason, results) for name, reason in settings["tables"].items()],
        "metrics": tables.data_table("metrics", results.metrics, METRICS),
        "findings": tables.data_table("findings", results.table("ablations/questions.csv"), FINDINGS),
        "costs": tables.data_table("costs", costs(results), COSTS),
        "excluded": excluded(results.table("cohort/qc.tsv")),
        "runs": tables.data_table("runs", runs(results, settings["runs"])),
        "growth": section(results, settings["growth"]) if settings.get("growth") else None,
        "versions": {name: metadata.version(name) for name in PACKAGES} | results.run_record().get("versions", {}),
        "preview": previews(preview),
        "reader": reader_test(results.json("report/reader.json")),
        "viewer": script,
        "no_viewer": script.removeprefix(NO_VIEWER).strip() if script.startswith(NO_VIEWER) else "",
        "licences": licences.read_text(encoding="utf-8") if licences.is_file() else "",
        "style": (TEMPLATES / "style.css").read_text(encoding="utf-8"),
        "script": (TEMPLATES / "page.js").read_text(encoding="utf-8"),
        "reader_script": (TEMPLATES / "reader.js").read_text(encoding="utf-8"),
    }
    html = environment().get_template("page.html.j2").render(context)
    if len(html.encode()) > LIMIT:
        raise ValueError(f"the page has {len(html.encode()) / 1e6:.1f} MB, the limit is {LIMIT / 1e6:g} MB; embed "
                         f"fewer volumes (VOLUMES_LIMIT) or smaller pictures (WIDTH)")  # fmt: skip
    return html


@functools.cache
def environment() -> Environment:
    """Environment of the page templates, with HTML escaping."""
    env = templating.environment(TEMPLATES, autoescape=True)
    env.filters |= {"number": templating.number, "duration": templating.duration, "inline": inline,
                    "as_json": as_json, "base64": lambda content: base64.b64encode(content).decode()}  # fmt: skip
    return env


def as_json(value: object) -> Markup:
    """JSON for a script element: no value can close the element."""
    return Markup(json.dumps(value, sort_keys=True).replace("<", "\\u003c"))


def inline(code: str) -> Markup:
    """Code for a script or style element: no string in it can close the element."""
    return Markup(code.replace("</script", "<\\/script").replace("</style", "<\\/style").replace("<!--", "<\\!--"))


def gate(phase: str, reason: str, results: Results) -> dict[str, Any]:
    """Verdict of the gate of a phase with its criteria; `reason` explains a missing gate."""
    record = results.json(f"gates/phase_{phase}.json")
    rows = [{key: row.get(key, "") for key in GATE} for row in record.get("rows", [])]
    failed = [row for row in rows if not row["passed"]]
    return {
        "phase": phase,
        "title": PHASES.get(int(phase), ""),
        "status": record.get("status", "MISSING").lower(),
        "blocked_by": record.get("blocked_by", []),
        "passed": len(rows) - len(failed),
        "n": len(rows),
        "failed": failed,
        "rows": tables.data_table(f"gate-{phase}", pd.DataFrame(rows), GATE),
        "reason": reason,
    }


def figure(name: str, reason: str, results: Results) -> dict[str, Any]:
    """A figure with its caption, or the reason why it is missing."""
    path = results.path(f"figures/{name}.png")
    if path is None:
        return {"name": name, "picture": None, "reason": reason or "not generated yet"}
    return {"name": name, "picture": picture(path), **captioned(name, results)}


def table(name: str, reason: str, results: Results) -> dict[str, Any]:
    """A table of the paper with its caption, or the reason why it is missing."""
    if results.path(f"tables/{name}.json") is None:
        return {"name": name, "table": None, "reason": reason or "not generated yet"}
    return {"name": name, "table": tables.paper_table(name, results), **captioned(name, results)}


def captioned(name: str, results: Results) -> dict[str, Any]:
    """The caption as HTML, from its file if there is one, and its first sentence as plain title."""
    path = results.path(f"captions/{name}.rst")
    text = path.read_text(encoding="utf-8") if path else render.caption(name, results)
    safe = {"file_insertion_enabled": False, "raw_enabled": False, "report_level": 4, "_disable_config": True}
    body = publish_parts(text, writer="html5", settings_overrides=safe)["body"]
    return {"caption": Markup(body), "title": text.split("**")[1] if text.count("**") > 1 else name}


def runs(results: Results, arms: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """One row per run of the study, trained or missing.

    Arguments:
        results: Results of the study.
        arms: Ablation arms that use each run, by run.
    """
    return pd.DataFrame([_run(name, used_by, results.run_record(name)) for name, used_by in arms.items()])


def _run(name: str, used_by: Sequence[str], record: Mapping[str, Any]) -> dict[str, Any]:
    train = record.get("config", {}).get("train", {})
    return {
        "run": name,
        "used by": ", ".join(used_by),
        "trained": "yes" if record else "missing",
        "seed": train.get("seed"),
        "steps": train.get("steps"),
        "parameters": record.get("parameters"),
        "seconds": record.get("seconds"),
        "peak MB": record.get("peak_mb"),
        "device": record.get("device", ""),
    }


def excluded(qc: pd.DataFrame) -> dict[str, int]:
    """Number of excluded scans by reason. Text after the colon of a reason may name a scan and is dropped."""
    if qc.empty:
        return {}
    reasons = qc.loc[qc["status"] != "accepted", "reason"].str.split(":").str[0]
    return {str(reason): int(n) for reason, n in reasons.value_counts().sort_index().items()}


def reader_test(record: Mapping[str, Any]) -> dict[str, Any] | None:
    """Content of reader.json with the truth of all volumes as one key, which is not readable at a glance."""
    if not record:
        return None
    key = "".join("1" if generated else "0" for generated in record["generated"])
    return {**record, "key": base64.b64encode(key.encode()).decode()}


def previews(folder: Path) -> dict[str, Any] | None:
    """Previewed volumes with pictures and contact sheet: as many complete cases as VOLUMES_LIMIT allows.

    Returns:
        Content of look.json with volumes (labels and picture), contents (NIfTI files by name), sheet, and the
        choices of a reader (nfe, cases, images).
    """
    if not (folder / "look.json").is_file():
        return None
    record = json.loads((folder / "look.json").read_text())
    volumes: list[dict[str, Any]] = []
    contents: dict[str, bytes] = {}
    for case in sorted({line["case"] for line in record["volumes"]}):
        lines = [line for line in record["volumes"] if line["case"] == case]
        files = contents | {line["name"]: (folder / f"{line['name']}.nii.gz").read_bytes() for line in lines}
        if case > 0 and sum(map(len, files.values())) > VOLUMES_LIMIT:
            break
        contents = files
        volumes += [{**line, "picture": webp_uri((folder / f"{line['name']}.webp").read_bytes())} for line in lines]
    choices = {
        "nfe": sorted({line["nfe"] for line in volumes if "nfe" in line}),
        "cases": sorted({line["case"] for line in volumes}),
        "images": [image for image in ("T1", "FLAIR") if image in {line["image"] for line in volumes}],
    }
    sheet = picture(folder / "scans.webp") if (folder / "scans.webp").is_file() else None
    return {**record, "volumes": volumes, "contents": contents, "sheet": sheet, "choices": choices}
