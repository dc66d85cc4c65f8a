"""Training of a run, from encoded latents to a folder with weights, history and provenance."""

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from torch import Tensor

from neuromf.core.files import sha256, write_json
from neuromf.data.participants import read_table, subsample_training_participants
from neuromf.meanflow.diagnostics import Diagnostics, TrainingAlarm
from neuromf.meanflow.gaussian_prior import GaussianPrior
from neuromf.meanflow.module import MeanFlowModule
from neuromf.meanflow.packaged import STATS
from neuromf.meanflow.pretrained import load_rectified
from neuromf.meanflow.prior_selection import fit_prior
from neuromf.meanflow.run import Run, build_network, load_run, save_run
from neuromf.meanflow.velocity_net import MeanVelocityNet
from neuromf.nn import position_maps
from neuromf.nn.unet import checkpoint_activations
from neuromf.training.checkpoints import delete_checkpoints
from neuromf.training.run_record import run_record, write_rows
from neuromf.training.trainer import fit
from neuromf.vae.shards import load_split
from neuromf.vae.statistics import normalise, read_stats
from neuromf.vae.training_set import MemoryMappedLatents, load_training_set

FIT = ("checkpoint_every", "precision", "clip", "accumulate", "logger")  # keys of `train` for trainer.fit
# Keys of `train` for the data and the start.
SETUP = ("participant_fraction", "use_augmented", "diagnostics", "init_from", "checkpoint_activations")


def train(
    *,
    latents: Sequence[Path],
    stats: Path,
    qc: Path,
    net: dict,
    flow: dict,
    train: dict,
    out: Path,
    memory_mb: float = 8000,
    devices: int = 1,
    num_nodes: int = 1,
    code: str = "",
) -> Run:
    """Train a run into the folder `out`: model.pt, history.csv, diagnostics.csv and card.json.

    An interrupted training resumes from out/ckpt. Several GPUs divide each batch, one process per GPU; Lightning starts
    the processes of one machine, `srun` those of several.

    Arguments:
        latents: Latent shards, see `neuromf.vae.latents`.
        stats: JSON file with the latent statistics of the training participants.
        qc: Participants table with scan, participant and split.
        net: Config section meanflow.net: keyword arguments of `UNet`.
        flow: Config section meanflow.flow: prediction, prior, and arguments of `MeanFlowModule`.
        train: Config section meanflow.train: data, optimisation, checkpoints, diagnostics.
        out: Output folder.
        memory_mb: Memory of the job in MB; latents that need more than half of it remain on disk, memory-mapped.
        devices: GPUs (processes) per node.
        num_nodes: Nodes.
        code: Digest of the code; a checkpoint of other code is not resumed.

    Returns:
        The trained run with its EMA weights.

    Raises:
        TrainingAlarm: If diagnostics.on_alarm is "stop" and an alarm is raised. out/ckpt/diagnostics.csv has the
            rows that led to it.
    """
    if train.get("averages") == "host" and devices * num_nodes > 1:
        raise ValueError(f"train.averages host needs one process; got {devices * num_nodes}: set it to device")
    config, checkpoint = {"net": net, "flow": flow, "train": train}, out / "ckpt" / "last.ckpt"
    base = load_run(train["init_from"]) if isinstance(train["init_from"], str) else None
    statistics = read_stats(stats) | ({key: base.stats[key] for key in STATS} if base else {})
    data = _training_latents(latents, qc, statistics, train, resident_mb=memory_mb / devices / 2)
    validation = normalise(load_split(latents, read_table(qc).set_index("scan")["split"], "val")["mean"], statistics)
    prior, candidates = None, pd.DataFrame()
    if base:
        prior = base.u.prior
    elif flow["prediction"] == "x":
        prior, candidates = fit_prior(data, validation, **flow["prior"], seed=train["seed"])
    diagnostics = _diagnostics(flow, train, validation)
    module = _build_module(net, flow, train, data, prior, base, diagnostics)
    settings = {key: train[key] for key in FIT if key in train}
    settings["provenance"] = json.dumps([config, code, sha256(stats), sha256(qc)], sort_keys=True)
    try:
        fit(module, checkpoint=checkpoint, keep_checkpoint=True, devices=devices, num_nodes=num_nodes, **settings)
    except TrainingAlarm as alarm:
        rows = checkpoint.with_name("diagnostics.csv")  # Snakemake deletes the outputs of a failed job
        write_rows(diagnostics.rows, rows)
        raise TrainingAlarm(f"{alarm}\nDiagnostics until then: {rows}") from alarm
    if module.global_rank == 0:
        facts = {"stats": str(stats), "n_latents": len(data), "prior": candidates.to_dict("records")}
        _write(module, diagnostics, out, config, statistics, data=facts)
        delete_checkpoints(checkpoint)
    return Run(module.ema.net, statistics, tuple(statistics["shape"]), str(module.device))


