"""Bring images and lesion masks to the grid of the study; set aside what cannot be used; share out the people."""

from collections.abc import Sequence

from neuromf.data.external_tools import MissingTool
from neuromf.lesions.pairs import find_pairs, prepare_pairs, write_pairs
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "config:json", "volumes", "out")
    args.volumes.mkdir(parents=True, exist_ok=True)
    try:
        table = find_pairs(**args.config["source"])
        write_pairs(*prepare_pairs(table, args.volumes, **args.config["prepare"]), args.out)
    except (MissingTool, ValueError) as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
