"""Training of ensembles: five snapshots of one cyclic cosine schedule, or five trainings from independent seeds.

Encoder and condition are those of a trained volume model and are fixed, so maps, latents and conditions of the training
studies are computed once. The loss is the Gaussian negative log-likelihood; during the first part of the first cycle
the variance is that of the training maps, and means alone are fitted.
"""

import copy
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neuromf.atlas import losses
from neuromf.atlas.ensemble import MEMBER, AleatoricDecoder, Ensemble, build_member, load_ensemble, save_member
from neuromf.atlas.guards import kind as kind_of
from neuromf.atlas.inference import Atlas, load_atlas
from neuromf.atlas.module import MEAN_ONLY
from neuromf.atlas.rates import encoded, metadata_of
from neuromf.atlas.studies import Studies, read_studies
from neuromf.core.files import sha256, write_json
from neuromf.core.seeds import generator
from neuromf.training.checkpoints import delete_checkpoints
from neuromf.training.module import ResumableModule
from neuromf.training.run_record import run_record, write_rows
from neuromf.training.trainer import fit
from neuromf.vae.elbo import reparameterise

FIT = ("checkpoint_every", "clip", "logger")  # keys of `train` for trainer.fit
VARIANCE_FLOOR = 1e-4  # of the variance of training maps, near the border of the mask


@dataclass(frozen=True)
class Features:
    """Training studies as the decoders see them.

    maps: Kernel maps (n, V). mu, logvar: Posterior (n, d). condition: (n, c), or None; empty: condition (1, c) of a
    study without metadata.
    """

    maps: NDArray
    mu: Tensor
    logvar: Tensor
    condition: Tensor | None
    empty: Tensor | None

    @staticmethod
    def of(atlas: Atlas, studies: Studies, maps: NDArray) -> "Features":
        """Features of studies by a volume model."""
        m = metadata_of(atlas, studies)
        mu, logvar = encoded(atlas, atlas.grid, maps, m)
        with torch.no_grad():
            condition = atlas.model.condition(*atlas.model.metadata(m, None, len(maps)))
            empty = atlas.model.condition(*atlas.model.metadata(None, None, 1))
        return Features(maps, mu.clone(), logvar.clone(), condition, empty)


