"""Train MeanFlow on the torus, a toy problem with known answers; write losses, points and distances."""

from collections.abc import Sequence

from neuromf.meanflow.toy_torus import study
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "config:json", "history", "samples", "summary")
    for table, path in zip(study(**args.config), (args.history, args.samples, args.summary), strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(path, index=False, float_format="%.6g")


if __name__ == "__main__":
    main()
