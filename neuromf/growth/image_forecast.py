"""Forecast of the image of a patient's last visit: the latent is moved to its date and decoded.

Two forecasts: a line in time through the supervised parts of the latent, and the neural ODE. The mask of the mass is
decoded t1c above the threshold that fits decoded training scans best. It is compared with the true mask by Dice and by
volume, beside the last scan carried forward: its segmentation, and its decoded image.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from neuromf.core.files import atomic_write, write_json
from neuromf.growth.callbacks import write_table
from neuromf.growth.latents import load_module, read_config, read_latents, read_partition
from neuromf.growth.mass_mask import dice, fit_threshold, load_images, t1c_decoder
from neuromf.growth.partition import Partition
from neuromf.metrics.forecast import ALPHA, sign_flip_p
from neuromf.metrics.resampling import mean_interval

Scans = Mapping[str, Mapping[str, NDArray]]
N_BOOT = 2000
LINE, ODE = "line", "ODE"  # forecasts
LAST_IMAGE, LAST_MASK = "last image", "last mask"  # the last scan carried forward: decoded, and its segmentation


def forecast_images(
    *, folder: Path, latents: Path, states: Path, out: Path, table: Path, examples: Path
) -> dict[str, Any]:
    """Forecast the last visit of every test patient; writes Dice and volume errors, the verdict, and images.

    Arguments:
        folder: Run directory of an experiment with named parts.
        latents: Its store of latents.
        states: Latents that the neural ODE forecasts (`neuromf.growth.latent_study.write_forecast_latents`).
        out: JSON file of the verdict.
        table: CSV with one row per patient and kind.
        examples: npz of one slice per patient; see `slices`.
    """
    config = read_config(folder)
    scans, partition = read_latents(latents, config["data"]["modalities"]), read_partition(latents)
    if partition is None:
        raise ValueError(f"{latents} has no named parts: forecasts need a run with model.variant semi")
    decode = t1c_decoder(load_module(folder), config)
    train, test = (load_images(folder, split, config) for split in ("train", "test"))
    threshold = fit_threshold(decode(np.stack([scans[name]["mu"] for name in train[2]])), train[1])
    visits, masks = last_visits(scans, "test"), dict(zip(test[2], test[1], strict=True))
    z = {LINE: extrapolated(scans, visits, partition), ODE: ode_latents(states, scans, visits)}
    decoded = {kind: decode(one) for kind, one in z.items()}
    decoded[LAST_IMAGE] = decode(np.stack([scans[names[-2]]["mu"] for names in visits]))
    rows = compare_masks(visits, {kind: one > threshold for kind, one in decoded.items()}, scans, masks)
    write_table(table, rows)
    found = verdict(rows) | {"n_patients": len(visits), "threshold": threshold}
    write_json(out, found)
    with atomic_write(examples) as part, open(part, "wb") as file:
        images = dict(zip(test[2], test[0], strict=True))
        np.savez(file, threshold=threshold, **slices(visits, images, masks, decoded))  # type: ignore[arg-type]
    return found


def ode_latents(path: Path, scans: Scans, visits: Sequence[Sequence[str]]) -> NDArray:
    """Latents (N, d) at the last visit of every patient from a file of `write_forecast_latents`.

    Raises:
        ValueError: If a patient is missing.
    """
    with np.load(path) as found:
        by_patient = dict(zip(map(str, found["patient"]), found["z"], strict=True))
    patients = [str(scans[names[-1]]["patient"]) for names in visits]
    if missing := [name for name in patients if name not in by_patient]:
        raise ValueError(
            f"{path} has no forecast of patients {', '.join(missing)}: run the rule growth_latent_forecast"
        )
    return np.stack([by_patient[name] for name in patients])


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
    visits: Sequence[Sequence[str]], found: Mapping[str, NDArray], scans: Scans, masks: Mapping[str, NDArray]
) -> pd.DataFrame:
    """Dice and volume error of forecast masks and of the last segmentation, one row per patient and kind.

    Arguments:
        visits: Scan ids of every patient, the last one to be forecast.
        found: Masks (N, I, J, K) by kind of forecast.
        scans: Groups of a store.
        masks: True masks of the mass by scan id, (I, J, K).

    Returns:
        Columns patient, kind, dice, log_volume_error (of ln(voxels + 1)).
    """
    truth = np.stack([masks[names[-1]] for names in visits])
    kinds = {**found, LAST_MASK: np.stack([masks[names[-2]] for names in visits])}
    patients = [str(scans[names[-1]]["patient"]) for names in visits]
    tables = [
        pd.DataFrame({"patient": patients, "kind": kind, "dice": dice(mask, truth),
                      "log_volume_error": _log_volume(mask) - _log_volume(truth)})
        for kind, mask in kinds.items()
    ]  # fmt: skip
    return pd.concat(tables, ignore_index=True)


def _log_volume(masks: NDArray) -> NDArray:
    return np.log1p(masks.reshape(len(masks), -1).sum(1))


def verdict(table: pd.DataFrame, *, seed: int = 0) -> dict[str, Any]:
    """Mean Dice and absolute volume error by kind, and which of forecast and last scan wins.

    Every forecast is compared with the last segmentation and with the decoded last scan: mean difference of Dice, 95 %
    bootstrap interval over patients, and p of the paired sign-flip permutation test.
    """
    means = table.assign(error=table["log_volume_error"].abs()).groupby("kind")[["dice", "error"]].mean()
    wide = table.pivot(index="patient", columns="kind", values="dice")
    forecasts = [kind for kind in (LINE, ODE) if kind in wide]
    rows = [
        _compare(wide, kind, other, seed) for kind in forecasts for other in (LAST_MASK, LAST_IMAGE) if other in wide
    ]
    return {
        "dice": means["dice"].to_dict(),
        "log_volume_error": means["error"].to_dict(),
        "comparisons": rows,
        "statement": " ".join(_sentence(row, means["dice"]) for row in rows if row["reference"] == LAST_MASK),
    }


def _compare(wide: pd.DataFrame, kind: str, reference: str, seed: int) -> dict[str, Any]:
    """Difference of Dice of two kinds, with interval, p and outcome; `wide` has one column of Dice per kind."""
    gain = (wide[kind] - wide[reference]).to_numpy(float)
    low, high = mean_interval(gain, N_BOOT, seed)
    p = sign_flip_p(-gain, np.zeros_like(gain), seed=seed)
    clear = p < ALPHA and not low <= 0 <= high
    outcome = ("exceeds" if gain.mean() > 0 else "is worse than") if clear else "does not differ from"
    return {"kind": kind, "reference": reference, "gain": float(gain.mean()), "low": low, "high": high, "p": p,
            "outcome": outcome}  # fmt: skip


def _sentence(row: Mapping[str, Any], means: "pd.Series[float]") -> str:
    kind, reference = row["kind"], row["reference"]
    return (f"The forecast by the {kind} (Dice {means[kind]:.2f}) {row['outcome']} the last scan carried forward "
            f"(Dice {means[reference]:.2f}): difference {row['gain']:.2f} ({row['low']:.2f} to {row['high']:.2f}), "
            f"p = {row['p']:.4f}.")  # fmt: skip


def slices(
    visits: Sequence[Sequence[str]], images: Mapping[str, NDArray], masks: Mapping[str, NDArray],
    decoded: Mapping[str, NDArray],
) -> dict[str, NDArray]:  # fmt: skip
    """One axial slice per patient, where the true mass of the last visit is largest, by name.

    Arguments:
        images, masks: t1c and mask of the mass by scan id, (I, J, K).
        decoded: Decoded t1c (N, I, J, K) by kind.

    Returns:
        {kind}, last, truth (t1c, (N, I, J)), last_mask, truth_mask, and scan (ids of the last visit).
    """
    truth = [masks[names[-1]] for names in visits]
    level = [int(mask.sum((0, 1)).argmax()) for mask in truth]

    def cut(volumes: Sequence[NDArray] | NDArray) -> NDArray:
        return np.stack([volume[:, :, k] for volume, k in zip(volumes, level, strict=True)])

    found = {kind.replace(" ", "_"): cut(volumes) for kind, volumes in decoded.items()}
    found |= {"truth": cut([images[names[-1]] for names in visits]), "truth_mask": cut(truth)}
    found |= {"last": cut([images[names[-2]] for names in visits])}
    found |= {"last_mask": cut([masks[names[-2]] for names in visits])}
    return found | {"scan": np.array([names[-1] for names in visits])}