class SnapshotModule(ResumableModule):
    """Training of one aleatoric decoder with `cycles` cosine cycles; its weights are copied at the end of each.

    Arguments:
        member: Decoder.
        features: Training studies.
        cycles: Cycles of the learning rate, each from `lr` to 0.
        drop_metadata: Fraction of rows that are trained without metadata.
        settings: As of `ResumableModule`.

    Raises:
        ValueError: If steps is no multiple of cycles.
    """

    PROGRESS = ("loss", "mse", "lr")

    def __init__(
        self, member: AleatoricDecoder, features: Features, *, cycles: int, drop_metadata: float = 0.1, **settings: Any
    ) -> None:
        super().__init__(len(features.maps), **settings)
        if self.steps % cycles:
            raise ValueError(f"train.steps must be a multiple of the {cycles} cycles; got {self.steps}")
        self.member, self.features = member, features
        self.cycles, self.drop_metadata = cycles, drop_metadata
        self.snapshots: list[dict[str, Tensor]] = []

    def lr_factor(self, step: int) -> float:
        """Half a cosine from 1 to 0 within each cycle, behind a linear warm-up in the first."""
        period = self.steps // self.cycles
        warm = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        return warm * 0.5 * (1 + math.cos(math.pi * (step % period) / period))

    def training_step(self, _: object, __: int) -> Tensor:
        rows = self.local_rows(self.batch_indices())
        target = torch.from_numpy(np.asarray(self.features.maps[rows.numpy()], np.float32)).to(self.device)
        mu, logvar = self.features.mu[rows], self.features.logvar[rows]
        z = reparameterise(mu, logvar, torch.randn(mu.shape, generator=self.draw("posterior"))).to(self.device)
        mean, spread = self.member.moments(z, self.condition(rows))
        if int(self.drawn) < MEAN_ONLY * self.steps / self.cycles:
            spread = self.member.logvar_map.expand_as(mean)
        loss = losses.gauss(target, mean, spread).mean() / target.shape[1]
        lr = torch.tensor(self.lr * self.lr_factor(int(self.drawn)))
        self.record(loss=loss, mse=(target - mean.detach()).square().mean(), lr=lr)
        return loss

    def condition(self, rows: Tensor) -> Tensor | None:
        """Conditions of training studies, some of them without metadata."""
        if self.features.condition is None or self.features.empty is None:
            return None
        dropped = torch.rand(len(rows), generator=self.draw("dropped")) < self.drop_metadata
        return torch.where(dropped[:, None], self.features.empty, self.features.condition[rows]).to(self.device)

    def on_train_batch_end(self, *args: object) -> None:
        if (int(self.drawn) + 1) % (self.steps // self.cycles) == 0:
            self.snapshots.append(copy.deepcopy(self.member.state_dict()))
        super().on_train_batch_end(*args)

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["snapshots"] = self.snapshots

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        super().on_load_checkpoint(checkpoint)
        self.snapshots = checkpoint["snapshots"]


def train_ensemble(
    *,
    studies: Path,
    maps: Path,
    checkpoint: Path,
    out: Path,
    kind: str,
    k: int,
    model: Mapping[str, Any],
    train: Mapping[str, Any],
    code: str = "",
) -> Ensemble:
    """Train K members into the folder `out`: member_{1..K}.pt, history.csv with the learning rate, card.json.

    A killed training resumes from out/ckpt.

    Arguments:
        studies: Folder of studies.
        maps: Maps of all studies (.npy).
        checkpoint: Checkpoint of the volume model.
        out: Run folder.
        kind: "snapshot": K cycles of one training of `train.steps`; "independent": K trainings of one cycle, each of
            `train.steps` / K, with seeds `train.seed` + 1 to + K.
        k: Members K.
        model: Sizes of the decoder: decoder_width, decoder_depth, decoder_stride.
        train: Optimisation.
        code: Digest of the code; a checkpoint of other code is not resumed.
    """
    if kind not in ("snapshot", "independent"):
        raise ValueError(f"kind must be snapshot or independent; got {kind!r}")
    everything, atlas = read_studies(studies), load_atlas(checkpoint)
    rows = everything.rows("train")
    some = everything.take(rows)
    features = Features.of(atlas, some, np.load(maps, mmap_mode="r")[rows])
    config = {"kind": kind, "k": k, "model": dict(model), "train": dict(train)}
    base = sha256(checkpoint)
    provenance = json.dumps([config, base, sha256(studies / "studies.tsv"), code], sort_keys=True)
    weights, history, module = _fit_members(atlas, features, config, out, provenance)
    card = {"kind_of_ensemble": kind, "k": k, "base": base, "scale": everything.scale,
            "kind": kind_of(everything.scale), "manifest": atlas.card["manifest"], "code": code,
            "seed": train["seed"]}  # fmt: skip
    for number, (state, member) in enumerate(weights, start=1):
        member.load_state_dict(state)
        save_member(out / MEMBER.format(number=number), member, model, card | {"number": number})
    write_rows(history, out / "history.csv")
    record = run_record(module, config, {"n_train": len(rows)})
    write_json(out / "card.json", card | record | {"train_ids": some.table["id"].astype(str).tolist()})
    for path in (out / "ckpt").glob("*.ckpt"):
        delete_checkpoints(path)
    return load_ensemble(out, checkpoint)


def _fit_members(
    atlas: Atlas, features: Features, config: Mapping[str, Any], out: Path, provenance: str
) -> tuple[list[tuple[dict[str, Tensor], AleatoricDecoder]], list[dict], SnapshotModule]:
    """Weights of all members with the module that they fit, rows of the history, and the last training."""
    train, k = config["train"], config["k"]
    single = config["kind"] == "snapshot"
    weights, history = [], []
    for training in range(1 if single else k):
        seed = train["seed"] + (0 if single else training + 1)
        steps, cycles = (train["steps"], k) if single else (train["steps"] // k, 1)
        module = build_training(atlas, features, config["model"], train | {"seed": seed, "steps": steps}, cycles)
        fit(module, checkpoint=out / f"ckpt/training_{training}.ckpt", provenance=f"{provenance} {training}",
            keep_checkpoint=True, precision="32-true", **{name: train[name] for name in FIT})  # fmt: skip
        weights += [(state, module.member) for state in module.snapshots]
        history += [{"training": training + 1, **row} for row in module.history]
    return weights, history, module


def build_training(
    atlas: Atlas, features: Features, model: Mapping[str, int], train: Mapping[str, Any], cycles: int
) -> SnapshotModule:
    """The module before training; weights depend on train.seed alone."""
    settings = {name: value for name, value in train.items() if name not in FIT}
    settings["betas"] = tuple(settings["betas"])
    mean, logvar = map_moments(features.maps)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(generator("weights", train["seed"]).initial_seed() % 2**31))
        return SnapshotModule(build_member(atlas, mean, logvar, model), features, cycles=cycles, **settings)


def map_moments(maps: NDArray) -> tuple[Tensor, Tensor]:
    """Mean and log-variance (V,) of maps (n, V)."""
    total, squares = np.zeros(maps.shape[1]), np.zeros(maps.shape[1])
    for k in range(0, len(maps), 1000):
        part = np.asarray(maps[k : k + 1000], np.float64)
        total, squares = total + part.sum(0), squares + (part**2).sum(0)
    mean = total / len(maps)
    variance = np.maximum(squares / len(maps) - mean**2, VARIANCE_FLOOR)
    return torch.from_numpy(mean).float(), torch.from_numpy(np.log(variance)).float()
