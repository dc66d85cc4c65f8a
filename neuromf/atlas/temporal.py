"""Drift of the literature in a latent space: clouds of the years 1997 to 2018, and forecasts of the next year's cloud.

A cloud is summarised by its mean and log-variance per dimension. A forecaster reads the summaries of the years before a
target year and returns that of the target year; with the correlations of all earlier studies it is a Gaussian. The
score is the Frechet distance between the Gaussian and the real cloud, with its bias removed: the distance of finite
samples of one distribution is not 0 but, at the sizes of these clouds, larger than that of two successive years. Both
sets have n rows, half of the cloud; the floor is the distance of two halves of the same cloud.

    persistence   the last year
    linear        straight line through all earlier years
    smoothing     exponential smoothing, its rate chosen on the last earlier years
    gru           last year + shrinkage * correction of a GRU; shrinkage is chosen on the last earlier years

Years without studies are refused. The last years are forecast, each from earlier years alone.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn

from neuromf.core.seeds import generator
from neuromf.metrics.distances.frechet import frechet_distance
from neuromf.metrics.resampling import mean_interval

YEARS = tuple(range(1997, 2019))
N_VALIDATION = 3  # last earlier years on which rates and shrinkage are chosen
RATES = np.linspace(0.1, 1.0, 10)
PRIOR_ROWS = 10  # weight of the pooled variance in that of a small year
HIDDEN = 32


@dataclass(frozen=True)
class YearlyClouds:
    """Latents by year, in ascending order of the years."""

    years: tuple[int, ...]
    clouds: tuple[NDArray[np.float64], ...]  # (n_y, d) each

    def summaries(self) -> NDArray[np.float64]:
        """Mean and log-variance of each year, (n_years, 2 d); variances of small years are pulled to the pooled one."""
        pooled = np.concatenate([cloud - cloud.mean(0) for cloud in self.clouds]).var(0)
        return np.stack([summary(cloud, pooled) for cloud in self.clouds])


def summary(cloud: NDArray, pooled: NDArray) -> NDArray[np.float64]:
    """Mean and log-variance (2 d,) of a cloud (n, d), given the pooled variance (d,)."""
    n = len(cloud)
    variance = (n * cloud.var(0) + PRIOR_ROWS * pooled) / (n + PRIOR_ROWS)
    return np.concatenate([cloud.mean(0), np.log(np.maximum(variance, 1e-12))])


def yearly_clouds(z: ArrayLike, years: ArrayLike, wanted: Sequence[int] = YEARS) -> YearlyClouds:
    """Clouds of latents (n, d) by the year of each study (n,).

    Raises:
        ValueError: If a wanted year has fewer than two studies.
    """
    x, when = np.asarray(z, np.float64), np.asarray(years)
    ordered = tuple(sorted(int(year) for year in wanted))
    clouds = tuple(x[when == year] for year in ordered)
    if few := [year for year, cloud in zip(ordered, clouds, strict=True) if len(cloud) < 2]:
        raise ValueError(f"years {', '.join(map(str, few))} have fewer than two studies: leave them out, or take more")
    return YearlyClouds(ordered, clouds)


def persistence(history: NDArray, seed: int = 0) -> NDArray:
    """The last of the summaries (n_years, 2 d)."""
    return history[-1]


def linear(history: NDArray, seed: int = 0) -> NDArray:
    """Extrapolation of the least-squares line through all years."""
    time = np.arange(len(history)) - len(history)
    return np.polynomial.polynomial.polyfit(time, history, 1)[0]


def smoothing(history: NDArray, seed: int = 0) -> NDArray:
    """Exponential smoothing with the rate that forecast the last N_VALIDATION years best."""
    errors = [sum(np.sum((smooth(history[:k], rate) - history[k]) ** 2) for k in _validation(history))
              for rate in RATES]  # fmt: skip
    return smooth(history, RATES[int(np.argmin(errors))])


def smooth(history: NDArray, rate: float) -> NDArray:
    """Level after exponential smoothing of summaries (n_years, 2 d)."""
    level = history[0]
    for value in history[1:]:
        level = level + rate * (value - level)
    return level


def _validation(history: NDArray) -> range:
    return range(max(2, len(history) - N_VALIDATION), len(history))


class Forecaster(nn.Module):
    """Change to the next year from standardised summaries (B, T, d): a GRU, and a linear layer that starts at 0."""

    def __init__(self, dim: int, hidden: int = HIDDEN) -> None:
        super().__init__()
        self.recurrent, self.outlet = nn.GRU(dim, hidden, batch_first=True), nn.Linear(hidden, dim)
        nn.init.zeros_(self.outlet.weight)
        nn.init.zeros_(self.outlet.bias)

    def forward(self, sequence: torch.Tensor) -> torch.Tensor:
        return self.outlet(self.recurrent(sequence)[0])


def gru(history: NDArray, seed: int = 0) -> NDArray:
    """Forecast of a GRU, its correction of persistence shrunk by the factor that suits the last N_VALIDATION years.

    The factor minimises the squared error of forecasts of these years by a network trained on the years before them; it
    lies between 0 (persistence) and 1. The network of the forecast is trained on all years.
    """
    centre, scale = history.mean(0), history.std(0) + 1e-9
    x = torch.from_numpy((history - centre) / scale).float()
    first = _validation(history).start
    with torch.no_grad():
        changes = fit_forecaster(x[:first], seed)(x[None])[0].numpy()
        ahead = fit_forecaster(x, seed)(x[None])[0, -1].numpy()
    predicted, happened = changes[first - 1 : -1], (x[first:] - x[first - 1 : -1]).numpy()
    shrinkage = np.clip((predicted * happened).sum() / max((predicted**2).sum(), 1e-12), 0, 1)
    return history[-1] + shrinkage * ahead * scale


def fit_forecaster(x: torch.Tensor, seed: int = 0, steps: int = 80, noise: float = 0.1) -> Forecaster:
    """Network trained to predict the changes of a sequence (T, d), with noise on its inputs against overfitting."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(generator("forecaster", seed).initial_seed() % 2**31))
        model, random = Forecaster(x.shape[1]), generator("forecaster noise", seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.05)
    changes = x[1:] - x[:-1]
    with torch.enable_grad():
        for _ in range(steps):
            inputs = x[:-1] + noise * torch.randn(x[:-1].shape, generator=random)
            loss = (model(inputs[None])[0] - changes).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model


