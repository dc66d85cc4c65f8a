"""Preprocess one shard of the scans to the grid of the study; scans that cannot be used are excluded."""

from collections.abc import Sequence

from neuromf.data.external_tools import MissingTool
from neuromf.data.participants import read_table, write_table
from neuromf.data.preprocessing import prepare_shard
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "participants", "shard:int", "config:json", "out")
    shard = {"shard": args.shard, "n_shards": args.config["n_shards"]}
    try:
        qc = prepare_shard(read_table(args.participants), args.out, **shard, **args.config["volumes"])
    except (MissingTool, ValueError) as error:
        raise SystemExit(str(error)) from None
    write_table(qc, args.out / "qc.tsv")


if __name__ == "__main__":
    main()
