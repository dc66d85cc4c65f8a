"""Read the measured value of every criterion of one phase from the results."""

from collections.abc import Sequence
from pathlib import Path

from neuromf.core.files import write_json
from neuromf.metrics import criteria
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "config:json", "out")
    files = {name: Path(path) for name, path in args.config["files"].items()}
    write_json(args.out, criteria.measure(args.config["phase"], files))


if __name__ == "__main__":
    main()
