"""Evaluate the gate of one phase: OPEN, or BLOCKED with the failed criteria."""

import json
from collections.abc import Sequence
from pathlib import Path

from neuromf.core.files import write_json
from neuromf.workflow import gates
from neuromf.workflow.criteria import Criterion
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "measured", "config:json", "out")
    criteria = {name: Criterion(**row) for name, row in args.config.pop("criteria").items()}
    previous = gates.read_gate(Path(args.config.pop("previous"))) if "previous" in args.config else None
    gate = gates.evaluate_gate(json.loads(args.measured.read_text()), criteria, previous=previous, **args.config)
    write_json(args.out, gate)
    print(gates.summary(gate))


if __name__ == "__main__":
    main()
