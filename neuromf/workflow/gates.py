"""Gates between phases: measured values against criteria fixed beforehand.

A phase is OPEN if every critical row passes. A stage of phase N + 1 calls `require_open` on the gate of phase N.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path

from neuromf.workflow.criteria import Criterion


def evaluate_gate(
    measured: Sequence[dict],
    criteria: dict[str, Criterion],
    *,
    phase: int | str,
    study: str,
    previous: dict | None = None,
) -> dict:
    """The gate of a phase, as its file holds it.

    Arguments:
        measured: Rows with id, value and source. A row with its own text `what` is a verification test: it must be 1.
        criteria: Criteria by id; one that was not measured has no row.
        phase: Number of the phase, or name of an experiment of the growth system.
        previous: Gate of the phase before; a blocked one blocks this one, too.
    """
    tests = {row["id"]: Criterion(row["what"], "above", 1) for row in measured if "what" in row}
    rows = [_row(row, (tests if "what" in row else criteria)[row["id"]], row.get("what")) for row in measured]
    blocked = [row["id"] for row in rows if row["kind"] == "critical" and not row["passed"]]
    if previous and previous["status"] != "OPEN":
        blocked.append(f"phase {previous['phase']}")
    status = "BLOCKED" if blocked else "OPEN"
    return {"phase": phase, "status": status, "study": study, "blocked_by": blocked, "rows": rows}


def _row(measured: dict, criterion: Criterion, what: str | None) -> dict:
    value, above = float(measured["value"]), criterion.side == "above"
    passed = math.isfinite(value) and (value >= criterion.bound if above else value <= criterion.bound)
    return {
        "id": measured["id"],
        "what": what or criterion.what,
        "measured": round(value, 5) if math.isfinite(value) else str(value),
        "bound": f"{'>=' if above else '<='} {criterion.bound:g}",
        "kind": criterion.kind,
        "passed": passed,
        "source": measured["source"],
        **({} if passed or not criterion.next else {"next": criterion.next}),
    }


def read_gate(path: Path) -> dict:
    return json.loads(path.read_text())


def summary(gate: dict) -> str:
    """The gate as text: status, then every failed row with its bound."""
    n_passed, n = sum(row["passed"] for row in gate["rows"]), len(gate["rows"])
    lines = [f"phase {gate['phase']} is {gate['status']}: {n_passed} of {n} rows passed"]
    for row in gate["rows"]:
        if not row["passed"]:
            advice = f"; next: {row['next']}" if "next" in row else ""
            lines.append(
                f"  {row['id']} ({row['kind']}) {row['what']}: {row['measured']}, bound {row['bound']}{advice}"
            )
    return "\n".join(lines)


def require_open(path: Path) -> None:
    """Exit with the failed rows if the gate of the phase before is blocked."""
    gate = read_gate(path)
    if gate["status"] != "OPEN":
        raise SystemExit(
            f"stopped at {path}: blocked by {', '.join(gate['blocked_by'])}.\n{summary(gate)}\n"
            f"Fix what failed. If the study can accept a measured value, add its id to gates.informational of the "
            f"config (a failed test must be fixed)."
        )
