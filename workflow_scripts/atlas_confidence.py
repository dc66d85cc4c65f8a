"""Write the Dual-View Confidence Explorer and figure F4."""

from collections.abc import Sequence

from neuromf.figures import atlas_uncertainty
from neuromf.report.atlas.explorers import write_confidence
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "run", "checkpoint", "points", "studies", "table", "out", "page", "config:json")
    shared = {"run": args.run.parent, "checkpoint": args.checkpoint, "studies": args.studies}
    write_confidence(**shared, points=args.points, out=args.page, code=args.code)
    atlas_uncertainty.render(**shared, table=args.table, out=args.out, **args.config)


if __name__ == "__main__":
    main()
