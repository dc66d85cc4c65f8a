"""The gate of the samples (phase 5) as a paragraph, for the report page and the model card."""

from collections.abc import Mapping
from typing import Any

from neuromf.report.results import Results

PATH = "gates/phase_5.json"
SIDES = {">=": "at least", "<=": "at most"}


def blocked_paragraph(results: Results) -> str:
    """Failed critical criteria of gate 5 with measured values and bounds as plain text; "" unless it is blocked."""
    record = results.json(PATH)
    if record.get("status") != "BLOCKED":
        return ""
    critical = [row for row in record["rows"] if row["kind"] == "critical"]
    failed = [row for row in critical if not row["passed"]]
    verdict = f"fail {len(failed)}" if failed else "pass all"
    opening = f"Gate 5 is blocked: the generated volumes {verdict} of {len(critical)} critical criteria."
    before = [f"The gate of {name} is blocked." for name in record["blocked_by"] if name.startswith("phase ")]
    return " ".join([opening, *map(_sentence, failed), *before])


def _sentence(row: Mapping[str, Any]) -> str:
    side, bound = row["bound"].split()
    return f"{row['id']}, {row['what']}: measured {row['measured']}, required {SIDES[side]} {bound}."
