"""Draw volumes from one trained run with a given number of network evaluations: latents and NIfTI."""

from collections.abc import Sequence

import torch

from neuromf import generate, vae
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "model", "weights", "steps:int", "config:json", "out")
    config, run, decoder = args.config, generate.load_run(args.model), vae.load(args.weights)
    args.out.mkdir(parents=True, exist_ok=True)
    drawing = {name: config[name] for name in ("sampler", "n", "seed", "batch")}
    latents = generate.draw_latents(run, steps=args.steps, **drawing)
    torch.save(latents, args.out / "latents.pt")
    generate.write_volumes(decoder, latents, args.out, spacing_mm=config["spacing_mm"], seed=config["seed"])


if __name__ == "__main__":
    main()
