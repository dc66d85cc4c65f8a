"""Project the costs of a larger study from the benchmarks of this one."""

from collections.abc import Sequence

from neuromf.benchmarks import projection
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    inputs = ("benchmarks", "qc", "volumes:paths", "latents:paths", "card", "samples:paths", "config:json")
    args = arguments(__doc__, argv, *inputs, "table", "page")
    names = ("benchmarks", "qc", "volumes", "latents", "card", "samples", "table", "page")
    projection.write(**{name: getattr(args, name) for name in names}, plan=args.config)


if __name__ == "__main__":
    main()
