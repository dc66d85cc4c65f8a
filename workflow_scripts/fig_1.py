"""Draw figure 1: the method, with a brain, its latent, noise and a one-step sample of this study."""

from collections.abc import Sequence

import torch

from neuromf.core import seeds
from neuromf.data.nifti import read_volume
from neuromf.data.participants import read_table
from neuromf.data.preprocessing import of_split
from neuromf.figures import style
from neuromf.figures.overview import fig_1
from neuromf.vae import shards as vae_shards
from neuromf.vae import statistics
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "qc", "latents:paths", "stats", "samples", "config:json", "out")
    table, stats = read_table(args.qc), statistics.read_stats(args.stats)
    real = of_split(table, "test")[0]
    shards = vae_shards.select_split(vae_shards.load_shards(args.latents), table.set_index("scan")["split"], "test")
    latent = statistics.normalise(shards["mean"][:1], stats)[0]
    drawn = statistics.normalise(torch.load(args.samples / "latents.pt", weights_only=True)[:1], stats)[0]
    eps = seeds.noise(args.config["seed"], [0], tuple(stats["shape"]))[0]
    generated = read_table(args.samples / "samples.tsv")["file"][0]
    volume, sample = read_volume(real)[0], read_volume(generated)[0]
    shapes = {"volume_shape": _by(volume.shape), "latent_shape": _by(stats["shape"])}
    fig = fig_1(volume, latent.numpy(), eps.numpy(), drawn.numpy(), sample, shapes)
    style.save(fig, args.out, args.config)


def _by(shape: Sequence[int]) -> str:
    return r"$\times$".join(map(str, shape))


if __name__ == "__main__":
    main()
