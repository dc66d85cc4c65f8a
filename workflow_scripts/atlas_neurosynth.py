"""Download Neurosynth version 7."""

from collections.abc import Sequence

from neuromf.data.atlas_downloads import fetch_neurosynth
from neuromf.data.download import FetchError
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "folder", "config:json")
    try:
        fetch_neurosynth(args.folder, **args.config)
    except (FetchError, ValueError) as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
