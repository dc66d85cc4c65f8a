"""Write the status table of the atlas from its gates."""

from collections.abc import Sequence

from neuromf.core.files import write_text
from neuromf.workflow.status import status_table
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "gates:paths", "out")
    write_text(args.out, status_table(args.gates))


if __name__ == "__main__":
    main()
