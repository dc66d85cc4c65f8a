"""Write dvc.yaml of the atlas from the rule graph."""

from collections.abc import Sequence

from neuromf.workflow.dvc import write_dvc
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "config:json", "out")
    write_dvc(args.out, args.config["stages"])


if __name__ == "__main__":
    main()
