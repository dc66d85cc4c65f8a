"""Forecast the image of the last visit of test patients, beside the last scan carried forward."""

from collections.abc import Sequence

from neuromf.growth.image_forecast import forecast_images
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "folder", "latents", "table", "out")
    forecast_images(folder=args.folder, latents=args.latents, table=args.table, out=args.out)


if __name__ == "__main__":
    main()
