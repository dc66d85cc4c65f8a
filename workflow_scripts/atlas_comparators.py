"""Analyse topics of the atlas by NiMARE: MKDA chi-square, ALE and CBMR."""

from collections.abc import Sequence

from neuromf.atlas.comparators import compare_topics
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "folder", "config:json", "out")
    compare_topics(studies=args.folder, out=args.out, **args.config)


if __name__ == "__main__":
    main()
