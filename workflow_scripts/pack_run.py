"""Store the averaged network, prior and statistics of a run in half precision, as the package ships them."""

from collections.abc import Sequence

from neuromf.meanflow.packaged import pack
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "model", "config:json", "out")
    pack(model=args.model, out=args.out, **args.config)


if __name__ == "__main__":
    main()
