"""The store of latents of a finished run."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from neuromf.core.files import sha256
from neuromf.data.multimodal import MODALITIES
from neuromf.growth.latents import encode, load_module, read_latents, split_loader
from workflow_scripts import growth_latents, growth_train

PRESET = Path(__file__).parents[2] / "studies/growth/exp1_baseline_vae.yaml"


@pytest.fixture(scope="module")
def run(tiny_cohort, tmp_path_factory):
    """A training of two steps on the simulated cohort, and its store."""
    folder = tmp_path_factory.mktemp("run")
    changes = {
        "data": {"root_dir": str(tiny_cohort), "roi_size": [16] * 3, "spacing": [12.0] * 3, "num_workers": 0,
                 "val_split": 0.3},
        "model": {"z_dim": 4, "base_filters": 4},
        "train": {"max_epochs": 1, "steps_per_epoch": 2, "precision": "32"},
    }  # fmt: skip
    growth_train.main(["--config", str(PRESET), "--overrides", json.dumps(changes), "--out", str(folder)])
    table = str(tiny_cohort / "trajectories.tsv")
    growth_latents.main(["--folder", str(folder), "--trajectories", table, "--out", str(folder / "latents.npz")])
    return folder


def test_G46_stored_latents_are_those_of_encoding_again(run):
    store = read_latents(run / "latents.npz", MODALITIES)
    for split in ("train", "val"):
        again = encode(load_module(run).model, split_loader(run, split), [12.0] * 3)
        assert again["id"] == pd.read_csv(run / f"splits/{split}.csv")["id"].tolist()
        for k, name in enumerate(again["id"]):
            assert store[name]["mu"].shape == (4,) and str(store[name]["split"]) == split
            np.testing.assert_allclose(store[name]["mu"], again["mu"][k], rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(store[name]["logvar"], again["logvar"][k], rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(store[name]["targets"], again["targets"][k], rtol=1e-5)
    assert len({tuple(group["mu"].tolist()) for group in store.values()}) == len(store)


def test_G46_the_store_has_patients_dates_and_provenance(run, tiny_cohort):
    store = read_latents(run / "latents.npz", MODALITIES)
    table = pd.read_csv(tiny_cohort / "trajectories.tsv", sep="\t").set_index("scan_id")
    assert set(store) == set(table.index)
    for name, group in store.items():
        assert str(group["patient"]) == table.loc[name, "patient_id"]
        assert float(group["t_months"]) == pytest.approx(table.loc[name, "t_months"])
    with np.load(run / "latents.npz", allow_pickle=False) as arrays:
        about = json.loads(str(arrays["provenance"]))
    assert about["checkpoint"] == sha256(run / "checkpoints/best_elbo.ckpt") and len(about["config"]) == 64


def test_G09_a_store_of_another_modality_order_is_refused(run):
    with pytest.raises(ValueError, match="channels would be swapped"):
        read_latents(run / "latents.npz", ["t2f", "t1c", "t1n", "t2w"])


def test_G08_the_loss_does_not_depend_on_the_segmentation(run):
    module, batch = load_module(run), next(iter(split_loader(run, "val")))
    with torch.no_grad():
        out = module.model.forward_full(batch["image"], torch.zeros(len(batch["image"]), 4))
        with_seg = module.objective(batch, out, 1.0)
        without = module.objective({key: value for key, value in batch.items() if key != "seg"}, out, 1.0)
    assert with_seg["loss"] == without["loss"] > 0
