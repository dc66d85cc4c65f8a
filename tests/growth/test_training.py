"""Modules, callbacks and run directory of a training on random images."""

import logging
import re
import subprocess
import sys
import types
from pathlib import Path

import pandas as pd
import pytest
import torch
from growth.training_helpers import NAMES, config, loaders, module_of, run

from neuromf.figures import growth_dashboard
from neuromf.growth import train as training
from neuromf.growth.module import VAELitModule

ROOT = Path(__file__).parents[2]
STEP = {
    "train/loss",
    "train/recon",
    "train/kl",
    "train/beta",
    "val/loss",
    "val/recon",
    "val/kl",
    "val/beta",
    "val/kl_raw",
}
EPOCH = {"train_epoch/loss", "train_epoch/recon", "train_epoch/kl_raw", "train_epoch/kl_constrained", "val_epoch/loss",
         "val_epoch/recon", "val_epoch/kl_raw", "sched/beta", "sched/expected_kl_floor", "opt/grad_norm",
         "opt/nonfinite_count", "opt/lr",
         *(f"val_epoch/{kind}_{name}" for kind in ("ssim", "psnr") for name in NAMES),
         *(f"diag/{name}" for name in ("au_count", "au_frac", "mu_var_mean", "logvar_mean", "z_std", "recon_mu_mse",
           "recon_z0_mse", "recon_delta_mu_vs_sampled", "bypass_ratio", "shift_sensitivity"))}  # fmt: skip
