"""Write the volumes of the reader test on the report page."""

from collections.abc import Sequence

from neuromf.report.page.reader import write_reader
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "qc", "latents:paths", "weights", "samples", "config:json", "out")
    write_reader(
        qc=args.qc, latents=args.latents, weights=args.weights, samples=args.samples, out=args.out, **args.config
    )


if __name__ == "__main__":
    main()
