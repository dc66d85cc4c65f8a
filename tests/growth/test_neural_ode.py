"""The neural ODE: partition, horizons, adjoint, jerk, time input, training by folds."""

import numpy as np
import pytest
import torch
from growth.forecast_helpers import coverage, simulated, with_noise_covariates

from neuromf.growth import neural_ode
from neuromf.growth.neural_ode import NODES, WEIGHTS, GrowthField, StateWidths, UnitTime, jerk, solve
from neuromf.growth.ode_models import ForecastNoise, NeuralODE, OdeSettings, pair_loss, train
from neuromf.growth.protocols import Trajectory, last_from_rest

WIDTHS = StateWidths(loc=3, shape=2, residual=4)
SHORT = OdeSettings(epochs=8, batch=256, lr=1e-2)


def field_of(widths=WIDTHS, **options):
    d = widths.width
    return GrowthField(widths, torch.full((d,), 0.5), torch.full((d,), 2.0), **options)


def states(n, widths=WIDTHS, seed=0):
    return torch.randn((n, widths.width), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradients(field, adjoint):
    start, months = states(3), torch.tensor([3.0, 6.0, 12.0]).double()
    effects = torch.full((3, 2), 0.1, dtype=torch.float64, requires_grad=True)
    end = solve(field, start, months, effects=effects, adjoint=adjoint)
    found = torch.autograd.grad(end.square().sum(), [*field.parameters(), effects], allow_unused=True)
    return [torch.zeros(1) if g is None else g for g in found]


def test_G55_the_residual_is_frozen_and_other_parts_move():
    start, months = states(5), torch.linspace(1, 60, 5).double()
    end = solve(field_of(), start, months)
    assert (end[:, -4:] - start[:, -4:]).abs().max() < 1e-6
    assert ((end - start)[:, :6].abs() > 1e-4).all()


def test_G55_each_part_reads_y_and_itself_alone():
    field, s = field_of(), states(1)[0]
    jacobian = torch.autograd.functional.jacobian(lambda x: field(torch.tensor(0.0), x[None])[0], s)
    loc, shape = slice(1, 4), slice(4, 6)
    assert jacobian[loc, 4:].abs().max() == 0 and jacobian[shape, 1:4].abs().max() == 0
    assert (jacobian[loc, 0] != 0).all() and (jacobian[0] != 0).all() and (jacobian[-4:] == 0).all()


def test_G56_a_batch_of_horizons_is_single_solves():
    field, start, months = field_of(), states(3), torch.tensor([2.0, 18.0, 60.0]).double()
    together = solve(field, start, months)
    single = torch.cat([solve(field, start[k : k + 1], months[k : k + 1]) for k in range(3)])
    np.testing.assert_allclose(together.detach(), single.detach(), atol=1e-3)
    torch.testing.assert_close(solve(field, start, torch.zeros(3).double()), start)


def test_G56_gradients_of_the_adjoint_reach_all_parameters_and_effects():
    """An adjoint with detached parameters gives none or zero."""
    field = field_of()
    for plain, adjoint in zip(gradients(field, False), gradients(field, True), strict=True):
        assert plain.abs().max() > 0
        assert (adjoint - plain).abs().max() < 1e-3 * (1 + plain.abs().max())


def test_G56_an_adjoint_with_detached_parameters_is_caught(monkeypatch):
    import torchdiffeq

    original = torchdiffeq.odeint_adjoint
    monkeypatch.setattr(torchdiffeq, "odeint_adjoint", lambda *a, **k: original(*a, **k, adjoint_params=()))
    with pytest.raises(AssertionError):
        test_G56_gradients_of_the_adjoint_reach_all_parameters_and_effects()


def test_G56_the_solver_falls_back_when_steps_underflow(monkeypatch, caplog):
    import torchdiffeq

    original = torchdiffeq.odeint

    def failing(*args, method, **options):
        if method == "dopri5":
            raise AssertionError("underflow in dt 0.0")
        return original(*args, method=method, **options)

    field, start, months = field_of(), states(2), torch.tensor([5.0, 30.0]).double()
    expected = solve(field, start, months)
    monkeypatch.setattr(torchdiffeq, "odeint", failing)
    torch.testing.assert_close(solve(field, start, months), expected, atol=1e-3, rtol=1e-3)
    assert caplog.text.count("underflow") == 2
    monkeypatch.setattr(neural_ode, "SOLVERS", neural_ode.SOLVERS[:1])
    with pytest.raises(FloatingPointError, match="not finite with any solver"):
        solve(field, start, months)


class Linear(torch.nn.Module):
    """ds/dt = A s + b."""

    def __init__(self, a, b):
        super().__init__()
        self.a, self.b = a, b

    def forward(self, t, s, effects=None):
        return s @ self.a.T + self.b


def test_G57_jerk_is_0_for_a_constant_field_and_analytic_for_a_linear_one():
    months, t = torch.tensor([2.0, 5.0]).double(), torch.zeros(2).double()
    start = states(2)[:, :2]

    def along(field):
        path = solve(field, start, months, at=torch.cat([NODES, torch.ones(1).double()]))
        return float(jerk(field, path[:-1], months, None, t))

    assert along(Linear(torch.zeros(2, 2).double(), torch.ones(2).double())) == 0
    rate = torch.tensor([-0.3, -0.1]).double()  # s(t) = s0 exp(rt), d/dt f = r^2 s
    exact = (rate**4 * start**2 * (torch.exp(2 * rate * months[:, None]) - 1) / (2 * rate)).sum(1).mean()
    assert along(Linear(torch.diag(rate), torch.zeros(2).double())) == pytest.approx(float(exact), rel=1e-3)
    assert float(WEIGHTS.sum()) == pytest.approx(1)


def test_G57_jerk_counts_explicit_time():
    class Time(torch.nn.Module):
        def forward(self, t, s, effects=None):
            return 3 * t[:, None] * torch.ones_like(s)

    months = torch.tensor([4.0]).double()
    found = jerk(Time(), torch.zeros(5, 1, 1).double(), months, None, torch.zeros(1).double())
    assert float(found) == pytest.approx(9 * 4)


@pytest.mark.parametrize("time_input", [False, True])
def test_G80_time_enters_only_if_it_is_asked_for(time_input):
    field, s = field_of(time_input=time_input), states(3)
    t = torch.full((3,), 6.0, dtype=torch.float64, requires_grad=True)
    out = field(t, s)
    if time_input:
        assert torch.autograd.grad(out.sum(), t)[0].abs().min() > 0
    else:
        assert not torch.equal(t, t + 30) and torch.equal(out, field(t + 30, s))
    later = solve(field, s, torch.full((3,), 9.0).double(), t=torch.full((3,), 24.0).double())
    assert torch.equal(later, solve(field, s, torch.full((3,), 9.0).double())) != time_input


def test_G56_the_field_of_unit_time_moves_no_constant():
    augmented = torch.cat([states(2), torch.ones(2, 4).double()], 1)
    assert UnitTime(field_of())(torch.tensor(0.5), augmented)[:, -4:].abs().max() == 0


# training


def test_G59_the_loss_falls_and_equal_seeds_give_equal_weights():
    patients = simulated(30)
    one, two = (NeuralODE(settings=SHORT).fit(patients) for _ in range(2))
    assert one.losses[-1] < one.losses[0] - 0.01 and one.losses == two.losses
    other = NeuralODE(settings=OdeSettings(epochs=8, batch=256, lr=1e-2, seed=1)).fit(patients)
    assert other.losses != one.losses


def test_G59_a_non_finite_loss_names_epoch_and_batch():
    pairs = {"start": torch.zeros(3, 1).double(), "end": torch.full((3, 1), float("nan")).double(),
             "months": torch.ones(3).double(), "t": torch.zeros(3).double()}  # fmt: skip
    field = field_of(StateWidths())
    with pytest.raises(FloatingPointError, match="nan in epoch 0, batch 0"):
        train(field, ForecastNoise(), pairs, SHORT)


def test_G59_states_beyond_y_are_trained_and_the_adjoint_gives_the_same_loss_gradients():
    s = states(6)
    pairs = {"start": s, "end": s + 0.1, "months": torch.full((6,), 5.0).double(), "t": torch.zeros(6).double()}
    grads = []
    for adjoint in (False, True):
        field = field_of()
        pair_loss(field, ForecastNoise(), pairs, OdeSettings(adjoint=adjoint)).backward()
        grads.append({name: p.grad for name, p in field.named_parameters()})
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad, atol=1e-3, rtol=1e-2, msg=name)
        assert grad.abs().max() > 0 or name.endswith("2.weight"), name


