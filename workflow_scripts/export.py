"""Pack a run for others: weights, settings, licences and model card in one folder."""

from collections.abc import Sequence
from pathlib import Path

from neuromf.report.release.package import export
from neuromf.report.results import Results
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "model", "weights", "inputs:paths", "config:json", "out")
    results = Results(Path("results"), args.config.pop("run"), args.inputs)
    export(model=args.model, weights=args.weights, results=results, out=args.out, code=args.code, **args.config)


if __name__ == "__main__":
    main()
