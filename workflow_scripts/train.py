"""Train one run of the flow; its EMA weights, its history and diagnostics, and a card that says what made it.

Several GPUs share every batch, a process each: Lightning starts those of one machine, `srun` those of several.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from neuromf.data.participants import read_table, subsample_training_participants
from neuromf.meanflow import run
from neuromf.meanflow.diagnostics import Diagnostics, TrainingAlarm
from neuromf.meanflow.gaussian_prior import GaussianPrior
from neuromf.meanflow.module import MeanFlowModule
from neuromf.meanflow.pretrained import load_rectified
from neuromf.training import checkpoints, run_record, trainer
from neuromf.vae import statistics, training_set
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    files = ("model", "history", "diagnostics", "card")
    machine = ("gpus:int", "nodes:int", "memory_mb:int")
    args = arguments(__doc__, argv, "latents:paths", "stats", "qc", "config:json", *machine, *files)
    devices = max(1, args.gpus // args.nodes)  # of each node
    net, settings = args.config["net"], {**args.config["flow"], **args.config["train"]}
    made_by = json.dumps([args.config, args.code, *map(digest, (args.stats, args.qc))], sort_keys=True)
    stats = statistics.read_stats(args.stats)
    splits = subsample_training_participants(read_table(args.qc), settings.pop("people"))
    copies, resident_mb = settings.pop("copies"), args.memory_mb / devices / 2  # the other half is for all else
    data = training_set.load_training_set(args.latents, splits, stats, copies=copies, resident_mb=resident_mb)
    running = {name: settings.pop(name) for name in ("checkpoint_every", "precision", "clip", "accumulate")}
    prediction, n_axes, start = (settings.pop(name) for name in ("prediction", "prior_axes", "start"))
    quiet = quiet_steps(settings)
    diagnostics = Diagnostics(after=quiet, **settings.pop("diagnostics"))
    base = GaussianPrior.fit(data, n_axes) if prediction == "x" else None
    u = run.build_network(net, prediction, prior=base, head=settings["tangent"] == "head", seed=settings["seed"])
    if start:
        load_rectified(u.net, start.pop("weights"), **start)  # type: ignore[arg-type]  # the UNet of build
    study = MeanFlowModule(u, data, diagnostics=diagnostics, **settings)
    checkpoint = args.model.parent / "ckpt" / "last.ckpt"
    try:
        where = {"devices": devices, "num_nodes": args.nodes}
        trainer.fit(study, checkpoint=checkpoint, made_by=made_by, keep=True, **where, **running)
    except TrainingAlarm as trouble:  # outputs of a failed job are removed; what led to it stays beside the checkpoint
        run_record.write_rows(diagnostics.rows, checkpoint.with_name("diagnostics.csv"))
        raise SystemExit(f"{trouble}\nWhat led to it: {checkpoint.with_name('diagnostics.csv')}") from trouble
    if study.global_rank:
        return  # all processes hold the same: the first writes it
    run.save_run(args.model, study.nets(), early=study.early, net=net, stats=stats)
    run_record.write_rows(study.history, args.history)
    run_record.write_rows(diagnostics.rows, args.diagnostics)
    card = run_record.run_record(study, args.config, {"stats": str(args.stats), "n_latents": len(data)})
    args.card.write_text(json.dumps(card, indent=1))
    checkpoints.delete_checkpoints(checkpoint)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def quiet_steps(settings: dict) -> int:
    """Steps before alarms may sound: a whole stretch of open intervals is wanted; none may where r = t always."""
    if settings["times"]["fraction_r_equals_t"] == 1:
        return settings["steps"]
    return (
        settings["flow_matching_steps"]
        + settings["interval_warmup_steps"]
        + settings["warmup"]
        + settings["diagnostics"]["every"]
    )


if __name__ == "__main__":
    main()
