"""The page of a study: what is in its results, put into templates; one file that asks nothing of a network.

Scripts, styles, pictures and volumes stand inside, and a policy in its head forbids the browser to fetch anything.
People are in it as pictures, as a few volumes and as counts: names of scans are not.
"""

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from docutils.core import publish_parts
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from neuromf.report.captions import render
from neuromf.report.page import provenance, tables
from neuromf.report.page.costs import costs, said
from neuromf.report.page.pictures import data_uri, picture
from neuromf.report.results import Results

TEMPLATES = Path(__file__).with_name("templates")
LIMIT = 25e6  # bytes of a page that can still be sent by mail
VOLUMES_LIMIT = 12e6  # bytes of the volumes inside it, before base64
PHASES = {
    0: "The frozen autoencoder",
    1: "Latents",
    2: "The torus",
    3: "Tests of the mathematics",
    4: "Training",
    5: "Generated brains",
    6: "Ablations",
    7: "FLAIR and lesions",
    8: "Figures and tables",
}
ROWS = {"id": "criterion", "what": "what", "measured": "measured", "bound": "wanted", "kind": "kind",
        "passed": "passed", "next": "next"}  # fmt: skip
METRICS = {"run": "run", "set": "set", "nfe": "NFE", "metric": "metric", "features": "features", "n": "n",
           "value": "value", "low": "low", "high": "high"}  # fmt: skip
FINDINGS = {"ablation": "ablation", "question": "question", "metric": "metric", "nfe": "NFE", "a": "a",
            "b": "b", "mean_a": "mean of a", "mean_b": "mean of b", "p_holm": "p, corrected", "effect": "effect",
            "verdict": "verdict", "finding": "finding"}  # fmt: skip
COSTS = {"rule": "rule", "jobs": "jobs", "seconds": "seconds", "longest": "longest job, s", "peak_mb": "peak, MB"}


def page(results: Results, look: Path, viewer: Path, licences: Path, **settings: Any) -> str:
    """The whole page as HTML.

    Arguments:
        results: What there is.
        look: Folder of the volumes and pictures to look at, with look.json; missing, the page says so.
        viewer: Script of the viewer, and the licences of what is in it; without code, the page shows pictures.
        settings: study; figures, tables and phases that a whole study has, each by name with why this one has none of
            it ("" where it should be there); runs and the arms they serve; source of the people; config; digests of
            the code of rules, by name.

    Raises:
        ValueError: If the page is larger than 25 MB.
    """
    seen = looked(look)
    script = viewer.read_text(encoding="utf-8") if viewer.is_file() else "// No viewer: it was not made\n"
    context = {
        **settings,
        "results": results,
        "gates": [gate(phase, why, results) for phase, why in settings["phases"].items()],
        "figures": [figure(name, why, results) for name, why in settings["figures"].items()],
        "tables": [table(name, why, results) for name, why in settings["tables"].items()],
        "metrics": frame("metrics", results.metrics, METRICS),
        "findings": frame("findings", results.rows("ablations/questions.csv"), FINDINGS),
        "costs": frame("costs", costs(results.root / "benchmarks"), COSTS),
        "aside": aside(results.rows("cohort/qc.tsv")),
        "runs": frame("runs", provenance.runs(results, settings["runs"])),
        "made": provenance.made(results),
        "looked": seen,
        "index": index(seen),
        "viewer": script,
        "no_viewer": script.removeprefix("// No viewer: ").strip() if script.startswith("// No viewer: ") else "",
        "licences": licences.read_text(encoding="utf-8") if licences.is_file() else "",
        "style": (TEMPLATES / "style.css").read_text(encoding="utf-8"),
        "script": (TEMPLATES / "page.js").read_text(encoding="utf-8"),
    }
    html = environment().get_template("page.html.j2").render(context)
    if len(html.encode()) > LIMIT:
        raise ValueError(f"the page has {len(html.encode()) / 1e6:.1f} MB, at most {LIMIT / 1e6:g} are allowed; show "
                         f"fewer volumes (VOLUMES_LIMIT) or smaller pictures (WIDTH)")  # fmt: skip
    return html