def _training_latents(
    latents: Sequence[Path], qc: Path, stats: dict, train: dict, resident_mb: float
) -> Tensor | MemoryMappedLatents:
    """Normalised latents of the training participants, or of a fraction of them."""
    splits = subsample_training_participants(read_table(qc), train["participant_fraction"])
    return load_training_set(latents, splits, stats, use_augmented=train["use_augmented"], resident_mb=resident_mb)


def _build_module(
    net: dict,
    flow: dict,
    train: dict,
    data: Tensor | MemoryMappedLatents,
    prior: GaussianPrior | None,
    base: Run | None,
    diagnostics: Diagnostics,
) -> MeanFlowModule:
    """The module before training: network with the weights that it starts from (`train.init_from`), and prior."""
    velocity_head = flow["tangent"] == "head"
    settings = {"shape": tuple(data.shape[1:]), "prior": prior, "velocity_head": velocity_head, "seed": train["seed"]}
    u = build_network(net, flow["prediction"], **settings)
    if train.get("checkpoint_activations"):
        checkpoint_activations(u.net)
    if base:
        _load_weights(u, base, train["init_from"])
    elif train["init_from"]:
        rectified = dict(train["init_from"]["rectified"])
        load_rectified(u.net, rectified.pop("weights"), **rectified)  # type: ignore[arg-type]  # the net is a UNet
    settings = {key: value for key, value in flow.items() if key not in ("prediction", "prior")}
    settings |= {key: value for key, value in train.items() if key not in (*FIT, *SETUP)}
    return MeanFlowModule(u, data, diagnostics=diagnostics, **settings)


def _load_weights(u: MeanVelocityNet, base: Run, path: str) -> None:
    """Copy the weights of a run into a network, in place; maps that the run lacks remain zero."""
    new = {name: weight for name, weight in u.net.state_dict().items() if position_maps.NAME in name}
    try:
        u.net.load_state_dict({**new, **base.u.net.state_dict()})
    except RuntimeError as error:
        raise ValueError(
            f"train.init_from {path} has another network than meanflow.net and meanflow.flow ask for; use those of the "
            f"study that made it, or set train.init_from to null ({error})"
        ) from error


def _diagnostics(flow: dict, train: dict, validation: Tensor) -> Diagnostics:
    """Diagnostics of this training; `validation` are the latents of all validation participants."""
    settings = {key: value for key, value in train["diagnostics"].items() if key != "n_validation"}
    chosen = validation[: train["diagnostics"].get("n_validation", 0)]
    return Diagnostics(quiet_steps=_quiet_steps(flow, train), validation=chosen, **settings)


def _quiet_steps(flow: dict, train: dict) -> int:
    """Steps before the first alarm: until one window with open intervals is complete; all if r = t throughout."""
    if flow["times"]["fraction_r_equals_t"] == 1:
        return train["steps"]
    opening = flow["flow_matching_steps"] + flow["interval_warmup_steps"]
    return opening + train["warmup"] + train["diagnostics"]["every"]


def _write(module: MeanFlowModule, diagnostics: Diagnostics, out: Path, config: dict, stats: dict, data: dict) -> None:
    """Write the files of a finished run."""
    save_run(out / "model.pt", module.nets(), early=module.early, net=config["net"], stats=stats)
    write_rows(module.history, out / "history.csv")
    write_rows(diagnostics.rows, out / "diagnostics.csv")
    write_json(out / "card.json", run_record(module, config, data))
