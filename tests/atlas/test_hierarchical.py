"""Hierarchical VAE: detached skips, two KL divergences with ramps, stage gate, tree with node maps."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from atlas.training_helpers import ROOT, write_inputs

from neuromf.atlas import hierarchy
from neuromf.atlas.hierarchical_training import build_module, train_hierarchical
from neuromf.atlas.hierarchical_vae import HierarchicalVAE, Normal, kl_between, require_detached, skip_gradient
from neuromf.atlas.preparation import write_maps
from neuromf.config.atlas_uncertainty import read_hierarchy_preset

SMALL = {"features": 16, "model": {"hidden": 16, "z1_dim": 6, "z2_dim": 3},
         "train": {"steps": 150, "batch": 16, "log_every": 15, "warmup": 0, "lr": 0.01}}  # fmt: skip


class Leaky(HierarchicalVAE):
    """Planted fault: the skip passes gradients."""

    def protect(self, h):
        return h


@pytest.fixture(scope="module")
def trained(mock_studies, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hvae")
    inputs = write_inputs(folder, mock_studies)
    write_maps(inputs["studies"], folder / "12.npy", grid="6mm", fwhm_mm=12.0, combine="noisy_or")
    preset = read_hierarchy_preset(ROOT / "studies/atlas/hvae.yaml", SMALL)
    train_hierarchical(studies=inputs["studies"], maps=folder / "12.npy", schema=inputs["schema"], out=folder / "run",
                       **preset)  # fmt: skip
    gate = hierarchy.write_hierarchy(run=folder / "run", studies=inputs["studies"], schema=inputs["schema"],
                                     out=folder / "gate.json", tree=folder / "tree.npz")  # fmt: skip
    return folder, gate


@pytest.mark.critical
def test_A48_the_gradient_through_the_skip_is_exactly_0():
    torch.manual_seed(0)
    x = torch.randn(8, 10)
    model = HierarchicalVAE(torch.ones(10), 0, hidden=16)
    assert skip_gradient(model, x) == 0.0
    before = model.decode(torch.zeros(8, 24), torch.zeros(8, 8), h=model.hidden(x))
    assert not torch.allclose(before, model.decode(torch.zeros(8, 24), torch.zeros(8, 8), h=model.hidden(x + 1)))
    require_detached(model, x)


@pytest.mark.critical
def test_A48_a_planted_leak_is_caught_before_training():
    torch.manual_seed(0)
    x = torch.randn(8, 10)
    leaky = Leaky(torch.ones(10), 0, hidden=16)
    assert skip_gradient(leaky, x) > 0
    with pytest.raises(ValueError, match="the skip leaks a gradient"):
        require_detached(leaky, x)


def test_A48_training_refuses_a_leaky_model(monkeypatch):
    monkeypatch.setattr("neuromf.atlas.hierarchical_training.HierarchicalVAE", Leaky)
    preset = read_hierarchy_preset(ROOT / "studies/atlas/hvae.yaml", SMALL)
    x, m = torch.randn(20, 16), torch.zeros(20, 2)
    with pytest.raises(ValueError, match="must be detached"):
        build_module(x, m, m.bool(), preset["model"], preset["loss"], preset["train"])


@pytest.mark.critical
def test_A48_both_kl_divergences_are_logged_with_ramps_of_their_own(trained):
    history = pd.read_csv(trained[0] / "run/hierarchical.csv")
    assert {"kl_z1", "kl_z2", "beta_z1", "beta_z2", "recon", "loss"} <= set(history)
    assert (history[["kl_z1", "kl_z2"]] > 0).all().all()
    assert history["beta_z1"].iloc[1] == 0 < history["beta_z2"].iloc[1]  # the top level first
    assert history[["beta_z1", "beta_z2"]].iloc[-1].tolist() == pytest.approx([0.15, 0.15])
    assert history["recon"].iloc[-1] < history["recon"].iloc[0]
    flat = pd.read_csv(trained[0] / "run/flat.csv")
    assert (flat["kl_z2"] == 0).all() and (flat["kl_z1"] > 0).all()


def test_A48_the_divergence_of_two_gaussians_is_that_of_torch():
    random = torch.Generator().manual_seed(0)
    q, p = (Normal(torch.randn(5, 3, generator=random), torch.randn(5, 3, generator=random)) for _ in range(2))
    a, b = (torch.distributions.Normal(one.mu, (0.5 * one.logvar).exp()) for one in (q, p))
    torch.testing.assert_close(kl_between(q, p), torch.distributions.kl_divergence(a, b).sum(1))


@pytest.mark.critical
def test_A49_the_gate_is_json_with_all_criteria_and_numbers(trained):
    folder, gate = trained
    assert gate == json.loads((folder / "gate.json").read_text())
    assert [row["id"] for row in gate["criteria"]] == [
        "mse_ratio",
        "kl_z2",
        "modularity",
        "topic_tree",
        "skip_gradient",
        "modularity_null",
    ]
    assert gate["verdict"] == ("go" if all(row["passed"] for row in gate["criteria"][:5]) else "no-go")
    assert all(np.isfinite(row["measured"]) for row in gate["criteria"]) and gate["numbers"]["skip_gradient"] == 0.0
    assert gate["numbers"]["mse_pca"] < gate["numbers"]["mse_hierarchical"]


@pytest.mark.critical
@pytest.mark.parametrize("name", ["mse_hierarchical", "kl_z2", "modularity", "skip_gradient", "tree"])
def test_A49_one_failed_criterion_is_a_no_go(name):
    numbers = {"mse_hierarchical": 1.0, "mse_flat": 1.0, "kl_z2": 2.0, "modularity": 0.3, "skip_gradient": 0.0}
    numbers["modularity_null_95"] = 0.5  # informational
    tree = {"r": 0.2, "null_95": 0.1}
    assert hierarchy.stage_gate(numbers, tree)["verdict"] == "go"
    wrong = {"mse_hierarchical": 1.11, "kl_z2": 0.9, "modularity": 0.2, "skip_gradient": 1e-9}
    numbers, tree = (numbers, {"r": 0.1, "null_95": 0.1}) if name == "tree" else (numbers | {name: wrong[name]}, tree)
    gate = hierarchy.stage_gate(numbers, tree)
    assert gate["verdict"] == "no-go" and sum(not row["passed"] for row in gate["criteria"][:5]) == 1


def test_A49_modularity_is_that_of_separate_blocks_and_low_for_one():
    blocks = np.kron(np.eye(4), np.ones((2, 5)))
    assert hierarchy.modularity(blocks) == pytest.approx(0.75)
    assert hierarchy.modularity(np.ones((8, 20))) == pytest.approx(0, abs=1e-9)
    assert hierarchy.modularity(np.zeros((3, 4))) == 0
    assert hierarchy.modularity_null(blocks, repeats=5) < 0.75


def test_A49_the_tree_agrees_with_planted_groups_and_not_with_noise():
    random = np.random.default_rng(0)
    group = np.repeat(np.arange(4), 5)
    positions = 5 * random.standard_normal((4, 3))[group] + random.standard_normal((20, 3))
    _, cophenetic = hierarchy.topic_tree(positions)
    words = [[f"g{g}", f"g{g}b", f"own{k}"] for k, g in enumerate(group)]
    found = hierarchy.tree_agreement(cophenetic, hierarchy.key_distances(words), 20)
    assert found["r"] > found["null_95"] and found["p"] < 0.01
    noise = [[f"own{random.integers(6)}", f"o{random.integers(6)}"] for _ in group]
    assert hierarchy.tree_agreement(cophenetic, hierarchy.key_distances(noise), 20)["p"] > 0.05


def test_A50_the_tree_has_a_map_of_every_node(trained):
    with np.load(trained[0] / "tree.npz") as found:
        children, maps = found["children"], found["maps"]
    n = len(children) + 1
    assert maps.shape == (2 * n - 1, 10_534) and np.isfinite(maps).all()
    tree = hierarchy.Tree(children, np.zeros(n - 1))
    assert sorted(tree.leaves(2 * n - 2)) == list(range(n))
    assert np.abs(maps[0] - maps[1]).max() > 1e-4  # maps of topics differ


def test_A48_a_wrong_ramp_is_refused():
    with pytest.raises(SystemExit, match="ramp_1"):
        read_hierarchy_preset(ROOT / "studies/atlas/hvae.yaml", {"loss": {"ramp_1": [0.5, 0.2]}})
