"""Status of a system as a Markdown table, from the files of its gates alone."""

from collections.abc import Sequence
from pathlib import Path

from neuromf.workflow.gates import read_gate


def status_table(gates: Sequence[Path]) -> str:
    """One row per stage: state, rows that passed, sources, and every failed row with its remedy."""
    lines = ["| stage | state | critical rows | informational rows | failed | remedy |", "|---|---|---|---|---|---|"]
    for gate in map(read_gate, gates):
        counts = {
            kind: [row["passed"] for row in gate["rows"] if row["kind"] == kind]
            for kind in ("critical", "informational")
        }
        failed = [row for row in gate["rows"] if not row["passed"]]
        cells = [str(gate["phase"]), gate["status"]]
        cells += [f"{sum(passed)} of {len(passed)}" for passed in counts.values()]
        cells += ["; ".join(f"{row['id']} {row['what']}: {row['measured']}, bound {row['bound']}" for row in failed)]
        cells += ["; ".join(f"{row['id']}: {row['next']}" for row in failed if "next" in row)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
