"""Calibration of Gaussian predictive distributions of maps: expected calibration errors, temperature, sharpness, NLL.

Predictions and targets have shape (n_maps, n_voxels). Every evaluation states the split of its maps and refuses
training maps: errors of voxels that a model was trained on do not measure its calibration.

    regression ECE   mean over p = .05, .10, ..., .95 of |c(p) - p|, where c(p) is the fraction of targets inside the
                     central p interval of N(mean, variance)
    event ECE        event: target above a threshold; its predicted probability against its frequency, mean of
                     |difference| over 15 bins of equal size
    temperature      s with variance s^2 v that minimises the negative log-likelihood; in closed form
                     s^2 = mean of (target - mean)^2 / v
    coverage scale   s with variance s^2 v that minimises the regression ECE

References:
    On calibration of modern neural networks (Guo et al., 2017), arXiv:1706.04599
    Accurate uncertainties for deep learning using calibrated regression (Kuleshov et al., 2018), arXiv:1807.00263
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree
from scipy.stats import norm

from neuromf.data.brain_grid import BrainGrid

LEVELS = np.arange(0.05, 0.96, 0.05)
N_BINS = 15
THRESHOLD = 0.1  # of the event
APPLY_ABOVE = 0.10  # regression ECE above which the temperature is applied
FLOOR = 1e-12  # of variances
COVERAGE_SCALES = np.geomspace(0.05, 5, 201)  # of standard deviations


@dataclass(frozen=True)
class Predictions:
    """Predicted means and variances of maps, and their targets.

    Arguments:
        mean, variance, target: Shape (n_maps, n_voxels), or of one shape.
        split: val or test.
        mask: Voxels that count, bool of the same shape; None: all.

    Raises:
        ValueError: If the split is not val or test, shapes differ, a variance is negative, or nothing counts.
    """

    mean: NDArray
    variance: NDArray
    target: NDArray
    split: str
    mask: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        if self.split not in ("val", "test"):
            raise ValueError(f"calibration is evaluated on val or test; got {self.split!r}: use maps of other studies")
        shapes = {np.shape(one) for one in (self.mean, self.variance, self.target, self.mask) if one is not None}
        if len(shapes) != 1:
            raise ValueError(f"mean, variance, target and mask must have one shape; got {sorted(shapes)}")
        if (np.asarray(self.variance) < 0).any():
            raise ValueError("variances must be 0 or more; got negative ones")
        if self.mask is not None and not self.mask.any():
            raise ValueError("the mask excludes every voxel")

    def flat(self) -> tuple[NDArray, NDArray, NDArray]:
        """Mean, variance and target of the voxels that count, float64 vectors."""
        chosen = np.ones(np.shape(self.mean), bool) if self.mask is None else self.mask
        mean, variance, target = (np.asarray(one)[chosen].astype(np.float64) for one in
                                  (self.mean, self.variance, self.target))  # fmt: skip
        return mean, np.maximum(variance, FLOOR), target

    def scaled(self, temperature: float) -> "Predictions":
        """The predictions with variance temperature^2 v."""
        return replace(self, variance=temperature**2 * np.asarray(self.variance))


def coverage(predictions: Predictions) -> NDArray[np.float64]:
    """Fraction c(p) of targets inside the central p interval, for each of LEVELS."""
    mean, variance, target = predictions.flat()
    scores = np.sort(np.abs(target - mean) / np.sqrt(variance))
    return np.searchsorted(scores, norm.ppf((1 + LEVELS) / 2), side="right") / len(scores)


def regression_ece(predictions: Predictions) -> float:
    """Mean of |c(p) - p| over LEVELS, 0 if calibrated."""
    return float(np.abs(coverage(predictions) - LEVELS).mean())


def event_ece(predictions: Predictions, threshold: float = THRESHOLD, n_bins: int = N_BINS) -> float:
    """Expected calibration error of the event target > threshold."""
    mean, variance, target = predictions.flat()
    probability = norm.sf((threshold - mean) / np.sqrt(variance))
    return binned_ece(probability, target > threshold, n_bins)


def binned_ece(probability: ArrayLike, event: ArrayLike, n_bins: int = N_BINS) -> float:
    """Mean over bins of equal size, weighted by it, of |mean probability - frequency of the event|."""
    p, happened = np.asarray(probability, float).ravel(), np.asarray(event, float).ravel()
    order = np.argsort(p, kind="stable")
    bins = [rows for rows in np.array_split(order, n_bins) if len(rows)]
    return float(sum(abs(p[rows].mean() - happened[rows].mean()) * len(rows) for rows in bins) / len(p))


def negative_log_likelihood(predictions: Predictions) -> float:
    """Mean of -log N(target; mean, variance) over voxels, in nats."""
    mean, variance, target = predictions.flat()
    return float((0.5 * (np.log(2 * np.pi * variance) + (target - mean) ** 2 / variance)).mean())


def constant_variance(validation: Predictions) -> float:
    """The one variance that minimises the negative log-likelihood: mean squared error of validation maps."""
    _require_validation(validation)
    mean, _, target = validation.flat()
    return float(((target - mean) ** 2).mean())


def fit_temperature(validation: Predictions) -> float:
    """Temperature s that minimises the negative log-likelihood of validation maps."""
    _require_validation(validation)
    mean, variance, target = validation.flat()
    return float(np.sqrt(((target - mean) ** 2 / variance).mean()))


def chosen_temperature(validation: Predictions) -> float:
    """The fitted temperature if the regression ECE of validation maps is above APPLY_ABOVE, else 1."""
    return fit_temperature(validation) if regression_ece(validation) > APPLY_ABOVE else 1.0


def fit_coverage_scale(validation: Predictions) -> float:
    """Scale s of COVERAGE_SCALES that minimises the regression ECE of validation maps with variance s^2 v."""
    _require_validation(validation)
    mean, variance, target = validation.flat()
    scores, limits = np.sort(np.abs(target - mean) / np.sqrt(variance)), norm.ppf((1 + LEVELS) / 2)
    inside = np.searchsorted(scores, COVERAGE_SCALES[:, None] * limits, side="right") / len(scores)
    return float(COVERAGE_SCALES[np.abs(inside - LEVELS).mean(1).argmin()])


def _require_validation(predictions: Predictions) -> None:
    if predictions.split != "val":
        raise ValueError(f"temperature and variance are fitted to val; got {predictions.split!r}")


def sharpness(predictions: Predictions) -> float:
    """Mean predicted standard deviation; smaller is sharper, at equal calibration."""
    return float(np.sqrt(predictions.flat()[1]).mean())


def near_foci(points_mm: ArrayLike, grid: BrainGrid, radius_mm: float = 12.0) -> NDArray[np.bool_]:
    """Voxels (n_voxels,) whose centre is within a radius of one of the points (n, 3)."""
    distance, _ = cKDTree(np.asarray(points_mm, float)).query(grid.centres_mm, distance_upper_bound=radius_mm * 1.001)
    return distance <= radius_mm


def calibration_rows(validation: Predictions, test: Predictions, region: str = "brain") -> list[dict]:
    """Rows of validation and test with and without temperature: errors, sharpness and likelihoods.

    The temperature is fitted to validation maps; `applied` says whether its use is warranted (ECE above APPLY_ABOVE).
    `nll_constant` is the likelihood of the same means with one variance.

    Arguments:
        region: What the masks select, for the rows.
    """
    temperature, applied = fit_temperature(validation), chosen_temperature(validation) != 1.0
    one = constant_variance(validation)
    rows = []
    for predictions in (validation, test):
        flat = replace(predictions, variance=np.full(np.shape(predictions.mean), one))
        for s in (1.0, temperature):
            scaled = predictions.scaled(s)
            rows.append({"split": predictions.split, "region": region, "temperature": s, "applied": applied,
                         "ece": regression_ece(scaled), "ece_event": event_ece(scaled), "sharpness": sharpness(scaled),
                         "nll": negative_log_likelihood(scaled),
                         "nll_constant": negative_log_likelihood(flat)})  # fmt: skip
    return rows
