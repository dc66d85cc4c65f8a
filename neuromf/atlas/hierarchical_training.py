"""Training of the hierarchical VAE and of the flat VAE that it is compared with, on principal components of maps.

loss = |x - x_hat|^2 + beta_2 KL(q(z2 | z1) || p(z2)) + beta_1 KL(q(z1 | x) || p(z1 | z2)). Both weights rise linearly
from 0, each within its own window; that of the top level starts first. The metadata of the decoder have no topics:
the hierarchy of topics is what the latents are to find.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neuromf.atlas.baselines import fit_pca
from neuromf.atlas.guards import kind
from neuromf.atlas.hierarchical_vae import HierarchicalVAE, objective, require_detached, save_hierarchical
from neuromf.atlas.metadata import Schema, encode
from neuromf.atlas.studies import Studies, read_studies
from neuromf.atlas.train import manifest
from neuromf.core.files import atomic_write, write_json
from neuromf.core.seeds import generator
from neuromf.training.checkpoints import delete_checkpoints
from neuromf.training.module import ResumableModule
from neuromf.training.run_record import run_record, write_rows
from neuromf.training.trainer import fit
from neuromf.vae.schedules import linear

FIT = ("checkpoint_every", "clip", "logger")  # keys of `train` for trainer.fit
FEATURES = "features.npz"


class HierarchicalModule(ResumableModule):
    """Training of one model on features (n, F) with metadata.

    Arguments:
        model: Hierarchical or flat VAE.
        x: Features of the training studies, (n, F).
        m, observed: Their metadata (n, d_m) and its mask.
        beta_1, beta_2: Final weights of both KL divergences.
        ramp_1, ramp_2: Start and end of their linear rise, in fractions of the training.
        keep_skip: Fraction of rows whose skip is used.
        drop_metadata: Fraction of rows that are trained without metadata.
        settings: As of `ResumableModule`.
    """

    PROGRESS = ("loss", "recon", "kl_z1", "kl_z2")

    def __init__(
        self, model: HierarchicalVAE, x: Tensor, m: Tensor, observed: Tensor, *, beta_1: float, beta_2: float,
        ramp_1: tuple[float, float], ramp_2: tuple[float, float], keep_skip: float = 0.5, drop_metadata: float = 0.3,
        **settings: Any,
    ) -> None:  # fmt: skip
        super().__init__(len(x), **settings)
        require_detached(model, x[:4])
        self.model, self.x, self.m, self.observed = model, x, m, observed
        self.keep_skip, self.drop_metadata = keep_skip, drop_metadata
        self.betas_kl = {"z1": linear(beta_1, ramp_1[1] - ramp_1[0], ramp_1[0]),
                         "z2": linear(beta_2, ramp_2[1] - ramp_2[0], ramp_2[0])}  # fmt: skip

    def training_step(self, _: object, __: int) -> Tensor:
        rows = self.local_rows(self.batch_indices())
        random, n = self.draw("noise"), len(rows)
        eps1, eps2 = (torch.randn(n, d, generator=random) for d in (self.model.z1_dim, self.model.z2_dim))
        used = torch.rand(n, 1, generator=random) < self.keep_skip
        known = self.observed[rows] & (torch.rand(n, 1, generator=random) >= self.drop_metadata)
        parts = (self.x[rows], self.m[rows], known, used, eps1, eps2)
        terms = objective(self.model, *(one.to(self.device) for one in parts))
        done = int(self.drawn) / self.steps
        beta = {name: schedule(done) for name, schedule in self.betas_kl.items()}
        loss = (terms["recon"] + beta["z1"] * terms["kl_z1"] + beta["z2"] * terms["kl_z2"]).mean()
        self.record(loss=loss, beta_z1=torch.tensor(beta["z1"]), beta_z2=torch.tensor(beta["z2"]),
                    **{name: value.mean() for name, value in terms.items()})  # fmt: skip
        return loss


def train_hierarchical(
    *, studies: Path, maps: Path, schema: Path, out: Path, features: int, model: Mapping[str, Any],
    loss: Mapping[str, Any], train: Mapping[str, Any], code: str = "",
) -> None:  # fmt: skip
    """Train both models into the folder `out`: hierarchical.pt, flat.pt, their histories, features.npz, card.json.

    The flat model has z1_dim + z2_dim latents, the beta of the lower level, and the same training otherwise.

    Arguments:
        studies: Folder of studies.
        maps: Maps of all studies (.npy).
        schema: JSON file of the metadata schema.
        out: Run folder.
        features: Principal components of the maps.
        model: Keyword arguments of `HierarchicalVAE`.
        loss: Weights, ramps and dropout of `HierarchicalModule`.
        train: Optimisation.
        code: Digest of the code; a checkpoint of other code is not resumed.
    """
    everything = read_studies(studies)
    fields = Schema.from_json(json.loads(schema.read_text(encoding="utf-8")))
    x = write_features(np.load(maps, mmap_mode="r"), everything, features, out / FEATURES)
    rows = everything.rows("train")
    m, observed = (torch.from_numpy(one[rows]) for one in decoder_metadata(everything, fields))
    config = {"features": features, "model": dict(model), "loss": dict(loss), "train": dict(train)}
    card = {"scale": everything.scale, "kind": kind(everything.scale), "manifest": manifest(studies), "code": code,
            "seed": train["seed"]}  # fmt: skip
    flat = dict(model) | {"z1_dim": model["z1_dim"] + model["z2_dim"], "z2_dim": 0}
    records = {}
    for name, settings in (("hierarchical", dict(model)), ("flat", flat)):
        module = build_module(torch.from_numpy(x[rows]), m, observed, settings, loss, train)
        checkpoint = out / f"ckpt/{name}.ckpt"
        provenance = json.dumps([config, card["manifest"], code, name], sort_keys=True)
        fit(module, checkpoint=checkpoint, provenance=provenance, keep_checkpoint=True, precision="32-true",
            **{key: train[key] for key in FIT})  # fmt: skip
        write_rows(module.history, out / f"{name}.csv")
        save_hierarchical(out / f"{name}.pt", module.model, settings, card)
        records[name] = run_record(module, config, {"n_train": len(rows)})
    write_json(out / "card.json", card | records["hierarchical"] | {"flat": records["flat"]["last"]})
    for name in records:
        delete_checkpoints(out / f"ckpt/{name}.ckpt")


def build_module(
    x: Tensor, m: Tensor, observed: Tensor, model: Mapping[str, Any], loss: Mapping[str, Any], train: Mapping[str, Any]
) -> HierarchicalModule:
    """The module before training; weights depend on train.seed alone."""
    settings = {name: value for name, value in train.items() if name not in FIT}
    settings["betas"] = tuple(settings["betas"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(generator("weights", train["seed"]).initial_seed() % 2**31))
        network = HierarchicalVAE(x.std(0).clamp(min=1e-3), m.shape[1], **model)
    return HierarchicalModule(network, x, m, observed, **loss, **settings)


def decoder_metadata(studies: Studies, schema: Schema) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Metadata (n, d_m) of the decoder and its mask: all fields but topics."""
    values, observed = encode(studies, schema)
    kept = np.ones(values.shape[1], bool)
    if any(field.kind == "topics" for field in schema.fields):
        kept[schema.position("topics")] = False
    return values[:, kept], observed[:, kept]


def write_features(maps: NDArray, studies: Studies, n: int, out: Path) -> NDArray[np.float32]:
    """Principal component scores (n_studies, F) of all maps, written with the components and squared residuals."""
    rows = studies.rows("train")
    pca = fit_pca(np.asarray(maps[rows], np.float32), min(n, len(rows) - 1))
    scores, outside = [], []
    for k in range(0, len(maps), 1000):
        centred = np.asarray(maps[k : k + 1000], np.float32) - pca.mean_
        part = centred @ pca.components_.T
        scores.append(part)
        outside.append((centred**2).sum(1) - (part**2).sum(1))
    values = np.concatenate(scores).astype(np.float32)
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(out) as path, open(path, "wb") as file:
        np.savez_compressed(file, scores=values, outside=np.concatenate(outside), mean=pca.mean_.astype(np.float32),
                            components=pca.components_.astype(np.float16))  # fmt: skip
    return values
