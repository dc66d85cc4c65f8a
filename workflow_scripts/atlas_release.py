"""Bundle a release of the atlas with manifest, licences and checksums; refused unless all of it is of the full data."""

from collections.abc import Sequence

from neuromf.report.release.atlas_bundle import write_bundle
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "folder", "inputs:paths", "out", "bundle")
    try:
        write_bundle(args.folder, args.inputs, args.out, args.bundle)
    except ValueError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
