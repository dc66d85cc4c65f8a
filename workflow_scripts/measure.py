"""Metrics of one run: its samples at each number of evaluations, against what is known of real people.

A run that is not measured in depth has distances, diversity and deviations alone: no anatomy, nearest heads or regions.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from threadpoolctl import threadpool_limits

from neuromf.data.nifti import read_volumes
from neuromf.data.participants import read_table
from neuromf.data.preprocessing import volumes_of_split
from neuromf.meanflow import baselines
from neuromf.metrics import evaluation
from neuromf.metrics.anatomy import morphometry
from neuromf.metrics.table import row
from neuromf.vae import latents, weights
from workflow_scripts._cli import arguments

FORM = {"index": False, "float_format": "%.6g"}
NEAREST, REGIONAL = ["generated", "train"], ["scan", "set", "region", "ml"]  # of a run not measured in depth
SPECTRUM = ["set", "nfe", "frequency", "power"]


@threadpool_limits.wrap(limits=1)  # cores are for volumes, see neuromf.parallel
def main(argv: Sequence[str] | None = None) -> None:
    inputs = ("samples:paths", "model", "people", "regions", "qc", "weights", "run:str", "config:json")
    args = arguments(__doc__, argv, *inputs, "metrics", "spectra", "nearest", "regional")
    net, train = weights.load(args.weights), volumes_of_split(read_table(args.qc), "train")
    sampler, asked, deep, specs = (args.config.pop(name) for name in ("sampler", "asked", "deep", "features"))
    people = evaluation.load_people(args.people)
    judge = evaluation.Evaluation(people, evaluation.open_sets(specs, vae=net, scale=people.scale), **args.config)

    nearest, regional = pd.DataFrame(columns=NEAREST), pd.DataFrame(columns=REGIONAL)
    for folder in args.samples:
        nfe, listed = int(folder.name.removeprefix("nfe-")), read_table(folder / "samples.tsv")
        volumes = read_volumes(listed["file"])[:, 0].float().numpy()
        drawn = torch.load(folder / "latents.pt", weights_only=True)
        judge.add(nfe, volumes)
        judge.keep(nfe, [row("valid_fraction", len(volumes) / asked, len(volumes))])
        judge.diversity(nfe, volumes)
        judge.deviation(nfe, drawn.double().numpy())
        if deep:
            judge.look(nfe, volumes)
        if deep and nfe == 1:
            nearest = nearest_heads(judge, volumes, listed["file"].tolist(), train)
            regional = regions(judge, volumes, pd.read_csv(args.regions))
    same = {"n": len(drawn), "seed": int(listed["seed"].iloc[0]), "sampler": sampler}
    for name, other in baselines.baseline_latents(args.model, **same).items() if deep else ():
        judge.add(name, latents.decode(net, other).numpy())
    if deep:
        judge.compare(1, "online")
    nearest.to_csv(args.nearest, **FORM)
    regional.to_csv(args.regional, **FORM)
    pd.DataFrame(judge.rows).assign(run=args.run).to_csv(args.metrics, **FORM)
    pd.DataFrame(judge.spectra, columns=SPECTRUM).assign(run=args.run).to_csv(args.spectra, **FORM)


def nearest_heads(
    judge: evaluation.Evaluation, volumes: np.ndarray, files: list[str], train: list[str]
) -> pd.DataFrame:
    """Privacy of one-step samples, and their likeness to the training heads nearest to them, who are given back."""
    pairs = judge.audit(1, volumes)
    ours = pairs[pairs["set"] == "generated"].drop(columns=["set", "index"])
    ours = ours.assign(generated=files, train=[train[k] for k in ours["train"]])
    chosen = ours.head(judge.n_pairs)
    heads = read_volumes(chosen["train"])[:, 0].float().numpy()
    heads = np.stack([one[::-1] if view else one for one, view in zip(heads, chosen["view"], strict=True)])
    judge.likeness(1, volumes[: len(heads)], heads)
    return ours


def regions(judge: evaluation.Evaluation, volumes: np.ndarray, known: pd.DataFrame) -> pd.DataFrame:
    """Regional volumes of one-step samples beside those of real people, as tidy rows."""
    found = judge.segment(volumes[: judge.n_anatomy])
    real = known[known["set"] == "test"].set_index("scan")[found.columns]
    judge.regions(1, real, found)
    names = [f"sample-{number:05d}" for number in range(len(found))]
    parts = (real, "real, held out", real.index), (found, "generated, 1 evaluation", names)
    return pd.concat([morphometry.tidy(table, name, scans) for table, name, scans in parts])


if __name__ == "__main__":
    main()
