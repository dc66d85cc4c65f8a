"""Write dvc.yaml of the atlas from the rule graph."""

from collections.abc import Sequence

from neuromf.core.files import write_text
from neuromf.workflow.dvc import as_yaml
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "config:json", "out")
    write_text(args.out, as_yaml(args.config["stages"]))


if __name__ == "__main__":
    main()