FORECASTERS: Mapping[str, Callable[..., NDArray]] = {
    "persistence": persistence, "linear": linear, "smoothing": smoothing, "gru": gru
}  # fmt: skip


def split_half_floor(cloud: NDArray, random: np.random.Generator) -> float:
    """Frechet distance of two random halves of a cloud (n, d): the value for equal distributions at n / 2 rows."""
    order, half = random.permutation(len(cloud)), len(cloud) // 2
    return frechet_distance(cloud[order[:half]], cloud[order[half : 2 * half]])


def unbiased_frechet(a: NDArray, b: NDArray, repeats: int = 10, seed: int = 0) -> float:
    """Frechet distance of two clouds at equal n, minus the mean split-half floor of both: about 0 for equal ones.

    n is half of the smaller cloud.

    Raises:
        ValueError: If a cloud has fewer than four rows.
    """
    n = min(len(a), len(b)) // 2
    if n < 2:
        raise ValueError(f"clouds must have four or more rows; got {len(a)} and {len(b)}")
    random, values = np.random.default_rng(seed), []
    for _ in range(repeats):
        x, y = a[random.permutation(len(a))[: 2 * n]], b[random.permutation(len(b))[: 2 * n]]
        floor = (split_half_floor(x, random) + split_half_floor(y, random)) / 2
        values.append(frechet_distance(x[:n], y[:n]) - floor)
    return float(np.mean(values))


def drift(clouds: YearlyClouds, repeats: int = 10, seed: int = 0) -> list[dict]:
    """Rows of the distance of each year to the one before: raw, the split-half floor, and without bias."""
    random, rows = np.random.default_rng(seed), []
    for k in range(1, len(clouds.years)):
        before, cloud = clouds.clouds[k - 1 : k + 1]
        row = {"year": clouds.years[k], "n": len(cloud), "raw": frechet_distance(before, cloud)}
        if min(len(before), len(cloud)) >= 4:
            row["floor"] = float(np.mean([split_half_floor(cloud, random) for _ in range(repeats)]))
            row["unbiased"] = unbiased_frechet(before, cloud, repeats, seed)
        rows.append(row)
    return rows


def pooled_correlation(clouds: Sequence[NDArray]) -> NDArray:
    """Correlation (d, d) of centred clouds."""
    return np.corrcoef(np.concatenate([cloud - cloud.mean(0) for cloud in clouds]), rowvar=False).reshape(
        clouds[0].shape[1], -1
    )


def forecast_scores(
    clouds: YearlyClouds,
    n_last: int = 5,
    repeats: int = 10,
    seed: int = 0,
    forecasters: Mapping[str, Callable[..., NDArray]] = FORECASTERS,
) -> list[dict]:
    """Unbiased Frechet distance of each forecaster for each of the last years, which only earlier years forecast.

    All forecasters of a year are scored against the same subsets of the cloud, with the same normal draws.
    """
    rows = []
    for k in range(len(clouds.years) - n_last, len(clouds.years)):
        earlier = YearlyClouds(clouds.years[:k], clouds.clouds[:k])
        history, correlation = earlier.summaries(), pooled_correlation(earlier.clouds)
        for name, forecaster in forecasters.items():
            score = gaussian_score(forecaster(history, seed=seed), correlation, clouds.clouds[k], repeats, seed)
            rows.append({"year": clouds.years[k], "forecaster": name, "n": len(clouds.clouds[k]), "score": score})
    return rows


def gaussian_score(predicted: NDArray, correlation: NDArray, cloud: NDArray, repeats: int = 10, seed: int = 0) -> float:
    """Unbiased Frechet distance between the Gaussian of a summary (2 d,) and correlation (d, d), and a cloud (n, d)."""
    mean, log_variance = np.split(predicted, 2)
    values, vectors = np.linalg.eigh(correlation)
    root = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T * np.exp(0.5 * log_variance)
    normal = np.random.default_rng([seed, 1]).standard_normal((len(cloud), len(mean)))
    return unbiased_frechet(mean + normal @ root, cloud, repeats, seed)


def verdicts(rows: Sequence[Mapping], reference: str = "persistence", n_boot: int = 2000, seed: int = 0) -> list[dict]:
    """Mean score of each forecaster, and its difference to the reference with a bootstrap interval over years.

    `verdict` is "better" or "worse" if the interval excludes 0, else "tie".
    """
    scores: dict[str, list[float]] = {}
    for row in rows:
        scores.setdefault(row["forecaster"], []).append(row["score"])
    found = []
    for name, values in scores.items():
        difference = np.array(values) - np.array(scores[reference])
        low, high = mean_interval(difference, n_boot, seed)
        verdict = "better" if high < 0 else "worse" if low > 0 else "tie"
        found.append({"forecaster": name, "score": float(np.mean(values)), "difference": float(difference.mean()),
                      "low": low, "high": high, "verdict": verdict})  # fmt: skip
    return found