PENALTIES = {"train_epoch/cov_penalty", "train_epoch/cov_penalty_od", "train_epoch/cov_penalty_d", "sched/lambda_od",
             "sched/lambda_d"}  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A baseline training of 3 epochs."""
    folder = tmp_path_factory.mktemp("run")
    run(folder, train={"max_epochs": 3, "kl_free_bits": 0.25})
    return folder


def test_G36_the_baseline_logs_every_key(finished):
    columns = set(pd.read_csv(finished / "logs/metrics.csv")) | set(pd.read_csv(finished / "logs/epoch_metrics.csv"))
    assert columns >= STEP | EPOCH


def test_G36_the_dip_module_logs_its_penalties_too(tmp_path):
    loss = {"reduction": "mean", "lambda_start_epoch": 0, "lambda_cov_annealing_epochs": 1}
    run(tmp_path, model={"variant": "dipvae_sbd", "use_sbd": True}, loss=loss)
    table = pd.read_csv(tmp_path / "logs/epoch_metrics.csv")
    assert set(table) >= EPOCH | PENALTIES
    assert table["train_epoch/cov_penalty"].tolist()[0] == 0 < table["train_epoch/cov_penalty"].tolist()[1]
    assert table["sched/lambda_od"].tolist() == [0, 10]


def test_G22_and_G24_the_floor_and_beta_are_logged(finished):
    table = pd.read_csv(finished / "logs/epoch_metrics.csv")
    assert table["sched/expected_kl_floor"].tolist() == [1.0] * 3  # 0.25 nats x 4
    assert table["sched/beta"].tolist() == [0, 0.5, 1]
    assert (table["train_epoch/kl_constrained"] >= 1.0 - 1e-6).all()


def test_G44_one_row_per_epoch_with_the_gradient_norm(finished):
    table = pd.read_csv(finished / "logs/epoch_metrics.csv")
    assert table["epoch"].tolist() == [0, 1, 2] and table["step"].tolist() == [3, 6, 9]
    assert (table["opt/grad_norm"] > 0).all() and (table["opt/nonfinite_count"] == 0).all()


def test_sums_per_sample_of_the_epoch_are_batch_sums_over_batch_size(finished):
    table = pd.read_csv(finished / "logs/epoch_metrics.csv")
    ratio = table["val/recon"] / table["val_epoch/recon"]
    assert ratio.tolist() == pytest.approx([2.0] * 3, rel=1e-5)  # batches of 2


def test_G44_a_loss_that_is_not_finite_names_term_step_and_subjects(tmp_path):
    data = loaders()
    data[0].dataset[3]["image"][0, 2, 2, 2] = torch.nan
    with pytest.raises(FloatingPointError, match=r"recon is nan.* at step \d, epoch 0, subjects \[.*'s13'"):
        run(tmp_path, data=data)


def test_G39_and_G40_the_run_directory_has_its_files(finished):
    files = {path.relative_to(finished).as_posix() for path in finished.rglob("*") if path.is_file()}
    planes = {f"recon/epoch_{e}/s20_{plane}.png" for e in (0, 2) for plane in ("axial", "coronal", "sagittal")}
    assert files == planes | {"checkpoints/best.ckpt", "checkpoints/best_elbo.ckpt", "checkpoints/last.ckpt",
                              "logs/metrics.csv", "logs/epoch_metrics.csv", "diagnostics/au.csv",
                              "diagnostics/collapse.csv", "diagnostics/latent.csv"}  # fmt: skip


def test_G43_probes_and_shift_sensitivity_are_written(finished):
    table = pd.read_csv(finished / "diagnostics/latent.csv")
    assert table["epoch"].tolist() == [0, 1, 2]
    assert (table["shift_sensitivity"] > 0).all() and {"probe_log_volume", "probe_centroid"} <= set(table)


def test_G45_the_dashboard_is_made_from_the_table_alone(finished, tmp_path):
    table = tmp_path / "epochs.csv"
    table.write_bytes((finished / "logs/epoch_metrics.csv").read_bytes())
    growth_dashboard.render(metrics=table, out=tmp_path / "dashboard")
    assert {path.suffix for path in tmp_path.glob("dashboard.*")} == {".pdf", ".png", ".json"}


class Killed(Exception):
    pass


class Interrupted(VAELitModule):
    def on_train_epoch_start(self):
        super().on_train_epoch_start()
        if self.current_epoch == 2:
            raise Killed


def test_G38_a_resumed_training_equals_an_unbroken_one(tmp_path):
    loss = {"reduction": "nll", "sigma": "learned"}
    changes = {"train": {"max_epochs": 4}, "loss": loss}
    run(tmp_path / "whole", **changes)
    settings = config(**changes)
    killed = module_of(settings)
    killed.__class__ = Interrupted
    with pytest.raises(Killed):
        run(tmp_path / "broken", module=killed, **changes)
    run(tmp_path / "broken", **changes)
    for name in ("epoch_metrics", "metrics"):
        whole, broken = (pd.read_csv(tmp_path / kind / f"logs/{name}.csv") for kind in ("whole", "broken"))
        pd.testing.assert_frame_equal(broken[sorted(broken)], whole[sorted(whole)])
    states = [torch.load(tmp_path / kind / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
              for kind in ("whole", "broken")]  # fmt: skip
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_G38_a_checkpoint_of_other_settings_is_not_resumed(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    run(tmp_path)
    settings = config()
    run(tmp_path, module=module_of(settings, provenance="other"))
    assert "other settings, data or code" in caplog.text
    assert pd.read_csv(tmp_path / "logs/epoch_metrics.csv")["epoch"].tolist() == [0, 1]


class RisingKL(VAELitModule):
    """Reconstruction falls while KL rises: the annealed loss is lowest in epoch 0, the full loss in epoch 2."""

    def validation_step(self, batch, _):
        epoch = self.current_epoch
        recon, kl = 10.0 - 3 * epoch, 5.0 + epoch
        beta = [0.0, 1.0, 1.0, 1.0][epoch]
        self.log("val/loss", recon + beta * kl, batch_size=2)
        self.log("val/elbo_loss", recon + self.kl_beta * kl, batch_size=2)


def test_G83_best_elbo_is_ranked_at_the_final_beta(tmp_path):
    settings = config(train={"max_epochs": 3})
    module = module_of(settings)
    module.__class__ = RisingKL
    run(tmp_path, module=module, train={"max_epochs": 3})
    best, elbo = (
        torch.load(tmp_path / f"checkpoints/{name}.ckpt", weights_only=True)["epoch"] for name in ("best", "best_elbo")
    )
    assert (best, elbo) == (0, 2)


def test_G83_the_module_logs_the_loss_at_the_final_beta(finished):
    table = pd.read_csv(finished / "logs/epoch_metrics.csv")
    constrained = table["val_epoch/kl_constrained"]
    expected = table["val_epoch/recon"] + constrained
    assert table["val/elbo_loss"].tolist() == pytest.approx(expected.tolist(), rel=1e-5)


def test_G73_the_baseline_trains_without_the_modules_of_later_stages():
    code = """
