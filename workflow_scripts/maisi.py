"""Fetch the published autoencoder: show its licence, download, verify."""

from collections.abc import Sequence

from neuromf.data.download import FetchError, download, show_licence
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "config:json", "out")
    show_licence(**args.config["licence"])
    try:
        download(args.config["url"], args.out, sha256=args.config["sha256"])
    except FetchError as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
