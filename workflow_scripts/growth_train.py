"""Train one VAE of the growth system from a preset. By hand: --config studies/growth/exp1_baseline_vae.yaml."""

from collections.abc import Sequence

from neuromf.config.growth_model import read_preset
from neuromf.figures import growth_dashboard
from neuromf.growth.train import train
from neuromf.workflow.digests import resolve
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "config", "overrides:strings", "splits:optional", "out:optional")
    preset = args.config if args.config.exists() else resolve(str(args.config))  # a job may run in another folder
    try:
        run = train(**read_preset(preset, args.overrides), splits=args.splits, out=args.out, code=args.code)
    except (ValueError, FloatingPointError) as error:
        raise SystemExit(str(error)) from None
    growth_dashboard.render(metrics=run / "logs" / "epoch_metrics.csv", out=run / "dashboard")


if __name__ == "__main__":
    main()
