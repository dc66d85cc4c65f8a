"""Forecast the volume latent of test patients by the models of the ladder, beside their skill on measured volumes."""

from collections.abc import Sequence

from neuromf.growth.latent_forecast import forecast_volume_latent
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "latents", "reference", "config:json", "table", "out")
    paths = {name: getattr(args, name) for name in ("latents", "reference", "table", "out")}
    forecast_volume_latent(**paths, **args.config)


if __name__ == "__main__":
    main()
