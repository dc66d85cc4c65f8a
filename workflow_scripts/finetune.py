"""Fine-tune a trained run on image-mask pairs."""

import json
from collections.abc import Sequence

from neuromf.lesions.finetune import finetune
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    files = ("adapter", "gaussian", "history", "card")
    args = arguments(__doc__, argv, "model", "latents:paths", "strategy", "config:json", *files)
    if args.config["mask_encoding"] == "auto":
        args.config["mask_encoding"] = json.loads(args.strategy.read_text())["mask_encoding"]
    folders = {"latents": args.latents[0].parent, "out": args.card.parent}
    finetune(run=args.model, **folders, **args.config, code=args.code)


if __name__ == "__main__":
    main()
