"""Gompertz growth in log space, its mixed-effects models, effects of patients and risk."""

import numpy as np
import pytest
import torch
from growth.forecast_helpers import coverage, gompertz_patients, simulated, with_noise_covariates
from scipy import integrate, stats

from neuromf.growth.gompertz import GompertzMixedEffects, ReducedGompertz, closed_form, hermite, velocity
from neuromf.growth.neural_ode import GrowthField, StateWidths, solve
from neuromf.growth.patient_effects import EffectBank, check_held_out, effects_of, growth_parameters, pair_cases
from neuromf.growth.protocols import Case, last_from_rest
from neuromf.growth.risk import stratify
from neuromf.simulation.growth_curves import Growth, gompertz, log_volume


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


def physics(log_rate, k):
    field = GrowthField(StateWidths(), tensor(0.0), tensor(1.0), network=False)
    with torch.no_grad():
        field.log_rate.fill_(log_rate)
        field.capacity.fill_(k)
    return field


# physics


def test_G54_the_closed_form_is_the_solution_of_the_ode():
    y0, months = tensor(8.0, 10.5, 11.5, 7.0), tensor(6.0, 24.0, 60.0, 120.0)
    exact = closed_form(months, y0, tensor(-3.5), tensor(11.0))
    np.testing.assert_allclose(
        solve(physics(-3.5, 11.0), y0[:, None], months)[:, 0].detach(), exact, atol=1e-4, rtol=1e-4
    )
    one = integrate.solve_ivp(lambda t, v: 0.03 * (v + 1) * np.log(40001 / (v + 1)), (0, 24), [4000.0], rtol=1e-10)
    found = closed_form(tensor(24.0), tensor(np.log(4001)), tensor(np.log(0.03)), tensor(np.log(40001)))
    assert float(found) == pytest.approx(np.log1p(one.y[0, -1]), abs=1e-7)
    assert float(gompertz(24.0, Growth(4000, 40000, 0.03))) == pytest.approx(float(found.expm1()), rel=1e-9)


def test_G54_growth_is_bounded_for_ten_years_and_volumes_are_never_negative():
    y0 = torch.linspace(0, 14, 40, dtype=torch.float64)[:, None]
    end = solve(physics(-1.0, 10.6), y0, torch.full((40,), 120.0, dtype=torch.float64))
    assert (end <= y0.clamp(min=10.6) + 1e-2).all() and (end.expm1() >= 0).all() and torch.isfinite(end).all()


def test_G54_physics_on_the_logarithm_of_a_latent_is_not_growth():
    """The equation acts on y: applied to ln y, the rate at 4 ml and K = 40 ml differs, and complete response is NaN."""
    y, k, log_rate = log_volume(4000.0), log_volume(40000.0), np.log(0.03)
    rate = float(velocity(tensor(y), tensor(log_rate), tensor(k)))
    step = 1e-4
    change = np.log1p(gompertz(step, Growth(4000, 40000, 0.03))) - y
    assert rate == pytest.approx(change / step, rel=1e-4)
    faulty = float(velocity(tensor(np.log(y)), tensor(log_rate), tensor(np.log(k)))) * y
    assert abs(faulty - rate) > 0.1 * rate
    assert torch.isfinite(velocity(tensor(0.0, -1.5), tensor(log_rate), tensor(k))).all()  # V = 0, negative latents


def test_G58_gauss_hermite_integrates_polynomials_of_a_normal_variable():
    nodes, weights = hermite(31)
    assert [float((weights * nodes**n).sum()) for n in (0, 2, 4, 6)] == pytest.approx([1, 1, 3, 15])


# mixed effects


@pytest.fixture(scope="module")
def cohort():
    patients, log_a = gompertz_patients(80)
    return patients, log_a, GompertzMixedEffects().fit(patients[:50])


def test_G58_the_marginal_likelihood_is_that_of_numerical_integration(cohort):
    patients, _, model = cohort
    one = patients[60].first(3)

    def density(log_a):
        decay = np.exp(-np.exp(log_a) * one.t)
        x = np.column_stack([decay, 1 - decay])
        f = model.factor.numpy()
        z = (log_a - float(model.mean[0])) / f[0, 0]
        mean = model.mean[1:].numpy() + z * f[1:, 0]
        covariance = x @ f[1:, 1:] @ f[1:, 1:].T @ x.T + float(model.sigma) ** 2 * np.eye(3)
        return stats.norm.pdf(z) / f[0, 0] * stats.multivariate_normal.pdf(one.y, x @ mean, covariance)

    center, sd = float(model.mean[0]), float(model.factor[0, 0])
    expected, _ = integrate.quad(density, center - 8 * sd, min(center + 8 * sd, 3.0), limit=400)
    assert float(model.posterior([one]).log_likelihood) == pytest.approx(np.log(expected), abs=0.02)


