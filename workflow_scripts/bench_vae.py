"""Measure time, memory and error of encoding and decoding on the CPU: MONAI's autoencoder and ours."""

from collections.abc import Sequence

from neuromf.benchmarks.vae import benchmark
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "config:json", "out")
    benchmark(out=args.out, **args.config)


if __name__ == "__main__":
    main()
