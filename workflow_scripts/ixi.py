"""Download the T1 scans and the demographics of IXI."""

from collections.abc import Sequence

from neuromf.data import ixi
from neuromf.data.download import FetchError
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "config:json", "scans", "participants")
    try:
        ixi.fetch(args.scans, args.participants, **args.config["ixi"])
    except (FetchError, ValueError) as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
