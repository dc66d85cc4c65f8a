"""Measure the criteria of one stage of the atlas from its results, and evaluate its gate."""

from collections.abc import Sequence
from pathlib import Path

from neuromf.atlas.criteria import measure
from neuromf.core.files import write_json
from neuromf.workflow import gates
from neuromf.workflow.criteria import Criterion
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "config:json", "out")
    criteria = {name: Criterion(**row) for name, row in args.config.pop("criteria").items()}
    previous = gates.read_gate(Path(args.config.pop("previous"))) if "previous" in args.config else None
    files = {name: Path(path) for name, path in args.config.pop("files").items()}
    measured = measure(args.config["phase"], files)
    gate = gates.evaluate_gate(measured, criteria, previous=previous, **args.config)
    write_json(args.out, gate)
    print(gates.summary(gate))


if __name__ == "__main__":
    main()
