"""Presets of studies/growth: the exact keys of the Exp1 specification, recipes, and refusals."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from monai.data import PersistentDataset
from monai.transforms import Compose

from neuromf.config.growth_model import Preset, read_preset
from neuromf.data.multimodal_loaders import SubjectCache
from neuromf.data.multimodal_transforms import ImageSettings, train_transforms
from neuromf.growth.factory import build_module
from neuromf.growth.module import VAELitModule

STUDIES = Path(__file__).parents[2] / "studies/growth"
EXACT = {
    "data": {"root_dir": "<folder of subject directories>", "modalities": ["t1c", "t1n", "t2f", "t2w"],
             "roi_size": [128, 128, 128], "spacing": [1.0, 1.0, 1.0], "orientation": "RAS", "batch_size": 2,
             "num_workers": 4, "cache_rate": 1.0, "val_split": 0.1},
    "model": {"z_dim": 128, "input_channels": 4, "base_filters": 32, "norm": "GROUP"},
    "train": {"seed": 42, "max_epochs": 200, "lr": "1e-4", "kl_beta": 1.0, "kl_annealing_epochs": 40,
              "precision": "16-mixed"},
    "logging": {"save_dir": "experiments/runs", "recon_every_n_epochs": 5, "num_recon_samples": 2},
}  # fmt: skip
LITERAL = {
    "loss": {"reduction": "sum", "sigma": 0.5**0.5, "lambda_od": 10, "lambda_d": 5, "lambda_start_epoch": 20,
             "lambda_cov_annealing_epochs": 40, "compute_in_fp32": True, "use_ddp_gather": False, "dip": "II",
             "dip_estimator": "batch", "dip_gate": None},
    "train": {"kl_schedule": "linear", "kl_cycles": 4, "kl_cycle_ratio": 0.5, "kl_free_bits": 0,
              "kl_free_bits_mode": "batch_mean", "kl_capacity": None, "gradient_clip_val": None,
              "posterior_logvar_min": None, "steps_per_epoch": None, "weight_decay": 0.01},
    "model": {"variant": "baseline", "use_sbd": False, "upsample": "deconv", "encoder_pool": "flatten",
              "encoder_narrow": None, "spectral_norm": False, "gradient_checkpointing": False},
    "data": {"nonzero": False, "pad_value": 0, "train_margin": 0, "label_map": {}, "cache": "disk"},
    "logging": {"wandb": "off", "tensorboard": False},
}  # fmt: skip


def preset(name, *overrides):
    return read_preset(STUDIES / f"{name}.yaml", overrides)


def test_G74_the_file_holds_exactly_the_keys_of_the_specification():
    assert yaml.safe_load((STUDIES / "exp1_baseline_vae.yaml").read_text()) == EXACT


def test_G74_every_other_key_has_its_literal_default():
    found = preset("exp1_baseline_vae")
    assert isinstance(found["train"]["lr"], float) and found["train"]["lr"] == 1e-4
    for section, values in LITERAL.items():
        assert {key: found[section][key] for key in values} == values
    module = build_module(roi_size=(8, 8, 8), model=found["model"] | {"base_filters": 4}, n_train=2,
                          **{name: found[name] for name in ("loss", "train")})  # fmt: skip
    assert type(module) is VAELitModule and module.model.logvar_min is None and float(module.variance) == 0.5
    assert [module.schedules["beta"](epoch) for epoch in (0, 20, 40, 199)] == [0, 0.5, 1, 1]


def test_G74_the_optional_keys_are_accepted():
    options = ["data.persistent_cache_subdir=store", "model.encoder_depth=4", "model.decoder_depth=4",
               "train.accelerator=gpu", "train.devices=1"]  # fmt: skip
    found = preset("exp1_baseline_vae", *options)
    assert found["data"]["persistent_cache_subdir"] == "store" and found["model"]["decoder_depth"] == 4


REFUSED = [("train.epochs=3", "train.epochs: unknown key"), ("model.norm=BATCH", "model.norm"),
           ("train.lr=-1", "train.lr"), ("loss.reduction=max", "'sum', 'mean' or 'nll'")]  # fmt: skip


@pytest.mark.parametrize("wrong, named", REFUSED)
def test_G74_a_wrong_key_or_value_is_refused_with_its_name(wrong, named):
    with pytest.raises(SystemExit, match=named):
        preset("exp1_baseline_vae", wrong)


@pytest.mark.parametrize("name", sorted(path.stem for path in STUDIES.glob("*.yaml")))
def test_G48_every_preset_is_read_and_all_but_the_exact_one_clip(name):
    found = preset(name)
    Preset.model_validate({key: value for key, value in found.items() if key != "name"})
    stable = (found["train"]["gradient_clip_val"], found["train"]["posterior_logvar_min"])
    assert stable == ((None, None) if name == "exp1_baseline_vae" else (5.0, -6.0))


@pytest.mark.parametrize(
    "name, values",
    [
        ("exp1_guide", {"reduction": "mean", "kl_schedule": "cyclical", "kl_cycles": 4, "kl_annealing_epochs": 160,
                        "kl_free_bits": 0.1, "kl_free_bits_mode": "batch_mean"}),
        ("exp1_recommended", {"reduction": "nll", "kl_schedule": "linear", "nonzero": True, "pad_value": "background"}),
        ("exp2_dipvae_sbd", {"use_sbd": False, "lambda_od": 10.0, "lambda_d": 5.0, "lambda_start_epoch": 20,
                             "lambda_cov_annealing_epochs": 40, "kl_free_bits": 0.2, "variant": "dipvae_sbd",
                             "reduction": "mean", "kl_schedule": "cyclical", "kl_annealing_epochs": 160}),
        ("exp2_recipe2_sbd", {"use_sbd": True, "lambda_start_epoch": 20, "kl_free_bits": 0.2}),
        ("exp2_recipe3_free_bits", {"kl_free_bits": 0.3, "kl_free_bits_mode": "per_sample", "use_sbd": False}),
        ("exp2_recipe4_offdiag", {"lambda_od": 10.0, "lambda_d": 0.0}),
        ("exp2_recommended", {"reduction": "nll", "dip": "II", "dip_estimator": "bank", "dip_gate": "au"}),
    ],
)  # fmt: skip
def test_G48_presets_have_the_stated_values(name, values):
    found = preset(name)
    flat = {key: value for section in ("data", "model", "loss", "train") for key, value in found[section].items()}
    assert {key: flat[key] for key in values} == values


def test_G48_floors_of_the_recipes():
    floors = [preset(name)["train"]["kl_free_bits"] * 128 for name in ("exp2_dipvae_sbd", "exp2_recipe3_free_bits")]
    assert floors == pytest.approx([25.6, 38.4])


def test_G75_transforms_and_datasets_are_those_of_monai():
    settings = ImageSettings(["t1c", "t1n"], (8, 8, 8), (1.0, 1.0, 1.0))
    assert isinstance(train_transforms(settings), Compose) and issubclass(SubjectCache, PersistentDataset)


def test_G75_the_vae_needs_no_monai_and_weights_and_biases_is_not_imported():
    imports = "import sys, neuromf.growth.models, neuromf.vae.elbo, neuromf.vae.dip"
    code = f"{imports}; print(*({{'monai', 'wandb'}} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""
