"""Small cohorts of trajectories."""

import numpy as np

from neuromf.growth.protocols import Trajectory, trajectories
from neuromf.simulation.tumour_volumes import simulate_volumes


def simulated(n, seed=0, growth_model="gompertz"):
    """Trajectories of n simulated patients with age and sex."""
    return trajectories(simulate_volumes(n, seed=seed, growth_model=growth_model), features=("age", "sex"))


def gompertz_patients(n, *, visits=4, noise=0.03, seed=0):
    """Patients of one Gompertz model with known log a: trajectories and log a (n,)."""
    random = np.random.default_rng(seed)
    log_a = -3.5 + 0.6 * random.normal(size=n)
    made = []
    for k in range(n):
        t = np.concatenate([[0.0], np.cumsum(random.uniform(4, 16, visits - 1))])
        top, y0 = random.normal(11, 0.3), random.normal(8.5, 0.8)
        y = top + (y0 - top) * np.exp(-np.exp(log_a[k]) * t) + noise * random.normal(size=visits)
        made.append(Trajectory(f"P{k:03d}", t, y))
    return made, log_a


def with_noise_covariates(n, *, seed=0):
    """Patients of `gompertz_patients` with two baseline covariates that growth does not depend on."""
    random = np.random.default_rng([seed, 1])
    patients = gompertz_patients(n, visits=3, noise=0.05, seed=seed)[0]
    return [Trajectory(p.patient, p.t, p.y, random.normal(size=2)) for p in patients]


def coverage(model, cases):
    """Fraction of values in the 95 % interval of a fitted model."""
    mean, sd = model.predict(cases)
    return float((np.abs([case.actual for case in cases] - mean) < 1.96 * sd).mean())
