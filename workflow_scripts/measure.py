"""Every metric of one run: its samples at each number of evaluations, with floors and ceilings beside them."""

from collections.abc import Sequence

import pandas as pd
import torch

from neuromf import generate, latents, vae
from neuromf.cohort import read_table
from neuromf.metrics import evaluation
from neuromf.volumes import of_split, read_volumes
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    names = ("samples:paths", "model", "latents:paths", "qc", "weights", "run:str", "config:json", "metrics", "spectra")
    args = arguments(__doc__, argv, *names)
    net, table, shards = vae.load(args.weights), read_table(args.qc), latents.load_shards(args.latents)
    train, test = (
        latents.of_split(shards, table.set_index("scan")["split"], split)["mean"] for split in ("train", "test")
    )
    sampler = args.config.pop("sampler")
    judge = evaluation.Evaluation(train, test, encoder=lambda volume: net.encode(volume)[0], **args.config)

    real = read_volumes(of_split(table, "test"))[:, 0].float()
    judge.add("real", real)
    judge.add("vae", latents.decode(net, test))
    judge.add("mean-head", real.mean(0, keepdim=True).repeat(4, 1, 1, 1), looks=False)
    for folder in args.samples:
        drawn = torch.load(folder / "latents.pt", weights_only=True)
        listed = read_table(folder / "samples.tsv")
        volumes = read_volumes(listed["file"])[:, 0].float()
        judge.add(folder.name.removeprefix("nfe-"), volumes, latent=drawn)
    same = {"n": len(drawn), "seed": int(listed["seed"].iloc[0]), "sampler": sampler}
    for name, other in generate.others(args.model, **same).items():
        judge.add(name, latents.decode(net, other), looks=False)
    judge.compare("1", "online")

    pd.DataFrame(judge.rows).assign(run=args.run).to_csv(args.metrics, index=False, float_format="%.6g")
    pd.DataFrame(judge.spectra).assign(run=args.run).to_csv(args.spectra, index=False, float_format="%.6g")


if __name__ == "__main__":
    main()
