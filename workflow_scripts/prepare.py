"""Bring one shard of the scans to the grid and intensities of the study; set aside what cannot be used."""

from collections.abc import Sequence

from neuromf.data.external_tools import MissingTool
from neuromf.data.participants import read_table, write_table
from neuromf.data.preprocessing import prepare_shard
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "participants", "shard:int", "config:json", "out")
    settings = dict(args.config)
    n_shards = settings.pop("n_shards")
    if not 0 <= args.shard < n_shards:
        raise SystemExit(f"--shard must be in 0..{n_shards - 1}, as n_shards is {n_shards}; got {args.shard}")
    table = read_table(args.participants).iloc[args.shard :: n_shards]
    try:
        rows = prepare_shard(table, args.out, **settings)
    except MissingTool as error:
        raise SystemExit(str(error)) from None
    write_table(rows, args.out / "qc.tsv")


if __name__ == "__main__":
    main()
