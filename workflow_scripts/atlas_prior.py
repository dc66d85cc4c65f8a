"""Train the one-step prior of the latents of the volume model."""

from collections.abc import Sequence

from neuromf.atlas.latent_prior import write_prior
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "studies", "checkpoint", "history", "config:json", "out")
    try:
        write_prior(args.studies, args.checkpoint, args.out, args.history, **args.config)
    except (ValueError, FloatingPointError) as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
