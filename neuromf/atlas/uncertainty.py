"""Calibration report of an ensemble on validation and test studies, and ensembles side by side.

The prediction of a study is that of its own latent (posterior mean) and metadata: N(mean, epistemic + aleatoric) per
voxel, against its kernel map. Rows state how variances are scaled:

    none          as predicted
    temperature   s^2 by maximum likelihood on validation maps; warranted if the unscaled ECE is above .10
    coverage      s that minimises the regression ECE of validation maps

About four fifths of the voxels of a map are exactly 0. Standard deviations of a maximum-likelihood Gaussian are then
too wide for its central intervals although they are right in the mean square, and the temperature, which only
corrects the mean square, changes nothing. `coverage` makes intervals right at the price of the likelihood; both are
reported.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from neuromf.atlas.ensemble import Ensemble, diversity, load_ensemble, total_variance
from neuromf.atlas.guards import statement
from neuromf.atlas.kernel_maps import kernel_maps
from neuromf.atlas.rates import FWHM_MM, encoded, metadata_of
from neuromf.atlas.studies import Studies, read_studies
from neuromf.core.files import atomic_write, write_json
from neuromf.metrics import calibration
from neuromf.metrics.calibration import Predictions

RADIUS_MM = 12.0
AT_ONCE = 32
N_DIVERSITY = 50  # maps on which members are compared
Json = dict[str, Any]


def require_unseen(ids: Sequence[str], train_ids: Sequence[str]) -> None:
    """Raise ValueError if a study was trained on: errors on training voxels do not measure calibration."""
    if seen := sorted(set(map(str, ids)) & set(map(str, train_ids))):
        raise ValueError(f"calibration is refused on {len(seen)} training studies, such as {seen[0]}: use val or test")


def predictions(ensemble: Ensemble, studies: Studies, split: str) -> tuple[Predictions, dict[str, NDArray]]:
    """Predictions of studies of one split, and their mean, epistemic and aleatoric maps (n, V).

    Raises:
        ValueError: If the split is not val or test, or a study is among those that the ensemble was trained on.
    """
    require_unseen(studies.table["id"].tolist(), ensemble.card["train_ids"])
    target = kernel_maps(studies, ensemble.atlas.grid, FWHM_MM, dtype=np.float32)
    maps = predicted_maps(ensemble, studies, target)
    return Predictions(maps["mean"], maps["epistemic_unc"] + maps["aleatoric_unc"], target, split), maps


def predicted_maps(ensemble: Ensemble, studies: Studies, maps: NDArray) -> dict[str, NDArray]:
    """Mean, epistemic and aleatoric maps (n, V) of studies from their own latent."""
    m = metadata_of(ensemble.atlas, studies)
    mu, _ = encoded(ensemble.atlas, ensemble.atlas.grid, maps, m)
    parts = []
    for start in range(0, len(mu), AT_ONCE):
        rows = slice(start, start + AT_ONCE)
        parts.append(total_variance(*ensemble.moments(mu[rows], None if m is None else m[rows])))
    return {name: torch.cat([part[name] for part in parts]).numpy() for name in parts[0]}


def near_studies(studies: Studies, ensemble: Ensemble) -> NDArray[np.bool_]:
    """Voxels (n, V) within 12 mm of a focus of their study."""
    grid = ensemble.atlas.grid
    return np.stack([calibration.near_foci(studies.foci(k), grid, RADIUS_MM) for k in range(len(studies))])


def report_rows(validation: Predictions, test: Predictions, region: str) -> list[Json]:
    """Rows of both splits for each scaling, see above: errors, sharpness and likelihoods."""
    rows = calibration.calibration_rows(validation, test, region)
    s = calibration.fit_coverage_scale(validation)
    constant = {row["split"]: row["nll_constant"] for row in rows}
    scalings = [{"scaling": "none" if row["temperature"] == 1.0 else "temperature", **row} for row in rows]
    for one in (validation, test):
        scaled = one.scaled(s)
        scalings.append({"scaling": "coverage", "split": one.split, "region": region, "temperature": s,
                         "applied": rows[0]["applied"], "ece": calibration.regression_ece(scaled),
                         "ece_event": calibration.event_ece(scaled), "sharpness": calibration.sharpness(scaled),
                         "nll": calibration.negative_log_likelihood(scaled),
                         "nll_constant": constant[one.split]})  # fmt: skip
    return scalings


def evaluate_calibration(
    *, run: Path, checkpoint: Path, studies: Path, out: Path, n_studies: int | None = None, seed: int = 0
) -> Json:
    """Write and return the calibration report of an ensemble.

    Arguments:
        run: Run folder of the ensemble.
        checkpoint: Volume model that it decodes.
        studies: Folder of studies.
        out: JSON file.
        n_studies: Studies per split, at random; None for all.
    """
    ensemble, everything = load_ensemble(run, checkpoint), read_studies(studies)
    some = {name: chosen(everything, name, n_studies, seed) for name in ("val", "test")}
    found = {name: predictions(ensemble, part, name) for name, part in some.items()}
    whole = {name: one for name, (one, _) in found.items()}
    near = {name: replace(one, mask=near_studies(some[name], ensemble)) for name, one in whole.items()}
    rows = report_rows(whole["val"], whole["test"], "brain") + report_rows(near["val"], near["test"], "12 mm of foci")
    maps = found["test"][1]
    result = {
        "scale": everything.scale, "statement": statement(everything.scale), "manifest": ensemble.card["manifest"],
        "kind": ensemble.card["kind_of_ensemble"], "k": len(ensemble.members), "digests": ensemble.digests,
        "n": {name: len(part) for name, part in some.items()}, "seed": seed, "rows": rows,
        "levels": calibration.LEVELS.round(2).tolist(),
        "coverage": {f"{name}, {region}": calibration.coverage(one).tolist()
                     for region, part in (("brain", whole), ("12 mm of foci", near)) for name, one in part.items()},
        "coverage_scaled": _scaled_coverage(whole, rows),
        "zero_fraction": float((whole["test"].target == 0).mean()),
        "epistemic_fraction": float(maps["epistemic_unc"].sum() / whole["test"].variance.sum()),
        "mse": {name: float(((one.target - one.mean) ** 2).mean()) for name, one in whole.items()},
        "mse_mean_map": {name: mean_map_error(ensemble, one) for name, one in whole.items()},
        "diversity": compare_members(ensemble, some["test"]),
    }  # fmt: skip
    write_json(out, result)
    return result


def _scaled_coverage(whole: Mapping[str, Predictions], rows: Sequence[Json]) -> dict[str, list[float]]:
    """Coverage of test maps in the brain for each scaling."""
    chosen_rows = [row for row in rows if row["split"] == "test" and row["region"] == "brain"]
    return {
        row["scaling"]: calibration.coverage(whole["test"].scaled(row["temperature"])).tolist() for row in chosen_rows
    }


def chosen(studies: Studies, split: str, n: int | None, seed: int) -> Studies:
    """At most n studies of a split, at random."""
    rows = studies.rows(split)
    if n is not None and n < len(rows):
        rows = np.sort(np.random.default_rng([seed, 45]).permutation(rows)[:n])
    return studies.take(rows)


def mean_map_error(ensemble: Ensemble, one: Predictions) -> float:
    """Mean squared error of the mean map of the training studies."""
    return float(((one.target - ensemble.members[0].mean_map.numpy()) ** 2).mean())


def compare_members(ensemble: Ensemble, studies: Studies) -> float:
    """Diversity of the members' maps of the first studies."""
    some = studies.take(np.arange(min(N_DIVERSITY, len(studies))))
    m, maps = metadata_of(ensemble.atlas, some), kernel_maps(some, ensemble.atlas.grid, FWHM_MM, dtype=np.float32)
    mu, _ = encoded(ensemble.atlas, ensemble.atlas.grid, maps, m)
    return diversity(ensemble.moments(mu, m)[0])


def write_comparison(reports: Sequence[Path], out: Path) -> None:
    """Write a table of ensembles: kind, members, diversity, error, calibration errors and likelihood of test maps."""
    rows = []
    for path in reports:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        row = next(one for one in found["rows"]
                   if (one["split"], one["region"], one["scaling"]) == ("test", "brain", "none"))  # fmt: skip
        rows.append({"kind": found["kind"], "k": found["k"], "n": found["n"]["test"], "diversity": found["diversity"],
                     "epistemic_fraction": found["epistemic_fraction"], "mse": found["mse"]["test"],
                     "ece": row["ece"], "ece_event": row["ece_event"], "sharpness": row["sharpness"],
                     "nll": row["nll"], "scale": found["scale"], "manifest": found["manifest"]})  # fmt: skip
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(out) as part:
        pd.DataFrame(rows).to_csv(part, index=False, float_format="%.6g")
