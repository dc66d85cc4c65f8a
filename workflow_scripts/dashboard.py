"""Draw the dashboard of a training."""

from collections.abc import Sequence

from neuromf.figures import dashboard
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "history", "diagnostics", "config:json", "out")
    dashboard.render(history=args.history, diagnostics=args.diagnostics, out=args.out, **args.config)


if __name__ == "__main__":
    main()
