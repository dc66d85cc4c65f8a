"""Arms of the collapse study, the supervised arm, and figure F2."""

from pathlib import Path

import pandas as pd
import pytest
import torch
from growth.figure_helpers import check_figure
from growth.training_helpers import config, loaders, module_of

from neuromf.config.growth_model import Preset, read_preset
from neuromf.figures import growth_collapse
from neuromf.growth.collapse_study import ARMS, SUPERVISED, arm_config, evaluate_arm, merge_rows, run_arm

PRESET = Path(__file__).parents[2] / "studies/growth/collapse.yaml"


@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_changes_the_same_preset_in_loss_decoder_or_free_bits_alone(arm):
    preset = read_preset(PRESET)
    found = arm_config(preset, arm, seed=3)
    changed = {(section, key) for section in found for key, value in found[section].items()
               if value != preset[section].get(key)}  # fmt: skip
    assert changed <= {("train", "seed"), ("train", "kl_free_bits"), ("model", "variant"), ("model", "use_sbd"),
                       ("model", "upsample"), ("model", "partition"), *(("loss", key) for key in SUPERVISED),
                       *(("loss", key) for key in ("reduction", "dip", "lambda_start_epoch",
                                                   "lambda_cov_annealing_epochs"))}  # fmt: skip
    Preset.model_validate(found)
    if arm.startswith("dip"):
        assert (found["loss"]["lambda_start_epoch"], found["loss"]["dip"]) == (3.0, "I" * int(arm[-1]))


def test_an_unknown_arm_is_named():
    with pytest.raises(ValueError, match="among sum, mean, .*; got 'median'"):
        arm_config(read_preset(PRESET), "median", 0)


def test_the_supervised_arm_adds_the_weighted_squared_error_of_four_dimensions(tmp_path):
    torch.manual_seed(0)
    settings, data = config(model={"z_dim": 8}), loaders()
    changes = ARMS["supervised"]
    supervised = module_of(config(model={"z_dim": 8, **changes["model"]}, loss=changes["loss"]))
    supervised.use_data(data[0].dataset, data[1].dataset, settings["data"], tmp_path)
    supervised.weights = {name: at(0) for name, at in supervised.schedules.items()}
    batch = next(iter(data[1]))
    out = supervised.model.forward_full(batch["image"])
    terms, plain = supervised.objective(batch, out, 1.0), module_of(settings).objective(batch, out, 1.0)
    names = ["log_volume_mass", "centroid_x", "centroid_y", "centroid_z"]
    targets, _ = supervised.semantic_targets.of(batch["id"], names, out.mu)
    errors = (out.mu[:, :4] - targets).square().sum()
    torch.testing.assert_close(terms["loss"], plain["loss"] + 200 * errors)


def test_an_arm_is_trained_and_evaluated_into_one_row(tiny_cohort, tmp_path):
    changes = {"data": {"root_dir": str(tiny_cohort), "roi_size": [16] * 3, "spacing": [12.0] * 3, "batch_size": 4,
                        "val_split": 0.3}, "model": {"z_dim": 8, "base_filters": 4},
               "train": {"max_epochs": 1, "steps_per_epoch": 2}}  # fmt: skip
    row = run_arm(preset=read_preset(PRESET, changes), arm="supervised", seed=0, out=tmp_path / "supervised-0/row.csv")
    table = merge_rows([tmp_path / "supervised-0/row.csv"], tmp_path / "collapse.csv")
    assert table["arm"].tolist() == ["supervised"] and table["verdict"].tolist() == [row["verdict"]]
    assert row["mse_mean_image"] > 0 and row["mse_pca"] > 0 and "autoencoder" in row["baselines"]
    assert (
        evaluate_arm(tmp_path / "supervised-0", arm_config(read_preset(PRESET, changes), "sum", 0)).keys() < row.keys()
    )


def test_G71_figure_f2_is_drawn_from_the_table_alone(tmp_path):
    shared = {"au_frac": 0.5, "bypass_ratio": 0.3, "r2_log_volume": -4.0}
    verdicts = (("sum", "healthy"), ("mean", "collapsed"))
    rows = [{**shared, "arm": arm, "seed": seed, "kl_raw": 20.0 - seed, "verdict": state}
            for arm, state in verdicts for seed in (0, 1)]  # fmt: skip
    pd.DataFrame(rows).to_csv(tmp_path / "collapse.csv", index=False)
    growth_collapse.render(table=tmp_path / "collapse.csv", out=tmp_path / "fig_2", simulated="Simulated growth")
    check_figure(tmp_path / "fig_2", "Simulated growth")
