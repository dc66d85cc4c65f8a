"""Draw figure F3 of the atlas: latent traversals and a counterfactual."""

from collections.abc import Sequence

from neuromf.figures import atlas_traversal
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "checkpoint", "config:json", "out")
    atlas_traversal.render(checkpoint=args.checkpoint, out=args.out, **args.config)


if __name__ == "__main__":
    main()
