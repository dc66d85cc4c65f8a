"""Position maps: zero at the start, one per normalisation, trained by AdamW, kept through storage and starts."""

import pytest
import torch

from neuromf.meanflow import packaged, run, train
from neuromf.meanflow.module import MeanFlowModule
from neuromf.nn.position_maps import NAME, PositionalGroupNorm
from neuromf.training.muon import split_hidden

NET = {"widths": [16, 32], "res_blocks": 1, "attention": [False, True], "patch": 2, "head_width": 16}
SHAPE = (4, 8, 8, 8)


def network(position_maps=True, seed=0):
    settings = {"shape": SHAPE, "seed": seed}
    return run.build_network({**NET, "position_maps": position_maps}, "x", **settings).eval()


def test_new_maps_change_nothing():
    plain, mapped = network(False), network(True)
    train._load_weights(mapped, run.Run(plain, {}, SHAPE), "path")
    z, t = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(1)), torch.tensor([0.3, 0.9])
    assert torch.equal(plain(z, t, t), mapped(z, t, t))


def test_every_normalisation_has_maps_of_its_grid():
    norms = {name: module for name, module in network().named_modules() if isinstance(module, torch.nn.GroupNorm)}
    mapped = {name: norm for name, norm in norms.items() if isinstance(norm, PositionalGroupNorm)}
    flat = norms.keys() - mapped.keys()
    assert all("attention" in name for name in flat), flat  # normalised after its grid is flattened
    shapes = {tuple(norm.position_map_scale.shape[1:]) for norm in mapped.values()}
    assert shapes == {(4, 4, 4), (2, 2, 2)}
    assert all(norm.position_map_scale.shape == norm.position_map_shift.shape for norm in mapped.values())


def test_a_map_acts_at_its_position_alone():
    norm = next(module for module in network().modules() if isinstance(module, PositionalGroupNorm))
    x = torch.randn(1, *norm.position_map_scale.shape, generator=torch.Generator().manual_seed(1))
    before = norm(x).detach()
    with torch.no_grad():
        norm.position_map_scale[0, 1, 0, 1] = 1.0
        norm.position_map_shift[0, 1, 0, 1] = 0.5
    changed = norm(x).detach() - before
    assert changed[0, 0, 1, 0, 1] == pytest.approx(float(before[0, 0, 1, 0, 1]) + 0.5)
    assert changed.count_nonzero() == 1


def test_another_grid_is_refused():
    with pytest.raises(ValueError, match=r"position maps are of latents \(8, 8, 8\); got \(4, 8, 8\)"):
        network()(torch.zeros(1, 4, 4, 8, 8), torch.ones(1), torch.zeros(1))


def test_maps_need_the_shape_of_latents():
    with pytest.raises(ValueError, match="position_maps needs the shape"):
        run.build_network({**NET, "position_maps": True}, "x")


def test_maps_are_trained_by_adamw():
    u = network()
    hidden, others = split_hidden(u.named_parameters(), MeanFlowModule.FIRST_AND_LAST)
    ids = {id(weight) for weight in others}
    assert all(id(weight) in ids for name, weight in u.named_parameters() if NAME in name)
    assert hidden


def test_a_stored_run_keeps_its_maps(tmp_path):
    u = network()
    with torch.no_grad():
        for name, weight in u.named_parameters():
            if NAME in name:
                weight.normal_(generator=torch.Generator().manual_seed(0))
    stats = {"shape": SHAPE, "mean": [0.0] * 4, "std": [1.0] * 4}
    run.save_run(tmp_path / "model.pt", {"ema": u}, early=None, net={**NET, "position_maps": True}, stats=stats)
    loaded = run.load_run(tmp_path / "model.pt").u
    z, t = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(1)), torch.tensor([0.5])
    assert torch.equal(loaded(z, t, t), u(z, t, t))


def test_packaged_maps_are_eight_bit_numbers(tmp_path):
    u = network()
    with torch.no_grad():
        for name, weight in u.named_parameters():
            if NAME in name:
                weight.normal_(0, 0.02, generator=torch.Generator().manual_seed(0))
    stats = {"shape": SHAPE, "mean": [0.0] * 4, "std": [1.0] * 4}
    run.save_run(tmp_path / "model.pt", {"ema": u}, early=None, net={**NET, "position_maps": True}, stats=stats)
    packaged.pack(model=tmp_path / "model.pt", out=tmp_path / "packed.safetensors", spacing_mm=2.5)
    loaded = run.load_run(tmp_path / "packed.safetensors").u
    for (name, stored), (_, weight) in zip(loaded.net.named_parameters(), u.net.named_parameters(), strict=True):
        tolerance = {"rtol": 0.07, "atol": 0.001} if NAME in name else {"rtol": 1e-3, "atol": 1e-7}
        torch.testing.assert_close(stored, weight.detach(), **tolerance)
