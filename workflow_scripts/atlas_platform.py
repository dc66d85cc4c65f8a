"""Write the Discovery Platform: voxel to insight, figures, links to the other pages and downloads."""

from collections.abc import Sequence

from neuromf.report.atlas.platform import write_platform
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    names = (
        "studies",
        "checkpoint",
        "results",
        "pages:paths",
        "figures:paths",
        "downloads:paths",
        "gates:paths",
        "out",
    )
    args = arguments(__doc__, argv, *names)
    kept = {name.partition(":")[0]: getattr(args, name.partition(":")[0]) for name in names}
    try:
        write_platform(**kept, code=args.code)
    except ValueError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
