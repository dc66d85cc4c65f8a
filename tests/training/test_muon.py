"""Muon: orthogonal updates of matrices, AdamW of everything else, state that resumes."""

import copy

import pytest
import torch
from torch import nn

from neuromf.core import seeds
from neuromf.training.muon import Muon, orthogonalise, split_hidden

ADAMW = {"betas": (0.9, 0.95), "weight_decay": 0.0}


def normal(*shape, key=0):
    return torch.randn(shape, generator=seeds.generator("test", key), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(6, 20), (20, 6), (8, 8)])
def test_the_update_has_the_singular_vectors_of_the_matrix_and_singular_values_near_1(shape):
    matrix = normal(*shape)
    update = orthogonalise(matrix)
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    aligned = u.T @ update @ v.T
    torch.testing.assert_close(aligned, torch.diag(aligned.diag()), rtol=0, atol=1e-9)
    assert ((aligned.diag() > 0.6) & (aligned.diag() < 1.3))[s > 0.05 * s[0]].all()


def test_the_update_does_not_depend_on_the_size_of_the_gradient():
    matrix = normal(4, 9)
    torch.testing.assert_close(orthogonalise(1e-3 * matrix), orthogonalise(1e3 * matrix), rtol=1e-5, atol=1e-7)
    assert orthogonalise(torch.zeros(3, 5)).isfinite().all()


def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv3d(2, 8, 3), nn.Conv3d(8, 8, 3), nn.GroupNorm(2, 8), nn.Conv3d(8, 2, 1)).double()


def optimiser_of(net, **settings):
    hidden, others = split_hidden(net.named_parameters(), ["0.", "3."])
    return Muon(hidden, others, lr=0.02, adamw_lr=1e-3, **ADAMW, **settings)


def step(net, optimiser, key=0):
    optimiser.zero_grad()
    net(normal(2, 2, 7, 7, 7, key=key)).square().mean().backward()
    optimiser.step()


def test_hidden_convolutions_are_for_muon_and_first_last_and_vectors_for_adamw():
    net = network()
    hidden, others = split_hidden(net.named_parameters(), ["0.", "3."])
    assert [id(p) for p in hidden] == [id(net[1].weight)] and len(others) == 7
    net[1].requires_grad_(False)
    assert not split_hidden(net.named_parameters(), ["0.", "3."])[0]


def test_one_step_is_orthogonal_for_the_hidden_weight_and_that_of_adamw_for_the_others():
    net, reference = network(), network()
    optimiser = optimiser_of(net)
    adamw = torch.optim.AdamW(reference.parameters(), lr=1e-3, **ADAMW)
    before = net[1].weight.detach().clone()
    step(net, optimiser), step(reference, adamw)
    for k, name in ((0, "weight"), (0, "bias"), (1, "bias"), (2, "weight"), (3, "weight")):
        torch.testing.assert_close(getattr(net[k], name), getattr(reference[k], name), rtol=0, atol=0)
    singular = torch.linalg.svdvals((net[1].weight.detach() - before).flatten(1)) / 0.02
    assert (singular < 1.3).all() and (singular[:4] > 0.6).all()


def test_the_loss_falls_and_a_restored_optimiser_goes_on_with_the_same_bits():
    net = network()
    optimiser = optimiser_of(net)
    loss = lambda: float(net(normal(2, 2, 7, 7, 7)).square().mean())  # noqa: E731
    first = loss()
    for k in range(4):
        step(net, optimiser, k)
    assert loss() < first
    other, state = copy.deepcopy(net), copy.deepcopy(optimiser.state_dict())
    resumed = optimiser_of(other)
    resumed.load_state_dict(state)
    step(net, optimiser, 9), step(other, resumed, 9)
    for a, b in zip(net.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_a_closure_is_evaluated_with_gradients_and_its_loss_returned():
    net = network()
    optimiser = optimiser_of(net)

    def closure():
        optimiser.zero_grad()
        loss = net(normal(2, 2, 7, 7, 7)).square().mean()
        loss.backward()
        return loss

    assert optimiser.step(closure).requires_grad
