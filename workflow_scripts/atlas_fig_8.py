"""Draw figure F8 of the atlas: the one-step prior against N(0, I)."""

from collections.abc import Sequence

from neuromf.figures import atlas_prior
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "result", "config:json", "out")
    atlas_prior.render(result=args.result, out=args.out, **args.config)


if __name__ == "__main__":
    main()
