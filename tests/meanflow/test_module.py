"""Training: the loss equals its terms, draws are numbered, an interrupted run ends with the same bits."""

import copy

import pytest
import torch

from neuromf.meanflow import flow, run
from neuromf.meanflow import module as module_file
from neuromf.meanflow.diagnostics import Diagnostics
from neuromf.nn.unet import checkpoint_activations
from neuromf.training import run_record, trainer

NET = {"widths": [8, 16], "res_blocks": 1, "attention": [False, True], "head_width": 8, "norm_groups": 4, "patch": 1}
TIMES = {"fraction_r_equals_t": 0.5, "fraction_corner": 0.25}


@pytest.fixture
def data():
    return torch.randn(10, 4, 4, 4, 4, generator=torch.Generator().manual_seed(1))


def make_module(data, prediction="x", steps=8, **settings):
    u = run.build_network(NET, prediction, velocity_head=settings.get("tangent") == "head", seed=3)
    torch.nn.init.normal_(u.net.out[2].conv.weight, std=0.1, generator=torch.Generator().manual_seed(4))
    defaults = {"batch": 4, "lr": 1e-2, "seed": 5, "warmup": 2, "log_every": 2, "ema_images": [8, 32], "times": TIMES}
    return module_file.MeanFlowModule(u, data, steps=steps, **{**defaults, **settings})


def fit(module, folder, **settings):
    trainer.fit(module, checkpoint=folder / "last.ckpt", accelerator="cpu", **{"checkpoint_every": 2, **settings})
    return module


@pytest.mark.parametrize("prediction", ["x", "u"])
def test_P3_T4_loss_of_the_unet_is_finite_and_positive(data, prediction):
    loss = make_module(data, prediction).training_step(None, 0)
    assert torch.isfinite(loss) and loss > 0


@pytest.mark.parametrize("derivative", flow.DERIVATIVES)
@pytest.mark.parametrize("target", ["conditional", "teacher"])
@pytest.mark.parametrize(
    ("prediction", "tangent"), [("x", "conditional"), ("u", "conditional"), ("x", "predicted"), ("x", "head")]
)
def test_P3_T9_combined_loss_equals_its_parts(data, prediction, tangent, target, derivative):
    kind = {"tangent": tangent, "target": target, "derivative": derivative}
    module = make_module(
        data.double(), prediction, p=[1.0, 2.0, 2.0, 3.0], channel_weights=[1, 2, 1, 1], **kind
    ).double()
    for weight in module.ema.net.parameters():  # the teacher differs from the trained network
        weight.mul_(1.1)
    outputs, teacher = module.u.outputs, module.u.outputs if target == "conditional" else ema_outputs(module)
    x = module.latents[module.batch_indices()]
    eps = torch.randn(x.shape, generator=module.draw("eps")).to(x)
    t, r = flow.draw_times(4, module.draw("times"), **TIMES)
    z = (1 - t.view(-1, 1, 1, 1, 1)) * x + t.view(-1, 1, 1, 1, 1) * eps
    v = (z - x) / t.clamp(min=0.05).view(-1, 1, 1, 1, 1) if prediction == "x" else eps - x
    teacher_v = teacher(z, t, t)[:, -4:].detach()
    along = v if tangent == "conditional" else teacher_v
    regressed = v if target == "conditional" else torch.where((r < t).view(-1, 1, 1, 1, 1), teacher_v, v)
    du_dt = torch.func.jvp(module.u, (z, t, r), (along, torch.ones_like(t), torch.zeros_like(r)))[1].detach()
    V = module.u(z, t, r) + (t - r).view(-1, 1, 1, 1, 1) * du_dt
    expected = weighted(V - regressed, V - v)
    if tangent == "head":
        expected = expected + weighted(outputs(z, t, r)[:, 4:] - v, outputs(z, t, r)[:, 4:] - v)
    torch.testing.assert_close(module.training_step(None, 0), expected)


def ema_outputs(module):
    """Outputs of the EMA network, with t clipped as in training."""
    return copy.deepcopy(module.ema.net).train().outputs


def weighted(error, own_error):
    """Per-channel Lp loss of `error`, with the adaptive weight of `own_error`."""
    return (lp(error) / (lp(own_error).detach() + 0.01)).mean()


def lp(error):
    channels = enumerate(zip((1, 2, 2, 3), (1, 2, 1, 1), strict=True))
    return sum(w * (error[:, c].abs() ** p).sum((1, 2, 3)) for c, (p, w) in channels)


