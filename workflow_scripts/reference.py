"""Compute features of real scans, and metrics of test, reconstructed and control sets."""

from collections.abc import Sequence

from neuromf.metrics.evaluation import reference
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    outputs = ("real_features", "table", "spectra", "regions")
    args = arguments(__doc__, argv, "latents:paths", "qc", "weights", "config:json", *outputs)
    files = {name: getattr(args, name) for name in ("latents", "qc", "weights", *outputs)}
    reference(**files, **args.config)


if __name__ == "__main__":
    main()