def test_G60_physics_network_and_both_are_three_rows():
    patients = simulated(24)
    cases = last_from_rest(patients)
    models = [
        NeuralODE(network=False, settings=SHORT),
        NeuralODE(physics=False, settings=SHORT),
        NeuralODE(settings=SHORT),
    ]
    means = [model.fit(patients).predict(cases)[0] for model in models]
    assert [model.name for model in models] == ["M8", "M9", "M10"]
    assert len(models[0].field.networks) == 0 and not models[1].physics
    assert all(np.abs(a - b).max() > 1e-4 for a, b in zip(means, means[1:], strict=False))


def test_G60_effects_without_network_corrections_are_the_mixed_effects_forecast():
    patients = simulated(40)
    model = NeuralODE(effects=True, settings=OdeSettings(epochs=1, lr=1e-9)).fit(patients[:30])
    torch.nn.init.zeros_(model.field.networks["y"][2].weight)
    torch.nn.init.zeros_(model.field.networks["y"][2].bias)
    cases = last_from_rest(patients[30:])
    np.testing.assert_allclose(model.predict(cases)[0], model.effects.predict(cases)[0], atol=2e-3)


def test_G60_noise_of_a_state_grows_with_the_horizon():
    patients = [Trajectory(p.patient, p.t, p.y) for p in simulated(20)]
    model = NeuralODE(settings=SHORT).fit(patients)
    variance = model.noise(torch.tensor([0.0, 12.0, 60.0]).double(), None)
    assert (variance.diff() > 0).all()


@pytest.mark.slow
def test_G60_intervals_with_effects_from_few_patients_cover_new_ones():
    patients = with_noise_covariates(230)
    model = NeuralODE(effects=True, settings=OdeSettings(epochs=8, batch=512, lr=1e-2)).fit(patients[:30])
    assert coverage(model, last_from_rest(patients[30:])) == pytest.approx(0.95, abs=0.035)


def test_G60_noise_beside_a_posterior_never_narrows_it():
    noise, posterior = ForecastNoise(-7.0), torch.tensor([0.01, 0.2]).double()
    assert (noise(torch.tensor([6.0, 24.0]).double(), posterior) > posterior).all()