def test_intervals_open_after_flow_matching_and_grow(data, monkeypatch):
    settings = {"flow_matching_steps": 10, "interval_warmup_steps": 20}
    module, longest = make_module(data, times={**TIMES, "fraction_uniform": 0.25}, **settings), {}
    for step in (0, 9, 10, 14, 29, 99):
        monkeypatch.setattr(type(module), "global_step", step)
        t, r = flow.draw_times(4000, module.draw("times"), **module.time_sampling())
        longest[step] = (t - r).max().item()
    assert longest[0] == longest[9] == 0
    assert longest[10] == pytest.approx(0.05) and longest[14] == pytest.approx(0.25)
    assert longest[29] == longest[99] > 0.97


def test_P3_T10_bf16_training_is_finite_and_its_derivative_is_float32(tmp_path, monkeypatch):
    # not 4^3: torch 2.13 reads uninitialised memory in the bf16 weight gradient of convolutions over 2^3 voxels
    data = torch.randn(10, 4, 8, 8, 8, generator=torch.Generator().manual_seed(1))
    states = []
    exact = flow.total_derivative

    def spy(u, z, t, r, v, precision):
        def watched(z, t, r):
            out = u(z, t, r)
            states.append((z.dtype, out.dtype, torch.is_autocast_enabled("cpu")))
            return out

        return exact(watched, z, t, r, v, precision)

    monkeypatch.setattr(flow, "total_derivative", spy)
    module = fit(make_module(data, steps=4), tmp_path, precision="bf16-mixed")
    assert set(states) == {(torch.float32, torch.float32, False)}
    assert all(torch.isfinite(p).all() for p in module.u.parameters())
    assert all(row["loss"] > 0 for row in module.history)


@pytest.mark.parametrize("derivative", flow.DERIVATIVES)
def test_a_training_with_a_derivative_in_bf16_resumes_with_the_same_bits(tmp_path, monkeypatch, derivative):
    data = torch.randn(10, 4, 8, 8, 8, generator=torch.Generator().manual_seed(1))  # not 4^3, see above
    settings, found = {"derivative": derivative, "derivative_precision": "bf16", "steps": 4}, []
    exact = flow.total_derivative
    monkeypatch.setattr(flow, "total_derivative", lambda *args: found.append(args[5]) or exact(*args))
    whole, broken = fit(make_module(data, **settings), tmp_path / "whole"), make_module(data, **settings)
    step = broken.training_step

    def killed(batch, batch_idx):  # Lightning inspects these names
        if broken.global_step == 3:
            raise KeyboardInterrupt
        return step(batch, batch_idx)

    broken.training_step = killed
    with pytest.raises(BaseException):  # noqa: B017 - Lightning wraps a keyboard interrupt in an exit
        fit(broken, tmp_path / "broken")
    resumed = fit(make_module(data, **settings), tmp_path / "broken")
    for ours, theirs in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs) and ours.isfinite().all()
    assert repr(whole.history) == repr(resumed.history) and set(found) == {"bf16"}


def test_the_ema_is_updated_once_per_optimiser_step(data, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(module_file.EMA, "update", lambda self, net, batch, seen: calls.append((batch, seen)))
    fit(make_module(data, steps=3), tmp_path, accumulate=2)
    assert calls == [(8, 0), (8, 0), (8, 8), (8, 8), (8, 16), (8, 16)]  # two averages


def test_accumulated_batches_give_one_row_per_logged_step(data, tmp_path):
    module = fit(make_module(data, steps=4), tmp_path, accumulate=3)
    assert [row["step"] for row in module.history] == [2, 4] and int(module.drawn) == 12


def test_a_training_killed_between_accumulated_batches_ends_with_the_same_bits(data, tmp_path):
    whole, broken = fit(make_module(data), tmp_path / "whole", accumulate=2), make_module(data)
    step = broken.training_step

    def killed(batch, batch_idx):  # Lightning inspects these names
        if int(broken.drawn) == 11:  # one batch of step 5 is in the gradient
            raise KeyboardInterrupt
        return step(batch, batch_idx)

    broken.training_step = killed
    with pytest.raises(BaseException):  # noqa: B017 - Lightning wraps a keyboard interrupt in an exit
        fit(broken, tmp_path / "broken", accumulate=2)
    resumed = fit(make_module(data), tmp_path / "broken", accumulate=2)
    for ours, theirs in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)
    assert repr(whole.history) == repr(resumed.history)


