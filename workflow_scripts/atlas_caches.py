"""Write the caches of maps (LMDB) and points (HDF5), a faster source for trainings on large grids."""

from collections.abc import Sequence

from neuromf.atlas.caches import write_caches
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "folder", "maps", "points", "config:json")
    write_caches(args.folder, args.maps, args.points, **args.config)


if __name__ == "__main__":
    main()
