"""Forecast of the image of a patient's last visit: the latent is moved to its date and decoded.

The mask of the mass is decoded t1c above the threshold that fits decoded training scans best. It is compared with the
true mask by Dice and by volume, beside the last scan carried forward: its segmentation, and its decoded image.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from neuromf.core.files import write_json
from neuromf.growth.callbacks import write_table
from neuromf.growth.latents import load_module, read_config, read_latents, read_partition
from neuromf.growth.mass_mask import dice, fit_threshold, load_images, t1c_decoder
from neuromf.growth.partition import Partition
from neuromf.metrics.resampling import mean_interval

Scans = Mapping[str, Mapping[str, NDArray]]
N_BOOT = 2000


def forecast_images(*, folder: Path, latents: Path, out: Path, table: Path) -> dict[str, Any]:
    """Forecast the last visit of every test patient; writes Dice and volume errors as CSV and the verdict as JSON.

    Arguments:
        folder: Run directory of an experiment with named parts.
        latents: Its store of latents.
        out: JSON file.
        table: CSV.
    """
    config = read_config(folder)
    scans, partition = read_latents(latents, config["data"]["modalities"]), read_partition(latents)
    if partition is None:
        raise ValueError(f"{latents} has no named parts: forecasts need a run with model.variant semi")
    decode = t1c_decoder(load_module(folder), config)
    train, test = (load_images(folder, split, config) for split in ("train", "test"))
    threshold = fit_threshold(decode(np.stack([scans[name]["mu"] for name in train[2]])), train[1])
    visits, masks = last_visits(scans, "test"), dict(zip(test[2], test[1], strict=True))
    rows = compare_masks(visits, extrapolated(scans, visits, partition), scans, masks, decode, threshold)
    write_table(table, rows)
    found = verdict(rows) | {"n_patients": len(visits), "threshold": threshold}
    write_json(out, found)
    return found


def last_visits(scans: Scans, split: str) -> list[list[str]]:
    """Scan ids by date of every patient of a split with at least two dated scans; the last one is forecast."""
    by_patient: dict[str, list[str]] = {}
    for name, scan in scans.items():
        if scan["split"] == split and "t_months" in scan:
            by_patient.setdefault(str(scan["patient"]), []).append(name)
    ordered = [sorted(names, key=lambda name: float(scans[name]["t_months"])) for names in by_patient.values()]
    return [names for names in ordered if len(names) > 1]


def extrapolate(z: NDArray, t: NDArray, when: float, partition: Partition) -> NDArray:
    """State (d,) at time `when`: a line through the supervised parts of earlier visits, the residual of the last.

    With a single visit, that visit.
    """
    state = z[-1].copy()
    if len(t) > 1:
        for name in partition.supervised:
            slope, start = np.polyfit(t, z[:, partition[name]], 1)
            state[partition[name]] = start + slope * when
    return state


def extrapolated(scans: Scans, visits: Sequence[Sequence[str]], partition: Partition) -> NDArray:
    """States (N, d) at the last visit of every patient, from the earlier ones; see `extrapolate`."""
    rows = []
    for names in visits:
        past = [scans[name] for name in names[:-1]]
        z, t = np.stack([scan["mu"] for scan in past]), np.array([float(scan["t_months"]) for scan in past])
        rows.append(extrapolate(z, t, float(scans[names[-1]]["t_months"]), partition))
    return np.stack(rows)


def compare_masks(
    visits: Sequence[Sequence[str]],
    states: NDArray,
    scans: Scans,
    masks: Mapping[str, NDArray],
    decode: Callable[[NDArray], NDArray],
    threshold: float,
) -> pd.DataFrame:
    """Dice and volume error of the forecast and of the last scan carried forward, one row per patient and kind.

    Arguments:
        visits: Scan ids of every patient, the last one to be forecast.
        states: Forecast latents (N, d).
        scans: Groups of a store.
        masks: True masks of the mass by scan id, (I, J, K).
        decode: Function from latents (N, d) to t1c (N, I, J, K).
        threshold: Brightness of the mass in decoded t1c.

    Returns:
        Columns patient, kind ("forecast", "last image", "last mask"), dice, log_volume_error (of ln(voxels + 1)).
    """
    truth = np.stack([masks[names[-1]] for names in visits])
    last = np.stack([scans[names[-2]]["mu"] for names in visits])
    found = {
        "forecast": decode(states) > threshold,
        "last image": decode(last) > threshold,
        "last mask": np.stack([masks[names[-2]] for names in visits]),
    }
    patients = [str(scans[names[-1]]["patient"]) for names in visits]
    tables = [
        pd.DataFrame({"patient": patients, "kind": kind, "dice": dice(mask, truth),
                      "log_volume_error": _log_volume(mask) - _log_volume(truth)})
        for kind, mask in found.items()
    ]  # fmt: skip
    return pd.concat(tables, ignore_index=True)


def _log_volume(masks: NDArray) -> NDArray:
    return np.log1p(masks.reshape(len(masks), -1).sum(1))


def verdict(table: pd.DataFrame, *, seed: int = 0) -> dict[str, Any]:
    """Mean Dice and absolute volume error by kind, and whether the forecast exceeds the last mask carried forward."""
    means = table.assign(error=table["log_volume_error"].abs()).groupby("kind")[["dice", "error"]].mean()
    wide = table.pivot(index="patient", columns="kind", values="dice")
    gain = (wide["forecast"] - wide["last mask"]).to_numpy()
    low, high = mean_interval(gain, N_BOOT, seed)
    outcome = "exceeds" if low > 0 else "does not exceed"
    return {
        "dice": means["dice"].to_dict(),
        "log_volume_error": means["error"].to_dict(),
        "dice_gain": float(gain.mean()),
        "dice_gain_low": low,
        "dice_gain_high": high,
        "statement": f"the forecast image (Dice {means.loc['forecast', 'dice']:.2f}) {outcome} the last scan carried "
        f"forward (Dice {means.loc['last mask', 'dice']:.2f})",
    }
