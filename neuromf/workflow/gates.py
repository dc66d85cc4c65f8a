"""Gates: measured values against criteria fixed beforehand. A phase is OPEN when every critical row passes.

What is measured stands in `criteria.py`. A stage of phase N + 1 calls `require_open` on the gate of phase N.
Standard library only: a gate is read by every script that stands behind it.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple


class Criterion(NamedTuple):
    """One row of verification.md: how it is measured from files, and on which side of its bound it must lie."""

    what: str
    side: str  # "above" or "below"
    measure: Callable[[dict[str, Path]], float]
    source: str  # key of the file that holds the number
    kind: str = "critical"
    cure: str = ""


def judge(
    phase: int,
    measured: dict[str, str],
    criteria: dict[str, Criterion],
    *,
    bounds: dict[str, float],
    informational: list[str],
    before: str,
    study: str,
) -> dict:
    """The gate of a phase as the dict that its file holds.

    Arguments:
        measured: Files the numbers come from, by the names the criteria use.
        criteria: What is judged, by id; those whose file this study does not make are left out.
        bounds: Bound of each criterion, by id; one without a bound is refused.
        informational: Criteria that this study reports but does not stop for.
        before: The gate file of the phase before, or "none": a blocked one blocks this one too.
    """
    files = {name: Path(file) for name, file in measured.items()}
    rows = [] if phase != 3 else _test_rows(files["verdicts"])
    for name, criterion in criteria.items():
        if criterion.source not in files:
            continue
        if name not in bounds:
            raise ValueError(f"gates.bounds has no bound for {name} ({criterion.what}); add one to the config")
        kind = "informational" if name in informational else criterion.kind
        rows.append(_row(name, criterion, criterion.measure(files), bounds[name], kind, files))
    blocked = [row["id"] for row in rows if row["kind"] == "critical" and not row["passed"]]
    earlier = read_gate(Path(before)) if before != "none" else {"status": "OPEN"}
    if earlier["status"] != "OPEN":
        blocked.append(f"phase {earlier['phase']}")
    return {
        "phase": phase,
        "status": "BLOCKED" if blocked else "OPEN",
        "study": study,
        "blocked_by": blocked,
        "rows": rows,
    }


def _row(name: str, criterion: Criterion, value: float, bound: float, kind: str, files: dict[str, Path]) -> dict:
    passed = math.isfinite(value) and (value >= bound if criterion.side == "above" else value <= bound)
    return {
        "id": name,
        "what": criterion.what,
        "measured": round(value, 5) if math.isfinite(value) else str(value),
        "bound": f"{'>=' if criterion.side == 'above' else '<='} {bound:g}",
        "kind": kind,
        "passed": passed,
        "source": str(files[criterion.source]),
        **({} if passed or not criterion.cure else {"next": criterion.cure}),
    }


def _test_rows(verdicts: Path) -> list[dict]:
    """One row per verification test; no test at all is a failure."""
    tests = json.loads(verdicts.read_text()) or {"P3-T1 no verification test was found": False}
    return [
        {"id": "-".join(name.split("_")[1:3]) or name, "what": name, "measured": float(passed), "bound": ">= 1",
         "kind": "critical", "passed": passed, "source": str(verdicts)}
        for name, passed in tests.items()
    ]  # fmt: skip


def read_gate(path: Path) -> dict:
    return json.loads(path.read_text())


def summary(gate: dict) -> str:
    """The gate in lines for a terminal: status, then every failed row with its bound."""
    n_passed, n = sum(row["passed"] for row in gate["rows"]), len(gate["rows"])
    lines = [f"phase {gate['phase']} is {gate['status']}: {n_passed} of {n} rows passed"]
    for row in gate["rows"]:
        if not row["passed"]:
            cure = f"; next: {row['next']}" if "next" in row else ""
            lines.append(f"  {row['id']} ({row['kind']}) {row['what']}: {row['measured']}, wanted {row['bound']}{cure}")
    return "\n".join(lines)


def require_open(path: Path) -> None:
    """Stop the script here, with the failed rows, where the gate of the phase before is blocked."""
    gate = read_gate(path)
    if gate["status"] != "OPEN":
        raise SystemExit(
            f"stopped at {path}: blocked by {', '.join(gate['blocked_by'])}.\n{summary(gate)}\n"
            f"Mend what failed; or, where the study can live with a measured value, list its id in gates.informational "
            f"of the config (a failed test must be mended)."
        )
