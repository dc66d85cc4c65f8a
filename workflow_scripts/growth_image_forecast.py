"""Forecast the image of the last visit of test patients, beside the last scan carried forward."""

from collections.abc import Sequence

from neuromf.growth.image_forecast import forecast_images
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "folder", "latents", "states", "table", "examples", "out")
    names = ("folder", "latents", "states", "table", "examples", "out")
    forecast_images(**{name: getattr(args, name) for name in names})


if __name__ == "__main__":
    main()
