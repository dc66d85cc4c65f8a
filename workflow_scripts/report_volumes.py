"""Write the volumes that the report page previews."""

from collections.abc import Sequence

from neuromf.report.page.volumes import write_volumes
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "qc", "odd", "weights", "samples:paths", "config:json", "out")
    write_volumes(
        qc=args.qc, outliers=args.odd, weights=args.weights, samples=args.samples, out=args.out, **args.config
    )


if __name__ == "__main__":
    main()
