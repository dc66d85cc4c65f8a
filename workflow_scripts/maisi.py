"""Download the published autoencoder."""

from collections.abc import Sequence

from neuromf.data.download import FetchError, download, show_licence
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "config:json", "out")
    autoencoder = args.config["autoencoder"]
    show_licence(**autoencoder["licence"])
    try:
        download(autoencoder["url"], args.out, sha256=autoencoder["sha256"])
    except FetchError as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
