"""Export the atlas for programs without Python: tables, NIfTI maps and ONNX files."""

from collections.abc import Sequence

from neuromf.report.release.atlas_nifti import export_maps
from neuromf.report.release.atlas_onnx import export_onnx
from neuromf.report.release.atlas_tables import export_tables
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(
        __doc__, argv, "studies", "checkpoint", "points", "latents:paths", "tables", "maps", "onnx", "config:json"
    )
    common = {"studies": args.studies, "checkpoint": args.checkpoint, **args.config}
    try:
        export_tables(**common, latents=args.latents, out=args.tables)
        export_maps(**common, out=args.maps)
        export_onnx(**common, points=args.points, out=args.onnx)
    except ValueError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