def test_G58_recovered_rates_have_the_order_of_planted_ones(cohort):
    patients, log_a, model = cohort
    found = growth_parameters(model, patients[50:])
    recovered = [found[p.patient]["log_a"] for p in patients[50:]]
    assert stats.spearmanr(recovered, log_a[50:])[0] >= 0.6
    assert all(0 < row["log_a_sd"] < 1 and row["k_sd"] > 0 for row in found.values())


def test_G58_more_visits_narrow_the_posterior(cohort):
    patients, _, model = cohort
    few, many = (growth_parameters(model, [p.first(n) for p in patients[50:]]) for n in (1, 4))
    assert np.mean([many[name]["log_a_sd"] < few[name]["log_a_sd"] for name in many]) > 0.9


def test_G68_risk_has_the_order_of_planted_rates_and_doubling_is_a_probability(cohort):
    patients, log_a, model = cohort
    found = stratify(model, patients[50:])
    risk = np.array([found[p.patient]["risk"] for p in patients[50:]])
    double = np.array([found[p.patient]["p_double"] for p in patients[50:]])
    assert stats.spearmanr(risk, log_a[50:])[0] >= 0.6
    assert risk.mean() == pytest.approx(0, abs=1e-9) and risk.std() == pytest.approx(1)
    slow, fast = np.argsort(log_a[50:])[:10], np.argsort(log_a[50:])[-10:]
    assert ((double >= 0) & (double <= 1)).all() and double[slow].mean() < double[fast].mean()


def test_G58_the_amortiser_reads_a_planted_covariate():
    patients, log_a = gompertz_patients(30, visits=3, seed=1)
    marked = [type(p)(p.patient, p.t, p.y, np.array([2 * a])) for p, a in zip(patients, log_a, strict=True)]
    model = GompertzMixedEffects(amortise=True).fit(marked)
    assert float(model.amortiser[0, 0]) > 0.2


def test_G58_intervals_from_few_patients_have_the_variance_of_the_parameters():
    """30 training patients and covariates that growth does not depend on."""
    patients = with_noise_covariates(230)
    model, cases = GompertzMixedEffects(amortise=True).fit(patients[:30]), last_from_rest(patients[30:])
    assert coverage(model, cases) == pytest.approx(0.95, abs=0.035)
    model.parameter_covariance = torch.zeros_like(model.parameter_covariance)
    assert coverage(model, cases) < 0.9


# the effect bank


def test_G59_a_held_out_patient_in_the_effect_bank_is_refused(cohort):
    patients, _, model = cohort
    bank = EffectBank(model, patients[:50])
    with pytest.raises(ValueError, match="1 test patients were in the fit, the first is P007"):
        check_held_out(bank.patients, ["P007", "P070"])
    check_held_out(bank.patients, ["P070"])
    with pytest.raises(ValueError, match="1 test patients were in the fit"):
        EffectBank(model, patients[:49])


def test_G59_effects_of_the_bank_come_from_models_that_the_patient_was_left_out_of(cohort, monkeypatch):
    patients, _, model = cohort
    seen, original = [], GompertzMixedEffects.refit
    monkeypatch.setattr(GompertzMixedEffects, "refit", lambda *a: seen.append(original(*a)) or seen[-1])
    bank, few = EffectBank(model, patients[:50]), patients[:50]
    assert [sum(p.patient not in other.patients for other in seen) for p in few] == [1] * 50
    cases = pair_cases(few)
    (left_out,) = [other for other in seen if cases[-1].past.patient not in other.patients]
    expected = left_out.posterior([cases[-1].past]).moments()[0] - torch.stack([model.mean[0], model.mean[2]])
    torch.testing.assert_close(bank.effects.u[-1:], expected)
    assert len(bank.effects.u) == len(cases)


def test_G58_effects_of_a_pair_do_not_depend_on_visits_after_its_start(cohort):
    patients, _, model = cohort
    one = patients[60]
    changed = type(one)(one.patient, one.t, one.y + np.array([0, 0, 3.0, -2.0]))
    rows = [k for k, case in enumerate(pair_cases([one])) if len(case.past.t) <= 2]
    before, after = (effects_of(model, pair_cases([p])).u[rows] for p in (one, changed))
    assert len(rows) == 5 and torch.equal(before, after)


def test_G61_the_reduced_model_has_one_capacity():
    patients = simulated(60, seed=1)
    model = ReducedGompertz().fit(patients)
    posterior = model.posterior(patients[:5])
    np.testing.assert_allclose(posterior.mean[..., 1], model.mean[2])
    mean, sd = model.predict(last_from_rest(patients))
    assert np.isfinite(mean).all() and (sd > float(model.sigma)).all()
    short = model.predict([Case(patients[0].first(1), 1e-6, 0.0)])[1]
    assert short < model.predict([Case(patients[0].first(1), 120.0, 0.0)])[1]
