"""Train one arm of the collapse study with one seed, and write its row."""

from collections.abc import Sequence

from neuromf.config.growth_model import read_preset
from neuromf.growth.collapse_study import run_arm
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "config", "overrides:strings", "arm", "seed:int", "splits", "out")
    config = read_preset(args.config, args.overrides)
    run_arm(preset=config, arm=str(args.arm), seed=args.seed, splits=args.splits, out=args.out, code=args.code)


if __name__ == "__main__":
    main()
