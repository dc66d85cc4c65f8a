"""Encode one shard of the volumes; training scans also mirrored and augmented."""

from collections.abc import Sequence

from neuromf.vae.latents import encode_shard
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "folder", "weights", "config:json", "out", "test")
    files = {"folder": args.folder, "weights": args.weights, "out": args.out, "test": args.test}
    encode_shard(**files, code=args.code, **args.config)


if __name__ == "__main__":
    main()
