"""Training of the volume model: from studies to a run folder with checkpoint, history, config and card."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor

from neuromf.atlas.adversary import targets_of
from neuromf.atlas.data_module import MapDataModule
from neuromf.atlas.guards import kind
from neuromf.atlas.imputation import ImputationHead
from neuromf.atlas.inference import Atlas, build_model, load_atlas, save_atlas
from neuromf.atlas.kernel_maps import FWHM_OVER_SIGMA, Combine, foci_counts, kernel_maps
from neuromf.atlas.metadata import Schema, encode
from neuromf.atlas.module import AtlasModule
from neuromf.atlas.studies import Studies, read_studies
from neuromf.atlas.volume_vae import VolumeVAE
from neuromf.core.files import sha256, write_json
from neuromf.core.seeds import generator
from neuromf.data.brain_grid import BrainGrid, brain_grid
from neuromf.training.checkpoints import delete_checkpoints
from neuromf.training.run_record import run_record, write_rows
from neuromf.training.trainer import fit

FIT = ("checkpoint_every", "precision", "clip", "logger")  # keys of `train` for trainer.fit
LOSS = (
    "beta",
    "beta_warmup",
    "kl_mode",
    "kl_target",
    "imputation_weight",
    "prior",
    "drop_metadata",
)  # keys of `loss` for AtlasModule
YEAR_BINS = 10
TOPIC_FWHM_MM = 9.0  # of the densities that the Poisson decoder starts at
DENSITY_FLOOR = 1e-7  # added before normalisation
N_MEAN = 1000  # training studies of the mean map
DENSITY_LR, DENSITY_DECAY, DENSITY_DROPOUT = 2e-3, 0.05, 0.3  # of the fit of the density given metadata
RIDGE = 1.0  # penalty of the regression of log n_foci on m


def train(
    *,
    studies: Path,
    schema: Path,
    out: Path,
    grid: str,
    kernels: list[float],
    combine: Combine,
    model: Mapping[str, Any],
    loss: Mapping[str, Any],
    train: Mapping[str, Any],
    code: str = "",
) -> Atlas:
    """Train a volume model into the folder `out`: checkpoint, history.csv, config.json and card.json.

    An interrupted training resumes from out/ckpt. The checkpoint holds the weight average (EMA).

    Arguments:
        studies: Folder of studies, see `read_studies`.
        schema: JSON file of the metadata schema.
        out: Run folder.
        grid: "6mm" or "2mm".
        kernels, combine: See `MapDataModule`.
        model: Keyword arguments of `VolumeVAE`.
        loss: Section `loss` of a preset.
        train: Section `train` of a preset: optimisation, precision, checkpoints.
        code: Digest of the code; a checkpoint of other code is not resumed.
    """
    config = {"grid": grid, "kernels": kernels, "combine": combine, "model": dict(model), "loss": dict(loss),
              "train": dict(train)}  # fmt: skip
    everything, space = read_studies(studies), brain_grid(grid)
    fields = Schema.from_json(json.loads(schema.read_text())) if loss["conditional"] else None
    checkpoint, digest = out / "ckpt" / "last.ckpt", manifest(studies)
    module = build_module(everything.take(everything.rows("train")), space, fields, config)
    fit(module, checkpoint=checkpoint, provenance=json.dumps([config, digest, code], sort_keys=True),
        keep_checkpoint=True, **{name: train[name] for name in FIT})  # fmt: skip
    card = {"scale": everything.scale, "kind": kind(everything.scale), "grid": grid, "manifest": digest, "code": code,
            "seed": train["seed"], "field_mm": module.model.encoder.field_mm}  # fmt: skip
    write_rows(module.history, out / "history.csv")
    write_json(out / "config.json", config)
    save_atlas(out / "checkpoint", module.ema.net, grid=grid, settings=model, schema=fields, card=card,
               imputation=module.imputation)  # fmt: skip
    write_json(out / "card.json", card | run_record(module, config, {"n_train": len(module.data)}))
    delete_checkpoints(checkpoint)
    return load_atlas(out)


def manifest(studies: Path) -> str:
    """Digest of the files of studies: what a run was trained on."""
    return " ".join(sha256(studies / name)[:16] for name in ("studies.tsv", "foci.npz", "topics.npz"))


def build_module(
    train_studies: Studies, grid: BrainGrid, schema: Schema | None, config: Mapping[str, Any]
) -> AtlasModule:
    """The module before training; weights depend on train.seed alone."""
    loss, settings = config["loss"], {k: v for k, v in config["train"].items() if k not in FIT}
    settings["betas"] = tuple(settings["betas"])
    n = len(train_studies)
    values, observed = (
        encode(train_studies, schema) if schema else (np.zeros((n, 0), np.float32), np.zeros((n, 0), bool))
    )
    data = MapDataModule(train_studies, grid, values, observed, kernels=config["kernels"], combine=config["combine"],
                         completion=loss["completion"])  # fmt: skip
    poisson = config["model"]["recon"] == "poisson"
    densities = fit_densities(train_studies, grid, values, observed) if poisson else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(generator("weights", config["train"]["seed"]).initial_seed() % 2**31))
        model = build_model(grid, config["model"], schema, mean_map(train_studies, grid, config), densities)
        if poisson and loss["density_steps"]:
            fit_residual(model, data, loss["density_steps"], config["train"]["seed"])
        head = ImputationHead(schema) if schema and loss["imputation_weight"] else None
        fields, edges = loss["adversary"]["fields"], ()
        if "year_bins" in fields and schema:
            year = values[:, schema.position("year").start]
            edges = tuple(np.unique(np.quantile(year, np.linspace(0, 1, YEAR_BINS + 1)[1:-1])).tolist())
        targets = targets_of(schema, fields, edges) if schema else []
        return AtlasModule(model, data, imputation=head, adversary_targets=targets,
                           adversary_strength=loss["adversary"]["strength"],
                           **{name: loss[name] for name in LOSS}, **settings)  # fmt: skip


def fit_residual(model: VolumeVAE, data: MapDataModule, steps: int, seed: int, batch: int = 64) -> None:
    """Fit the density given metadata alone, in place: maximum likelihood of the foci, with dropout of the condition.

    The decoder then starts above the mixture of topics: what it adds is what the metadata do not tell.
    """
    assert model.classical is not None and model.embed is not None and model.residual is not None
    trained = [*model.embed.parameters(), *model.residual.parameters()]
    optimizer = torch.optim.AdamW(trained, lr=DENSITY_LR, betas=(0.9, 0.995), weight_decay=DENSITY_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        rows = torch.randperm(len(data), generator=generator("density", seed, step))[:batch].numpy()
        counts = torch.from_numpy(foci_counts(data.studies.take(rows), data.grid).toarray())
        m, observed = data.values[rows], data.observed[rows]
        known = model.condition(m, observed)
        assert known is not None
        condition = torch.nn.functional.dropout(known, DENSITY_DROPOUT)
        start = (model.classical.conditional(m, observed) + DENSITY_FLOOR).log()
        log_rate = (start + model.residual(condition, model.voxels)).log_softmax(1)
        loss = -(counts * log_rate).sum() / counts.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def mean_map(studies: Studies, grid: BrainGrid, config: Mapping[str, Any]) -> Tensor:
    """Mean kernel map (V,) of the first training studies, over all kernels."""
    some = studies.take(np.arange(min(N_MEAN, len(studies))))
    maps = [kernel_maps(some, grid, fwhm, combine=config["combine"]).mean(0, dtype=np.float64)
            for fwhm in config["kernels"]]  # fmt: skip
    return torch.from_numpy(np.mean(maps, axis=0).astype(np.float32))


def fit_densities(studies: Studies, grid: BrainGrid, values: NDArray, observed: NDArray) -> dict[str, Tensor]:
    """Densities of foci that the Poisson decoder starts at, and a regression of log n_foci on m.

    Returns:
        global (V,): KDE of all foci. topics (n_topics, V): KDE of foci weighted by the squared topic weight of their
        study. count_weights (d_m,), count_bias (): ridge regression.
    """
    counts = foci_counts(studies, grid)
    weighted = (counts.T @ studies.topics.astype(np.float64) ** 2).T
    total = np.asarray(counts.sum(0), np.float64)
    densities = smooth_density(np.concatenate([total, weighted]), grid, TOPIC_FWHM_MM)
    design = np.concatenate([values * observed, np.ones((len(values), 1))], axis=1).astype(np.float64)
    target = np.log(np.maximum(np.asarray(counts.sum(1)).ravel(), 1))
    penalty = RIDGE * np.eye(design.shape[1])
    penalty[-1, -1] = 0  # of the intercept
    fitted = np.linalg.solve(design.T @ design + penalty, design.T @ target)
    arrays = {"global": densities[0], "topics": densities[1:], "count_weights": fitted[:-1], "count_bias": fitted[-1]}
    return {name: torch.tensor(array, dtype=torch.float32) for name, array in arrays.items()}


def smooth_density(counts: NDArray, grid: BrainGrid, fwhm_mm: float) -> NDArray[np.float64]:
    """Densities (n, V) that sum to 1 from weighted counts per voxel (n, V), smoothed by a Gaussian kernel."""
    sigma = fwhm_mm / FWHM_OVER_SIGMA / grid.spacing_mm
    smoothed = [grid.vector(gaussian_filter(grid.volume(row), sigma, mode="constant", truncate=5)) for row in counts]
    density = np.stack(smoothed)
    density = density / np.maximum(density.sum(1, keepdims=True), 1e-12) + DENSITY_FLOOR
    return density / density.sum(1, keepdims=True)
