"""The torus: geometry, a short training, tables and script."""

import json
import math

import pandas as pd
import pytest
import torch

from neuromf.core import seeds
from neuromf.figures import style, torus
from neuromf.meanflow import flow, toy_torus, velocity_net
from workflow_scripts import fig_2 as fig_2_script
from workflow_scripts import torus as torus_script

TINY = {"n_steps": 4, "batch": 16, "width": 8, "depth": 1, "n_epochs": 2}
ARMS = [{"prediction": "u", "dim": 4}, {"prediction": "x", "dim": 6}]


def random_generator(key="torus"):
    return seeds.generator("test", key)


def off_plane(dim):
    """A unit vector of R^dim orthogonal to the subspace of the torus."""
    v = torch.randn(dim, generator=random_generator(), dtype=torch.float64)
    v = v - toy_torus.embed(toy_torus.unembed(v[None]), dim)[0]
    return v / v.norm()


def close(actual, expected, **tolerance):
    torch.testing.assert_close(actual, expected, **tolerance)


def message(error):
    return str(error.value)


@pytest.mark.parametrize("dim", [4, 5, 16])
def test_P2_T1_samples_lie_on_the_torus(dim):
    points = toy_torus.sample(200, dim, random_generator())
    inside = toy_torus.unembed(points)
    assert points.shape == (200, dim) and points.dtype == torch.float64
    close(inside.reshape(-1, 2, 2).norm(dim=2), torch.ones(200, 2).double())
    close(toy_torus.embed(inside, dim), points)
    close(toy_torus.distance(points), torch.zeros(200).double(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dim", [4, 5, 16])
def test_P2_T1_the_embedding_is_isometric_and_deterministic(dim):
    p = torch.randn(30, 4, generator=random_generator(), dtype=torch.float64)
    close(toy_torus.embed(p, dim) @ toy_torus.embed(p, dim).T, p @ p.T)
    close(toy_torus.unembed(toy_torus.embed(p, dim)), p)
    close(toy_torus.basis.__wrapped__(dim), toy_torus.basis(dim), rtol=0, atol=0)


def test_angles_are_recovered_from_points():
    a, b = torch.tensor([[0.3, -2.0, 3.0], [1.5, -0.1, -3.0]]).double()
    points = toy_torus.embed(torch.stack([a.cos(), a.sin(), b.cos(), b.sin()], 1), 7)
    close(toy_torus.angles(points), torch.stack([a, b], 1))
    close(toy_torus.angles(2.5 * points), toy_torus.angles(points))


def test_distance_at_points_with_known_distance():
    on = toy_torus.sample(5, 9, random_generator())
    inside = toy_torus.unembed(on)
    close(toy_torus.distance(0 * on), torch.full((5,), math.sqrt(2)).double())
    close(toy_torus.distance(3 * on), torch.full((5,), 2 * math.sqrt(2)).double())
    close(toy_torus.distance(on + 0.7 * off_plane(9)), torch.full((5,), 0.7).double())
    one_circle = toy_torus.embed(torch.cat([1.3 * inside[:, :2], inside[:, 2:]], 1), 9)
    close(toy_torus.distance(one_circle), torch.full((5,), 0.3).double())
    close(toy_torus.distance(one_circle + 0.4 * off_plane(9)), torch.full((5,), 0.5).double())


def test_distance_equals_brute_force():
    """The nearest of 400 x 400 points of the torus."""
    p = torch.randn(20, 4, generator=random_generator(), dtype=torch.float64)
    a = torch.linspace(0, 2 * math.pi, 401).double()[:-1]
    circle = torch.stack([a.cos(), a.sin()], 1)
    squares = [torch.cdist(p[:, k : k + 2], circle).square().amin(1) for k in (0, 2)]
    close(toy_torus.distance(toy_torus.embed(p, 11)), sum(squares).sqrt(), rtol=0, atol=1e-3)


def test_uniformity_accepts_uniform_and_rejects_clustered_angles():
    points = toy_torus.sample(1000, 16, random_generator())
    assert min(toy_torus.uniformity(points)) > 0.01
    a, b = toy_torus.angles(points).T
    clustered = toy_torus.embed(torch.stack([a.cos(), a.sin(), (b / 2).cos(), (b / 2).sin()], 1), 16)
    p_a, p_b = toy_torus.uniformity(clustered)
    assert p_a > 0.01 and p_b < 1e-6


def test_the_ring_is_a_torus_of_revolution():
    """(sqrt(x^2 + y^2) - 2)^2 + z^2 = 1 on the torus."""
    points = toy_torus.sample(100, 8, random_generator())
    x, y, z = toy_torus.ring(points).T
    close((torch.hypot(x, y) - 2) ** 2 + z**2, torch.ones(100).double())
    close(
        toy_torus.ring(toy_torus.embed(torch.tensor([[0, 1, 1, 0.0]]).double(), 8)),
        torch.tensor([[0, 3, 0.0]]).double(),
    )


def test_fewer_than_four_dimensions_are_rejected():
    with pytest.raises(ValueError) as error:
        toy_torus.sample(3, 3, random_generator())
    assert message(error) == "the torus needs at least 4 dimensions; got dim=3"


def test_P2_T2_the_loss_of_a_torus_batch_is_finite_and_positive():
    for prediction in velocity_net.PREDICTIONS:
        net = toy_torus.new_net(16, prediction, width=16, depth=1, seed=0)
        x, eps, t, r = toy_torus.draw_batch(64, 16, seed=0, step=0, fraction_r_equals_t=0.5, fraction_corner=0.1)
        z, v = flow.training_path(x, eps, t, prediction)
        V = flow.implied_velocity(*flow.single_pass(net, z, t, r, v), t, r)
        loss = flow.adaptively_weighted(flow.channel_lp(V[:, None], v[:, None]))
        assert loss.shape == (64,) and loss.isfinite().all() and (loss > 0).all()


@pytest.mark.parametrize("prediction", velocity_net.PREDICTIONS)
def test_P2_T3_the_jvp_on_the_torus_has_its_shape_and_equals_central_differences(prediction):
    net = toy_torus.new_net(16, prediction, width=16, depth=2, seed=0).double()
    outlet = net.net.outlet.weight
    outlet.data = torch.randn(outlet.shape, generator=random_generator(), dtype=torch.float64)
    z, v = toy_torus.sample(5, 16, random_generator("z")), toy_torus.sample(5, 16, random_generator("v"))
    t, r = torch.linspace(0.2, 1, 5).double(), torch.linspace(0.1, 0, 5).double()
    with torch.no_grad():
        du_dt = flow.total_derivative(net, z, t, r, v)[1]
        ahead, behind = (net(z + s * v, t + s, r) for s in (1e-5, -1e-5))
    assert du_dt.shape == z.shape
    close(du_dt, (ahead - behind) / 2e-5, rtol=1e-6, atol=1e-8)


def test_the_target_of_x_prediction_is_clipped_like_the_prediction():
    x, eps = toy_torus.sample(2, 4, random_generator("x")), toy_torus.sample(2, 4, random_generator("eps"))
    t = torch.tensor([0.01, 0.5]).double()
    z, v_u = flow.training_path(x, eps, t, "u")
    close(v_u, eps - x)
    close(flow.training_path(x, eps, t, "x")[1], (eps - x) * torch.tensor([[0.2], [1.0]]).double())
    close(flow.training_path(x, eps, t, "x")[0], z)


def test_training_reduces_the_raw_loss_and_the_distance():
    net, history = toy_torus.train(4, "x", n_steps=300, batch=128, width=48, depth=1, lr=5e-3, n_epochs=10)
    assert list(history.columns) == [
        "step", "epoch", "raw_r_equals_t", "raw_r_below_t", "raw", "prediction", "dim",
    ]  # fmt: skip
    assert history["step"].tolist() == [30 * k for k in range(1, 11)]
    assert history["raw"].iloc[-1] < 0.6 * history["raw"].iloc[0]
    z = torch.randn(200, 4, generator=random_generator())
    assert toy_torus.distance(toy_torus.generate(net, z, 1)).mean() < 0.8 * toy_torus.distance(z).mean()


def test_equal_seeds_train_equal_networks():
    z = torch.randn(3, 4, generator=random_generator())
    first, again, other = (toy_torus.generate(toy_torus.train(4, "u", seed=s, **TINY)[0], z, 2) for s in (0, 0, 1))
    close(first, again, rtol=0, atol=0)
    assert not torch.allclose(first, other)


def test_a_loss_that_is_not_finite_is_an_error():
    with pytest.raises(FloatingPointError) as error:
        toy_torus.train(4, "u", **{**TINY, "lr": float("inf")})
    assert message(error) == "loss is nan at step 1, u-prediction, D=4; lower lr"


def test_raw_losses_are_averaged_by_kind_of_pair():
    losses = toy_torus.raw_losses(torch.tensor([1.0, 2.0, 6.0]), moving=torch.tensor([False, True, True]))
    assert losses == {"raw_r_equals_t": 1.0, "raw_r_below_t": 4.0, "raw": 3.0}
    r_equals_t = {"fraction_r_equals_t": 1.0, "fraction_corner": 0.0}
    _, history = toy_torus.train(4, "u", **TINY, **r_equals_t)
    assert history["raw_r_below_t"].isna().all() and history["raw_r_equals_t"].equals(history["raw"])


def test_epochs_are_means_of_their_steps():
    history = toy_torus.by_epoch(pd.DataFrame({"raw": [1.0, 2.0, 3.0, 4.0, 5.0]}), 2)
    assert history.to_dict("list") == {"step": [3, 5], "epoch": [1, 2], "raw": [2.0, 4.5]}


@pytest.fixture(scope="module")
def tables():
    return toy_torus.study(ARMS, n_samples=50, nfe=(1, 3), seed=0, **TINY)


def test_the_study_has_a_row_for_every_arm_and_nfe(tables):
    history, samples, summary = tables
    assert history[["prediction", "dim", "epoch"]].values.tolist() == [
        ["u", 4, 1], ["u", 4, 2], ["x", 6, 1], ["x", 6, 2],
    ]  # fmt: skip
    assert summary[["prediction", "dim", "nfe"]].values.tolist() == [
        ["u", 4, 1], ["u", 4, 3], ["x", 6, 1], ["x", 6, 3],
    ]  # fmt: skip
    assert samples.groupby("source").size().to_dict() == {"one step": 50, "real": 50}
    assert samples["dim"].unique().tolist() == [6]


def test_the_summary_agrees_with_the_samples(tables):
    _, samples, summary = tables
    one_step = samples[samples["source"] == "one step"]
    main = summary[(summary["dim"] == 6) & (summary["nfe"] == 1)].iloc[0]
    assert main["mean_distance"] == pytest.approx(one_step["distance"].mean(), rel=1e-5)
    assert samples[samples["source"] == "real"]["distance"].max() < 1e-6


def test_the_figure_shows_the_tables(tables):
    history, _, summary = tables
    fig = torus.draw(*tables)
    losses, distances = fig.axes[0], fig.axes[-1]
    main = summary[summary["dim"] == 6]
    assert distances.lines[1].get_xydata().tolist() == main[["nfe", "mean_distance"]].values.tolist()
    assert losses.lines[0].get_ydata().tolist() == history["raw_r_equals_t"][:2].tolist()
    assert fig.get_size_inches()[0] == style.PAGE
    style.plt.close(fig)


def test_scripts_write_tables_and_a_figure_with_provenance(tmp_path):
    config = {"arms": ARMS, "n_samples": 30, "nfe": [1, 2], "seed": 0, **TINY}
    paths = [item for name in ("history", "samples", "summary") for item in (f"--{name}", f"{tmp_path}/{name}.csv")]
    torus_script.main(["--config", json.dumps(config), *paths])
    for stem in ("first", "again"):
        fig_2_script.main([*paths, "--config", '{"run": "7"}', "--out", f"{tmp_path}/{stem}"])
    assert json.loads((tmp_path / "first.json").read_text()) == {"run": "7"}
    for kind in ("pdf", "png"):
        first, again = ((tmp_path / f"{stem}.{kind}").read_bytes() for stem in ("first", "again"))
        assert first == again and b'{"run": "7"}' in first