def test_averages_in_host_memory_stay_there_and_have_the_same_values(data, tmp_path):
    here, host = (fit(make_module(data, averages=kind), tmp_path / kind) for kind in ("device", "host"))
    for ours, theirs in zip(here.emas.parameters(), host.emas.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    moved = host.to("meta")
    devices = [{p.device.type for p in net.parameters()} for net in moved.nets().values()]
    assert devices == [{"meta"}, {"meta"}, {"cpu"}]  # the teacher, the network, the further average


def test_activations_computed_again_give_the_same_gradients_from_fewer_stored_tensors(data):
    module = make_module(data, derivative="two_pass", target="teacher", tangent="predicted")
    plain, repeated = (stored_bytes_and_gradients(m) for m in (module, with_checkpoints(copy.deepcopy(module))))
    assert repeated[0] < 0.6 * plain[0]
    for ours, theirs in zip(plain[1], repeated[1], strict=True):
        assert torch.equal(ours, theirs)


def with_checkpoints(module):
    checkpoint_activations(module.u.net)
    return module


def stored_bytes_and_gradients(module):
    """Bytes of tensors stored for the backward pass of one step, parameters included, and the gradients."""
    stored = {}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: stored.setdefault(t.untyped_storage().data_ptr(), t.untyped_storage().nbytes()) and t, lambda t: t
    ):
        loss = module.training_step(None, 0)
    parameters = sum(p.numel() * 4 for p in module.u.parameters())
    loss.backward()
    return sum(stored.values()) - parameters, [p.grad for p in module.u.parameters()]


def test_P4_T8_an_interrupted_training_ends_with_the_same_bits(data, tmp_path):
    watched = lambda: make_module(data, diagnostics=Diagnostics(every=3, nfe=2, n=2, quiet_steps=4))  # noqa: E731
    whole = fit(watched(), tmp_path / "whole")
    broken = watched()
    step = broken.training_step

    def killed(batch, batch_idx):  # Lightning inspects these names
        if broken.global_step == 5:
            raise KeyboardInterrupt
        return step(batch, batch_idx)

    broken.training_step = killed
    with pytest.raises(BaseException):  # noqa: B017 - Lightning wraps a keyboard interrupt in an exit
        fit(broken, tmp_path / "broken")
    assert (tmp_path / "broken" / "last.ckpt").exists()
    resumed = fit(watched(), tmp_path / "broken")
    for ours, theirs in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)
    assert repr(whole.history) == repr(resumed.history) and torch.equal(whole.early, resumed.early)
    assert whole.diagnostics.rows and repr(whole.diagnostics.rows) == repr(resumed.diagnostics.rows)
    assert not (tmp_path / "broken" / "last.ckpt").exists()


def test_the_history_has_gradient_norms_and_the_fraction_of_clipped_steps(data, tmp_path):
    loose, tight = (fit(make_module(data, steps=4), tmp_path / str(clip), clip=clip) for clip in (1e9, 1e-9))
    for rows, fraction in ((loose.history, 0.0), (tight.history, 1.0)):
        assert [row["clipped"] for row in rows] == [fraction] * 2
    first = loose.history[0]["grad_norm"]
    assert 0 < first < 1e4 and tight.history[0]["grad_norm"] > 1e-6  # before clipping


def test_every_item_is_drawn_once_per_epoch(data):
    module = make_module(data)
    drawn = []
    for _ in range(5):  # 5 batches of 4 are two epochs of 10
        drawn += module.batch_indices().tolist()
        module.drawn += 1
    assert sorted(drawn[:10]) == sorted(drawn[10:]) == list(range(10))
    assert drawn[:10] != drawn[10:]


def test_a_nan_loss_stops_the_run(data, tmp_path):
    poisoned = data.clone()
    poisoned[:] = float("nan")
    with pytest.raises(
        FloatingPointError, match=r"loss is nan at step 0, batch 0, items \[.*\]; the weights are unchanged"
    ):
        fit(make_module(poisoned), tmp_path)


def test_raw_losses_are_split_by_kind_and_by_t():
    t, r = torch.tensor([0.1, 0.9, 0.9]), torch.tensor([0.1, 0.9, 0.2])
    row = module_file.raw_by_time(torch.tensor([1.0, 2.0, 4.0]), t, r)
    assert row["raw_fm"].tolist() == [1.0, 2.0] and row["raw_mf"].tolist() == [4.0]
    assert row["raw_fm_t0-0.25"].tolist() == [1.0] and row["raw_mf_t0.75-1"].tolist() == [4.0]
    assert row["raw_mf_t0-0.25"].tolist() == []


def test_a_short_run_lowers_the_raw_loss(data, tmp_path):
    one = data[:1].expand(10, -1, -1, -1, -1)
    history = fit(make_module(one, steps=60, log_every=10), tmp_path).history
    assert history[-1]["raw_fm"] < 0.8 * history[0]["raw_fm"]


def test_the_card_has_the_cost_of_a_run_across_interruptions(data, tmp_path):
    module = fit(make_module(data, steps=4), tmp_path)
    card = run_record.run_record(module, {}, {})
    assert 0 < card["seconds"] < 60 and card["peak_mb"] > 50 and "thread" in card["device"]
    saved: dict = {}
    module.on_save_checkpoint(saved)
    other = make_module(data, steps=4)
    other.on_load_checkpoint(saved)
    assert other.seconds() >= saved["seconds"] > 0
