r"""Error of the posterior mean E[x | z_t], the first judge of a prior and of a network.

For data x and noise eps, z_t = (1 - t) x + t eps is an observation with signal-to-noise ratio
gamma = ((1 - t) / t)^2. A model Q that predicts x from z_t with a mean squared error mse_Q(gamma) has a relative
entropy to the data P of

.. math:: D = \frac{1}{2} \int (\mathrm{mse}_Q(\gamma) - \mathrm{mse}_P(\gamma)) \, d\gamma

nats per element, where mse_P is the error of the best predictor (Verdú, 2010). So the model with the smallest integral
has the highest likelihood.

References:
    Mismatched Estimation and Relative Entropy (Verdú, 2010), IEEE Trans. Inf. Theory 56, 3712
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from neuromf.core.seeds import noise
from neuromf.data.participants import read_table
from neuromf.meanflow import flow
from neuromf.meanflow.run import load_run
from neuromf.metrics.resampling import percentile_interval
from neuromf.vae.shards import load_split
from neuromf.vae.statistics import normalise

TIMES = (0.15, 0.3, 0.5, 0.7, 0.9)
COLUMNS = ["t", "n", "network", "prior", "ratio", "low", "high"]
Predict = Callable[[Tensor, Tensor], Tensor]  # E[x | z_t] (B, ...) of z (B, ...) and t (B,)


@torch.no_grad()
def posterior_error(predict: Predict, x: Tensor, *, seed: int, batch: int = 16) -> dict[float, Tensor]:
    """Mean squared error per element of predicted data, shape (N,), by t in `TIMES`.

    Arguments:
        predict: Posterior mean of a model.
        x: Data, shape (N, C, I, J, K).
        seed: Seed of the noise; latent k always gets the same noise.
        batch: Latents per evaluation.
    """
    errors: dict[float, list[Tensor]] = {time: [] for time in TIMES}
    for numbers in torch.arange(len(x)).split(batch):
        clean = x[numbers]
        eps = noise(seed, numbers.tolist(), clean.shape[1:]).to(clean)
        for time in TIMES:
            t = clean.new_full((len(clean),), time)
            predicted = predict(flow.interpolate(clean, eps, t)[0], t)
            errors[time].append((predicted - clean).square().flatten(1).mean(1))
    return {time: torch.cat(parts) for time, parts in errors.items()}


def nats_per_element(errors: Mapping[float, Tensor]) -> float:
    """Half the integral of the mean error over the signal-to-noise ratios of `errors`, by the trapezoidal rule.

    Differences between models are differences of their negative log likelihood in this range of ratios.
    """
    times = sorted(errors, reverse=True)
    log_ratio = np.array([2 * np.log((1 - time) / time) for time in times])
    means = np.array([float(errors[time].double().mean()) for time in times])
    return float(0.5 * np.trapezoid(means * np.exp(log_ratio), log_ratio))


def evaluate_posterior(*, model: Path, latents: Sequence[Path], qc: Path, out: Path, n_boot: int, seed: int) -> None:
    """Write the posterior error of test participants at each t: of the network, of its prior, and their ratio.

    Columns: t, n (participants), network, prior, ratio, and low and high, the ends of the 95 % bootstrap interval of
    the ratio over participants (paired: both errors of a participant are drawn together). Without a prior, prior and
    ratio are empty.

    Arguments:
        model: File of `meanflow.run.save_run`.
        latents: Latent shards of all scans.
        qc: Table of the volumes with their splits.
        out: Table to write (csv).
        n_boot: Bootstrap resamples.
        seed: Seed of noise and resamples.
    """
    run = load_run(model)
    x = normalise(load_split(latents, read_table(qc).set_index("scan")["split"], "test")["mean"], run.stats)
    network = posterior_error(lambda z, t: flow.data_from_velocity(run.u(z, t, t), z, t), x, seed=seed)
    prior = run.u.prior
    baseline = posterior_error(lambda z, t: prior(z, t, t), x, seed=seed) if prior else dict.fromkeys(TIMES)
    rows = [compare_errors(network[time], baseline[time], n_boot, seed) | {"t": time} for time in TIMES]
    pd.DataFrame(rows)[COLUMNS].to_csv(out, index=False, float_format="%.6g")


def compare_errors(network: Tensor, prior: Tensor | None, n_boot: int, seed: int) -> dict[str, float]:
    """Mean errors (N,) of network and prior, their ratio, and the paired bootstrap interval of the ratio."""
    a = network.double().numpy()
    row: dict[str, float] = {"n": len(a), "network": a.mean()}
    if prior is None:
        return row | dict.fromkeys(("prior", "ratio", "low", "high"), np.nan)
    b = prior.double().numpy()
    draws = np.random.default_rng(seed).integers(len(a), size=(n_boot, len(a)))
    low, high = percentile_interval(a[draws].mean(1) / b[draws].mean(1))
    return row | {"prior": b.mean(), "ratio": a.mean() / b.mean(), "low": low, "high": high}
