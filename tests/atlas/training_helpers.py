"""A run of the volume model on the mock studies, as small as it can be."""

from pathlib import Path

import numpy as np
import torch

from neuromf.atlas.metadata import fit_schema
from neuromf.atlas.studies import write_studies
from neuromf.atlas.train import build_module, train
from neuromf.config.atlas_model import read_atlas_preset
from neuromf.core.files import write_json
from neuromf.data.brain_grid import brain_grid
from neuromf.training.trainer import fit

ROOT = Path(__file__).resolve().parents[2]
SMALL = {"model": {"width": 4, "decoder_width": 4, "z_dim": 4, "condition_dim": 8}, "loss": {"density_steps": 0},
         "train": {"steps": 8, "batch": 8, "warmup": 0, "log_every": 2, "checkpoint_every": 4}}  # fmt: skip


def preset(name="cvae", **sections):
    """Keyword arguments of `train` of a small run."""
    changes = {key: SMALL.get(key, {}) | sections.get(key, {}) for key in ("model", "loss", "train")}
    return read_atlas_preset(ROOT / f"studies/atlas/{name}.yaml", changes)


def write_inputs(folder, studies):
    """Folder of studies and file of their schema."""
    write_studies(studies, folder / "studies")
    schema = fit_schema(studies.take(studies.rows("train")))
    write_json(folder / "schema.json", schema.to_json())
    return {"studies": folder / "studies", "schema": folder / "schema.json", "grid": "6mm"}


def run(folder, studies, name="cvae", **sections):
    """A trained atlas in folder/run."""
    return train(**write_inputs(folder, studies), out=folder / "run", **preset(name, **sections))


def module_of(studies, name="cvae", **sections):
    """Module before training."""
    some = studies.take(studies.rows("train"))
    config = preset(name, **sections)
    return build_module(some, brain_grid("6mm"), fit_schema(some) if config["loss"]["conditional"] else None, config)


def fitted(module, folder, **settings):
    """The module after training."""
    fit(module, checkpoint=folder / "ckpt/last.ckpt", **settings)
    return module


def decoded_map(atlas, seed=0):
    """Map of a random latent."""
    return atlas.decode(torch.randn(1, atlas.z_dim, generator=torch.Generator().manual_seed(seed)))[0].numpy()


def same(a, b):
    return all(np.array_equal(x.numpy(), b[name].numpy()) for name, x in a.items())