@functools.cache
def environment() -> Environment:
    """The environment of the templates: everything is escaped, an unknown name is an error."""
    env = Environment(
        loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, autoescape=True, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    env.filters |= {"number": render.number, "span": said, "inline": inline, "embedded": embedded}
    return env


def embedded(values: object) -> Markup:
    """Values as JSON inside a script element, which nothing in them can end."""
    return Markup(json.dumps(values, sort_keys=True).replace("<", "\\u003c"))


def inline(code: str) -> Markup:
    """Code inside a script or style element, which nothing in it can end."""
    return Markup(code.replace("</script", "<\\/script").replace("</style", "<\\/style").replace("<!--", "<\\!--"))


# --- parts -------------------------------------------------------------------------------------------


def gate(phase: str, why: str, results: Results) -> dict[str, Any]:
    """A phase and its verdict: open, blocked, or missing and why."""
    found = results.facts(f"gates/phase_{phase}.json")
    rows = pd.DataFrame([{key: row.get(key, "") for key in ROWS} for row in found.get("rows", [])])
    failed = [{"next": "", **row} for row in found.get("rows", []) if not row["passed"]]
    return {
        "phase": phase,
        "title": PHASES.get(int(phase), ""),
        "status": found.get("status", "MISSING").lower(),
        "by": found.get("blocked_by", []),
        "passed": len(rows) - len(failed),
        "of": len(rows),
        "failed": failed,
        "rows": frame(f"gate-{phase}", rows, ROWS),
        "why": why,
    }


def figure(name: str, why: str, results: Results) -> dict[str, Any]:
    """A figure with its caption, or why it is not there."""
    path = results.file(f"figures/{name}.png")
    if path is None:
        return {"name": name, "picture": None, "why": why or "not made yet"}
    return {"name": name, "picture": picture(path), **captioned(name, results)}


def table(name: str, why: str, results: Results) -> dict[str, Any]:
    """A table of the paper with its caption, or why it is not there."""
    if results.file(f"tables/{name}.json") is None:
        return {"name": name, "table": None, "why": why or "not made yet"}
    return {"name": name, "table": tables.of_paper(name, results), **captioned(name, results)}


def captioned(name: str, results: Results) -> dict[str, Any]:
    """The caption as it was written, or as it would be; its first sentence is the title, in words alone."""
    path = results.file(f"captions/{name}.rst")
    text = path.read_text(encoding="utf-8") if path else render.caption(name, results)
    quiet = {"file_insertion_enabled": False, "raw_enabled": False, "report_level": 4, "_disable_config": True}
    body = publish_parts(text, writer="html5", settings_overrides=quiet)["body"]
    return {"caption": Markup(body), "title": text.split("**")[1] if text.count("**") > 1 else name}


def frame(name: str, rows: pd.DataFrame, heads: Mapping[str, str] | None = None) -> tables.Table | None:
    """A table as the page shows it; None where there are no rows."""
    if rows.empty:
        return None
    return tables.of_frame(name, rows, heads and {key: text for key, text in heads.items() if key in rows})


def aside(qc: pd.DataFrame) -> dict[str, int]:
    """How many scans were set aside, by reason; what follows the colon of a reason can name a scan and is left out."""
    if qc.empty:
        return {}
    reasons = qc.loc[qc["status"] != "accepted", "reason"].str.split(":").str[0]
    return {str(reason): int(n) for reason, n in reasons.value_counts().sort_index().items()}


def looked(folder: Path) -> dict[str, Any] | None:
    """Volumes and pictures to look at as the page holds them, as many cases as there is room for."""
    about = folder / "look.json"
    if not about.is_file():
        return None
    facts, volumes, size = json.loads(about.read_text()), [], 0
    for line in sorted(facts["volumes"], key=lambda line: line["case"]):
        content = (folder / f"{line['name']}.nii.gz").read_bytes()
        size += len(content)
        if size > VOLUMES_LIMIT and line["case"] > 0:
            break
        shown = data_uri((folder / f"{line['name']}.webp").read_bytes(), "image/webp")
        volumes.append({**line, "picture": shown, "content": data_uri(content, "").partition(",")[2]})
    whole = {line["case"] for line in volumes if _complete(line["case"], volumes, facts["volumes"])}
    volumes = [line for line in volumes if line["case"] in whole]
    sheet = picture(folder / "scans.webp") if (folder / "scans.webp").is_file() else None
    return {**facts, "volumes": volumes, "sheet": sheet, "choices": choices(volumes)}


def index(looked: dict[str, Any] | None) -> dict[str, Any]:
    """What the script of the page reads: every volume without its content, which stands in an element of its own."""
    lines = [{key: line[key] for key in line if key != "content"} for line in (looked or {}).get("volumes", [])]
    return {"volumes": lines, "choices": (looked or {}).get("choices", {})}


def _complete(case: int, kept: Sequence[dict], known: Sequence[dict]) -> bool:
    return sum(line["case"] == case for line in kept) == sum(line["case"] == case for line in known)


def choices(volumes: Sequence[dict]) -> dict[str, Any]:
    """What a reader can choose between: numbers of evaluations, cases, and kinds of scan."""
    kinds = {"T1": "generated", "FLAIR": "generated flair"}
    sets = {line["set"] for line in volumes}
    return {
        "evaluations": sorted({line["evaluations"] for line in volumes if "evaluations" in line}),
        "cases": sorted({line["case"] for line in volumes}),
        "kinds": [kind for kind, name in kinds.items() if name in sets or name.replace("generated", "real") in sets],
    }
