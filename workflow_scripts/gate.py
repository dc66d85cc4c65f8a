"""Judge one phase: measured values against the bounds of the study, OPEN or BLOCKED with the reason."""

import json
from collections.abc import Sequence

from neuromf.workflow import gates
from neuromf.workflow.criteria import CRITERIA
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "phase:int", "config:json", "measured:json", "before:str", "out")
    gate = gates.judge(args.phase, args.measured, CRITERIA.get(args.phase, {}), before=args.before, **args.config)
    args.out.write_text(json.dumps(gate, indent=1))
    print(gates.summary(gate))


if __name__ == "__main__":
    main()
