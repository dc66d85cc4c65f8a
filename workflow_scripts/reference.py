"""What is known of real people, once for all runs: features, images, regions; floors and ceilings of metrics."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from neuromf.data.nifti import read_volumes
from neuromf.data.participants import read_table
from neuromf.data.preprocessing import volumes_of_split
from neuromf.metrics import controls, evaluation, privacy
from neuromf.vae import latents, weights
from neuromf.vae import shards as vae_shards
from workflow_scripts._cli import arguments


@threadpool_limits.wrap(limits=1)  # cores are for volumes, see neuromf.parallel
def main(argv: Sequence[str] | None = None) -> None:
    outputs = ("people", "table", "spectra", "regions")
    args = arguments(__doc__, argv, "latents:paths", "qc", "weights", "config:json", *outputs)
    net, table, shards = weights.load(args.weights), read_table(args.qc), vae_shards.load_shards(args.latents)
    splits = table.set_index("scan")["split"]
    known = {split: vae_shards.select_split(shards, splits, split) for split in ("train", "test")}
    train, real = (read_volumes(volumes_of_split(table, split))[:, 0].numpy() for split in ("train", "test"))
    specs = args.config.pop("features")
    scale = evaluation.scale_of(specs, vae=net, people=train)
    sets = evaluation.open_sets(specs, vae=net, scale=scale)
    people = evaluation.People(
        train=evaluation.extract(sets, train),
        test=evaluation.extract(sets, real),
        train_images=privacy.mirrored(train, evaluation.POOL),
        test_images=privacy.mirrored(real, evaluation.POOL),
        channel_std=known["train"]["mean"].double().transpose(0, 1).flatten(1).std(1).numpy(),
        scale=scale,
    )
    evaluation.save_people(people, args.people)

    judge = evaluation.Evaluation(people, sets, **args.config)
    judge.halves()
    made = controls.controls(real, seed=args.config["seed"])
    mean_head = {key: x.repeat(len(real), axis=0) for key, x in evaluation.extract(sets, made["mean"][:1]).items()}
    for name, volumes in made.items():
        judge.add(name, volumes, features={"test": people.test, "mean": mean_head}.get(name))
    found = pd.DataFrame(judge.rows)
    judge.rows += evaluation.ordered(found)
    decoded = latents.decode(net, known["test"]["mean"]).numpy()
    judge.add("reconstruction", decoded)
    for name, volumes in (("test", real), ("reconstruction", decoded)):
        judge.diversity(name, np.asarray(volumes, np.float32))
        judge.look(name, np.asarray(volumes, np.float32))
    regional = {"test": judge.segment(real), "reconstruction": judge.segment(decoded[: judge.n_anatomy])}  # as many as of a run
    judge.regions("reconstruction", regional["test"], regional["reconstruction"])
    scans = known["test"]["scans"]
    rows = [each.assign(set=name, scan=scans[: len(each)]) for name, each in regional.items()]
    pd.concat(rows).to_csv(args.regions, index=False, float_format="%.6g")
    pd.DataFrame(judge.rows).assign(run="").to_csv(args.table, index=False, float_format="%.6g")
    pd.DataFrame(judge.spectra).assign(run="").to_csv(args.spectra, index=False, float_format="%.6g")


if __name__ == "__main__":
    main()
