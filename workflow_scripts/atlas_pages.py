"""Write the pages Latent Slider and Counterfactual Machine of the atlas."""

from collections.abc import Sequence

from neuromf.report.atlas import pages
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "checkpoint", "slider", "counterfactual")
    pages.write_latent_slider(checkpoint=args.checkpoint, out=args.slider, code=args.code)
    pages.write_counterfactual(checkpoint=args.checkpoint, out=args.counterfactual, code=args.code)


if __name__ == "__main__":
    main()
