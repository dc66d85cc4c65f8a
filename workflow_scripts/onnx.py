"""Write the one-step generator as an ONNX file and compare it with torch."""

from collections.abc import Sequence

from neuromf.report.release.onnx import export
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "model", "weights", "config:json", "out", "check")
    export(model=args.model, weights=args.weights, out=args.out, check=args.check, **args.config)


if __name__ == "__main__":
    main()