import sys
later = {"growth": ("dip_module", "tc_module", "semi_module", "semantic_heads", "partition", "collapse_study"),
         "vae": ("dip", "total_correlation"), "metrics": ("dependence",)}
for name in ("torchdiffeq", *(f"neuromf.{package}.{one}" for package in later for one in later[package])):
    sys.modules[name] = None
sys.path.insert(0, "tests")
import tempfile
from pathlib import Path
from growth.training_helpers import run
run(Path(tempfile.mkdtemp()), train={"max_epochs": 1})
print("wandb" in sys.modules, "tensorboard" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_G76_the_library_has_no_print():
    for path in [*ROOT.glob("neuromf/growth/*.py"), *ROOT.glob("neuromf/vae/*.py"), *ROOT.glob("neuromf/nn/*.py")]:
        assert not re.search(r"^\s*print\(", path.read_text(), re.M), path


def test_G77_offline_weights_and_biases_stays_in_the_run_directory(tmp_path, monkeypatch):
    rows, settings = [], []
    fake = types.ModuleType("wandb")
    one = types.SimpleNamespace(log=lambda row, step: rows.append(step), finish=lambda: rows.append("finished"))
    fake.init = lambda **values: settings.append(values) or one
    monkeypatch.setitem(sys.modules, "wandb", fake)
    run(tmp_path, logging={"wandb": "offline"})
    assert settings == [{"project": "neuromf", "name": tmp_path.name, "dir": str(tmp_path), "mode": "offline"}]
    assert rows == [3, 6, "finished"]


def test_a_learned_sigma_is_a_moving_average_of_the_error(tmp_path):
    module = run(tmp_path, loss={"reduction": "nll", "sigma": "learned"}, train={"max_epochs": 1})
    table = pd.read_csv(tmp_path / "logs/epoch_metrics.csv")
    assert 0.1 < float(module.variance) < 10
    assert abs(table["train_epoch/recon"][0]) < 10


def test_G76_a_run_by_hand_has_a_time_stamp_and_a_log(tiny_cohort, tmp_path, monkeypatch):
    from workflow_scripts import growth_train

    preset = ROOT / "studies/growth/exp1_baseline_vae.yaml"
    changes = [f"data.root_dir={tiny_cohort}", f"logging.save_dir={tmp_path}", "data.roi_size=[16,16,16]",
               "data.spacing=[12,12,12]", "data.num_workers=0", "data.val_split=0.3", "model.z_dim=4",
               "model.base_filters=4", "train.max_epochs=1", "train.steps_per_epoch=2"]  # fmt: skip
    growth_train.main(["--config", str(preset), "--overrides", *changes])
    (folder,) = tmp_path.iterdir()
    assert re.fullmatch(r"\d{8}-\d{6}_exp1_baseline_vae", folder.name)
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {"config_resolved.yaml", "train.log", "provenance.json", "dashboard.pdf", "splits/train.csv",
            "splits/val.csv", "diagnostics/retention.csv", "checkpoints/best_elbo.ckpt"} <= names  # fmt: skip
    log = (folder / "train.log").read_text()
    assert "runs as bf16-mixed" in log and "epoch 0: " in log
    assert training.yaml.safe_load((folder / "config_resolved.yaml").read_text())["train"]["precision"] == "16-mixed"
    export_and_read(folder, tmp_path)


def export_and_read(folder, tmp_path):
    """G46: the store holds what the checkpoint encodes."""
    from neuromf.growth.latents import encode, export_latents, load_module, read_latents, split_loader

    export_latents(folder, tmp_path / "latents.npz")
    store = read_latents(tmp_path / "latents.npz", NAMES)
    again = encode(load_module(folder).model, split_loader(folder, "val"), [12.0] * 3)
    for k, name in enumerate(again["id"]):
        torch.testing.assert_close(torch.tensor(store[name]["mu"]), torch.tensor(again["mu"][k]), rtol=1e-4, atol=1e-5)
        assert str(store[name]["split"]) == "val"
    with pytest.raises(ValueError, match="modality order"):
        read_latents(tmp_path / "latents.npz", NAMES[::-1])
