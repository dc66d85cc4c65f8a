"""Write the 3D viewer of foci and their reconstruction, and its picture."""

from collections.abc import Sequence

from neuromf.figures import atlas_points
from neuromf.report.atlas.point_viewer import write_point_viewer
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "run", "studies", "table", "config:json", "out")
    write_point_viewer(args.run, args.studies, args.out, **args.config)
    atlas_points.render(args.run, args.studies, args.table, args.out.with_suffix(""), **args.config)


if __name__ == "__main__":
    main()
