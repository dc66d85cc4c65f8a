"""Draw figure 2, the torus."""

from collections.abc import Sequence

from neuromf.figures import torus
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "history", "samples", "summary", "config:json", "out")
    torus.render(history=args.history, samples=args.samples, summary=args.summary, out=args.out, **args.config)


if __name__ == "__main__":
    main()
