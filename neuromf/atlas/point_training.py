"""Training of the point model: Chamfer distance, Sinkhorn divergence and KL divergence; from studies to a run folder.

loss = Chamfer / s^2 + w_emd Sinkhorn / s + beta KL with s = 30 mm, mean over the batch. Only original foci count; the
selection of foci of studies with more than n_points is drawn anew on every access.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor

from neuromf.atlas.guards import kind
from neuromf.atlas.metadata import Schema, encode
from neuromf.atlas.point_sets import point_sets
from neuromf.atlas.point_vae import PointAtlas, PointVAE, bounding_box, fit_linear, load_points, save_points
from neuromf.atlas.studies import Studies, read_studies
from neuromf.core.files import sha256, write_json
from neuromf.core.seeds import generator
from neuromf.data.brain_grid import brain_grid
from neuromf.metrics.distances.point_sets import chamfer, sinkhorn
from neuromf.nn.ema import EMA
from neuromf.training.checkpoints import delete_checkpoints
from neuromf.training.module import ResumableModule
from neuromf.training.run_record import run_record, write_rows
from neuromf.training.trainer import fit
from neuromf.vae.elbo import kl_per_dimension, reparameterise
from neuromf.vae.schedules import linear

SCALE_MM = 30.0  # s
FIT = ("checkpoint_every", "clip", "logger")  # keys of `train` for trainer.fit


class PointModule(ResumableModule):
    """Training of a point VAE on studies.

    Arguments:
        model: Point VAE.
        studies: Training studies.
        schema: Schema of the metadata; None for an unconditional model.
        w_emd: Weight of the Sinkhorn divergence.
        beta: Weight of the KL divergence, reached after the fraction `beta_warmup` of the training.
        drop_metadata: Fraction of rows that are trained without metadata.
        betas: Decay rates of AdamW's moments.
        ema_sets: Half-life of the weight average in point sets.
        settings: As of `ResumableModule`.
    """

    PROGRESS = ("loss", "chamfer_mm", "emd_mm", "kl")

    def __init__(
        self,
        model: PointVAE,
        studies: Studies,
        schema: Schema | None,
        *,
        w_emd: float = 1.0,
        beta: float = 1e-3,
        beta_warmup: float = 0.3,
        drop_metadata: float = 0.1,
        betas: tuple[float, float] = (0.9, 0.995),
        ema_sets: float = 4000.0,
        **settings: Any,
    ) -> None:
        super().__init__(len(studies), **settings)
        self.model, self.studies = model, studies
        self.encoded = tuple(map(torch.from_numpy, encode(studies, schema))) if schema else None
        self.w_emd, self.drop_metadata, self.betas = w_emd, drop_metadata, betas
        self.beta = linear(beta, beta_warmup)
        self.ema = EMA(model, halflife_images=ema_sets)

    def training_step(self, _: object, __: int) -> Tensor:
        rows = self.local_rows(self.batch_indices())
        rows = torch.tensor(list(dict.fromkeys(rows.tolist())))  # a study that two epochs share in a batch counts once
        drawn = point_sets(self.studies.take(rows.numpy()), self.model.n_points, self.seed, int(self.drawn))
        points, mask = (torch.from_numpy(one).to(self.device) for one in drawn)
        terms = self.objective(points, mask, *self.metadata(rows))
        self.check_finite(terms, rows)
        self.record(**{name: value.mean() for name, value in terms.items()})
        return terms["loss"].mean()

    def metadata(self, rows: Tensor) -> tuple[Tensor, Tensor] | tuple[None, None]:
        """Metadata and mask of training studies, dropped for some rows."""
        if self.encoded is None:
            return None, None
        values, observed = (one[rows].to(self.device) for one in self.encoded)
        dropped = torch.rand(len(rows), generator=self.draw("dropped")) < self.drop_metadata
        return values, observed & ~dropped[:, None].to(self.device)

    def objective(self, points: Tensor, mask: Tensor, m: Tensor | None, observed: Tensor | None) -> dict[str, Tensor]:
        """Terms of the loss per study, (B,)."""
        mu, logvar = self.model.encode(points, mask, m, observed)
        z = reparameterise(mu, logvar, torch.randn(mu.shape, generator=self.draw("posterior")))
        decoded = self.model.decode(z, m, observed)
        near, emd = chamfer(points, decoded, mask), sinkhorn(points, decoded, mask)
        kl = kl_per_dimension(mu, logvar).sum(1)
        loss = near / SCALE_MM**2 + self.w_emd * emd / SCALE_MM + self.beta(int(self.drawn) / self.steps) * kl
        unsquared = chamfer(points, decoded.detach(), mask, squared=False)
        return {"loss": loss, "chamfer_mm2": near, "chamfer_mm": unsquared, "emd_mm": emd, "kl": kl}

    def check_finite(self, terms: dict[str, Tensor], rows: Tensor) -> None:
        """Raise FloatingPointError that names term, step and studies if a term is not finite."""
        for name, value in terms.items():
            if len(bad := rows[~value.isfinite().cpu()]):
                ids = self.studies.table["id"].iloc[bad.numpy()].tolist()
                raise FloatingPointError(f"{name} is not finite at step {self.global_step} for studies {ids}; the "
                                         "weights are unchanged: lower train.lr, or inspect these studies")  # fmt: skip

    def on_train_batch_end(self, *args: object) -> None:
        self.ema.update(self.model, self.batch, int(self.drawn) * self.batch)
        super().on_train_batch_end(*args)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        configured = super().configure_optimizers()
        for group in configured["optimizer"].param_groups:
            group["betas"] = self.betas
        return configured


def train_points(
    *,
    studies: Path,
    schema: Path,
    out: Path,
    model: Mapping[str, Any],
    loss: Mapping[str, Any],
    train: Mapping[str, Any],
    code: str = "",
) -> PointAtlas:
    """Train a point model into the folder `out`: checkpoint, history.csv, config.json and card.json.

    An interrupted training resumes from out/ckpt. The checkpoint holds the weight average (EMA).

    Arguments:
        studies: Folder of studies.
        schema: JSON file of the metadata schema.
        out: Run folder.
        model: Keyword arguments of `PointVAE`.
        loss: w_emd, beta, beta_warmup, drop_metadata, and whether the model is conditional.
        train: Optimisation and checkpoints.
        code: Digest of the code; a checkpoint of other code is not resumed.
    """
    config = {"model": dict(model), "loss": dict(loss), "train": dict(train)}
    everything = read_studies(studies)
    fields = Schema.from_json(json.loads(schema.read_text())) if loss["conditional"] else None
    manifest = " ".join(sha256(studies / name)[:16] for name in ("studies.tsv", "foci.npz", "topics.npz"))
    module = build_module(everything.take(everything.rows("train")), fields, config)
    checkpoint = out / "ckpt" / "last.ckpt"
    provenance = json.dumps([config, manifest, code], sort_keys=True)
    options = {name: train[name] for name in FIT}
    fit(module, checkpoint=checkpoint, provenance=provenance, keep_checkpoint=True, precision="32-true", **options)
    card = {"scale": everything.scale, "kind": kind(everything.scale), "manifest": manifest, "code": code,
            "seed": train["seed"]}  # fmt: skip
    write_rows(module.history, out / "history.csv")
    write_json(out / "config.json", config)
    save_points(out / "checkpoint", module.ema.net, model, fields, card)
    write_json(out / "card.json", card | run_record(module, config, {"n_train": module.n_items}))
    delete_checkpoints(checkpoint)
    return load_points(out)


def build_module(train_studies: Studies, schema: Schema | None, config: Mapping[str, Any]) -> PointModule:
    """The module before training; weights depend on train.seed alone."""
    settings = {name: value for name, value in config["train"].items() if name not in FIT}
    loss = {name: value for name, value in config["loss"].items() if name != "conditional"}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(generator("weights", settings["seed"]).initial_seed() % 2**31))
        model = PointVAE(schema.width if schema else 0, bounding_box(brain_grid("6mm")), **config["model"])
        fit_linear(model, *point_sets(train_studies, model.n_points, settings["seed"]), settings["seed"])
        return PointModule(model, train_studies, schema, **loss, **settings)
