"""Collapse study: which loss and which decoder lose the latent, from the same network, data and number of steps.

Each arm is one training with changes of the same preset, then one row: active units, KL, reconstruction with and
without the latent, linear probes of the tumour on test patients, errors of the mean image and of PCA, and a verdict.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from neuromf.growth import train as training
from neuromf.growth.callbacks import diagnose, write_table
from neuromf.growth.latents import encode, load_module, split_loader
from neuromf.growth.probes import probe
from neuromf.metrics.images.linear_baselines import compare_with_baselines, linear_baselines
from neuromf.vae.collapse import verdict

DELAYED = {"lambda_start_epoch": 0.3, "lambda_cov_annealing_epochs": 0.3}  # fractions of the training
FREE = {"kl_free_bits": 0.2}
# 200 times the squared errors of ln V and of the three coordinates of the centroid from the first epoch, nothing else.
SUPERVISED = {"semantic": {"vol": (200.0, 0, 0), "loc": (600.0, 0, 0)}, "semantic_decay": (1.0, 0, 1),
              "dcor": (0, 0, 0), "lambda_cross": 0.0, "lambda_aux": 0.0, "lambda_od": 0.0, "lambda_d": 0.0,
              "beta_supervised": 1.0}  # fmt: skip
ARMS: dict[str, dict[str, dict[str, Any]]] = {
    "sum": {},
    "mean": {"loss": {"reduction": "mean"}},
    "free_bits": {"loss": {"reduction": "mean"}, "train": FREE},
    "dip1": {"model": {"variant": "dipvae_sbd"}, "loss": {"reduction": "mean", "dip": "I", **DELAYED}, "train": FREE},
    "dip2": {"model": {"variant": "dipvae_sbd"}, "loss": {"reduction": "mean", "dip": "II", **DELAYED}, "train": FREE},
    "broadcast": {"model": {"use_sbd": True}, "loss": {"reduction": "mean"}, "train": FREE},
    "standard": {"model": {"upsample": "resize_conv"}, "loss": {"reduction": "mean"}, "train": FREE},
    "supervised": {"model": {"variant": "semi", "partition": {"vol": 1, "loc": 3}}, "loss": SUPERVISED},
}


def arm_config(preset: Mapping[str, Any], arm: str, seed: int) -> dict[str, Any]:
    """Sections of a preset with the changes of an arm; delays are fractions of the training.

    Raises:
        ValueError: If the arm is not known.
    """
    if arm not in ARMS:
        raise ValueError(f"growth.collapse.arms must be among {', '.join(ARMS)}; got {arm!r}")
    config = {name: {**preset[name], **ARMS[arm].get(name, {})} for name in preset if name != "name"}
    for name in DELAYED:
        if name in ARMS[arm].get("loss", {}):
            config["loss"][name] = DELAYED[name] * config["train"]["max_epochs"]
    config["train"]["seed"] = seed
    return config


def run_arm(
    *, preset: dict[str, Any], arm: str, seed: int, out: Path, splits: Path | None = None, code: str = ""
) -> dict[str, Any]:
    """Train one arm with one seed and write its row to `out`; an interrupted training resumes.

    Arguments:
        preset: Sections of the preset that all arms share.
        arm: Name in `ARMS`.
        seed: Seed of weights, batches and noise.
        out: CSV of one row, in the run directory of the arm.
        splits: Folder of the index that all arms share.
        code: Digest of the code.
    """
    config = arm_config(preset, arm, seed)
    run = training.train(**config, name=f"collapse_{arm}", out=out.parent, splits=splits, code=code)
    row = {"arm": arm, "seed": seed, **evaluate_arm(run, config)}
    write_table(out, pd.DataFrame([row]))
    return row


def evaluate_arm(run: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Diagnostics on validation, probes on test patients, baselines and verdict of the last checkpoint of a run."""
    module, spacing = load_module(run, "last"), config["data"]["spacing"]
    values = diagnose(module, split_loader(run, "val"), spacing, seed=0)
    test = "test" if (run / "splits" / "test.csv").exists() else "val"
    known, unseen = (encode(module.model, split_loader(run, split), spacing) for split in ("train", test))
    volume, centroid = probe(known["mu"], known["targets"], unseen["mu"], unseen["targets"])
    baselines = linear_baselines(images(run, "train"), images(run, "val"), config["model"]["z_dim"])
    floor = config["train"]["kl_free_bits"] * config["model"]["z_dim"]
    return values | {
        "floor": floor,
        "r2_log_volume": volume,
        "r2_centroid": centroid,
        "mse_mean_image": baselines[0].mse,
        "mse_pca": baselines[1].mse,
        "baselines": compare_with_baselines(values["recon_mu_mse"], baselines),
        **verdict(values, config["model"]["z_dim"], floor).columns(),
        "epochs": config["train"]["max_epochs"],
    }


def images(run: Path, split: str) -> NDArray:
    """Images of a split as rows (N, F), float32."""
    return np.concatenate([batch["image"].flatten(1).numpy() for batch in split_loader(run, split)])


def merge_rows(tables: list[Path], out: Path) -> pd.DataFrame:
    """Table of all arms and seeds, in the order of `ARMS`."""
    rows = pd.concat([pd.read_csv(path, keep_default_na=True) for path in tables], ignore_index=True)
    order = {arm: k for k, arm in enumerate(ARMS)}
    rows = rows.sort_values(["arm", "seed"], key=lambda column: column.map(order) if column.name == "arm" else column)
    write_table(out, rows)
    return rows
