"""Prepare images and lesion masks on the grid of the study, and split them by participant."""

from collections.abc import Sequence

from neuromf.data.external_tools import MissingTool
from neuromf.lesions.pairs import prepare_pairs
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "config:json", "volumes", "out")
    try:
        prepare_pairs(**args.config, folder=args.volumes, out=args.out)
    except (MissingTool, ValueError) as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
