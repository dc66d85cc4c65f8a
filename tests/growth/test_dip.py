"""Covariance penalties, their estimators and gates, the gather with gradient, and total correlation."""

import os
import socket

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp

from neuromf.core.distributed import gather
from neuromf.growth.dip_module import DIPVAELitModule
from neuromf.growth.factory import build_module
from neuromf.growth.models import BaselineVAE
from neuromf.vae.dip import PosteriorBank, covariance, dip_penalties, unbiased_penalties
from neuromf.vae.elbo import elbo_terms, kl_per_dimension
from neuromf.vae.total_correlation import decompose_kl

DOUBLE = torch.float64


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def posterior(n, d, seed=0):
    random = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(n, d, generator=random, dtype=DOUBLE) for _ in range(2))


@pytest.mark.parametrize("kind", ["I", "II"])
def test_G25_penalties_equal_numpy(kind):
    mu, logvar = posterior(7, 4)
    cov = np.cov(mu.numpy(), rowvar=False) + (kind == "II") * np.diag(np.exp(logvar.numpy()).mean(0))
    od = sum(cov[i, j] ** 2 for i in range(4) for j in range(4) if i != j)
    found = dip_penalties(mu, logvar, kind)
    np.testing.assert_allclose([float(one) for one in found], [od, ((np.diag(cov) - 1) ** 2).sum()], rtol=1e-12)


def test_G25_collapse_costs_nothing_in_dip_2_and_d_in_dip_1():
    mu, logvar = torch.zeros(6, 5, dtype=DOUBLE), torch.zeros(6, 5, dtype=DOUBLE)
    assert [float(one) for one in dip_penalties(mu, logvar, "II")] == [0, 0]
    assert [float(one) for one in dip_penalties(mu, logvar, "I")] == [0, 5]


def test_G26_the_unbiased_penalty_is_small_for_independent_means():
    naive, unbiased = [], []
    for seed in range(150):
        mu, logvar = posterior(8, 64, seed)
        naive.append(float(dip_penalties(mu, logvar)[0]))
        unbiased.append(float(unbiased_penalties(mu, logvar)[0]))
    assert np.mean(naive) == pytest.approx(64 * 63 / 7, rel=0.05)
    assert abs(np.mean(unbiased)) < 0.05 * np.mean(naive)


def test_G26_the_unbiased_penalty_has_the_expectation_of_the_covariance():
    mix = torch.tensor([[1.0, 0.0], [0.8, 0.6]], dtype=DOUBLE)
    values = [float(unbiased_penalties(posterior(6, 2, seed)[0] @ mix.T, torch.zeros(6, 2, dtype=DOUBLE))[0])
              for seed in range(3000)]  # fmt: skip
    assert np.mean(values) == pytest.approx(2 * 0.8**2, abs=3 * np.std(values) / 3000**0.5)


def test_G26_the_bank_adds_detached_samples_and_drops_the_oldest():
    bank = PosteriorBank(2, size=4)
    for k in range(3):
        bank.push(torch.full((2, 2), float(k)), torch.full((2, 2), 10.0 + k))
    assert bank.stored[:, 0].tolist() == [2, 2, 1, 1] and bank.stored[:, 2].tolist() == [12, 12, 11, 11]
    mu = torch.ones(3, 2, requires_grad=True)
    joined, _ = bank.extend(mu, torch.zeros(3, 2))
    assert joined.shape == (7, 2)
    joined.sum().backward()
    assert torch.equal(mu.grad, torch.ones(3, 2))


def dip_module(**options):
    net = BaselineVAE(8, (8, 8, 8), base_filters=4)
    return DIPVAELitModule(net, **{"lambda_start_epoch": 4, "lambda_cov_annealing_epochs": 8, **options})


def test_G27_the_penalties_start_late_and_rise_linearly():
    at = dip_module(lambda_od=10.0).schedules["lambda_od"]
    assert [at(0), at(4), at(8), at(12), at(50)] == [0, 0, 5, 10, 10]


def test_G27_the_gate_holds_the_penalties_at_zero_until_active_units_pass():
    module = dip_module(lambda_od=10.0, dip_gate="au")
    at = module.schedules["lambda_od"]
    assert at(50) == 0
    module.set_active_units(0.08 * 8)
    assert at(50) == 0
    module.set_active_units(5)
    assert int(module.gate_epoch) == 1 and [at(1), at(4), at(8), at(12)] == [0, 0, 5, 10]
    module.set_active_units(5)
    assert int(module.gate_epoch) == 1
    module.set_active_units(0)
    assert at(50) == 0


def test_G37_covariance_is_float32_under_autocast():
    mu, logvar = (one.float() for one in posterior(8, 4))
    with torch.autocast("cpu", torch.bfloat16):
        found = dip_penalties(mu.bfloat16(), logvar.bfloat16())
        product = mu @ mu.T
    assert product.dtype == torch.bfloat16 and all(one.dtype == torch.float32 for one in found)
    exact = dip_penalties(mu.bfloat16().double(), logvar.bfloat16().double())
    np.testing.assert_allclose([float(one) for one in found], [float(one) for one in exact], rtol=1e-5)


def test_G34_total_correlation_vanishes_for_a_product_and_the_parts_sum_to_the_kl():
    mu, logvar = (one.float() for one in posterior(64, 3))
    z = mu + torch.randn(64, 3, generator=torch.Generator().manual_seed(5)) * (logvar / 2).exp()
    parts = decompose_kl(z, mu, logvar, n_data=64)
    assert parts.keys() == {"mi", "tc", "dwkl"} and all(one.dtype == torch.float32 for one in parts.values())
    log_ratio = torch.distributions.Normal(mu, (logvar / 2).exp()).log_prob(z) - torch.distributions.Normal(
        0, 1
    ).log_prob(z)
    torch.testing.assert_close(sum(parts.values()), log_ratio.sum(1).mean(), rtol=1e-4, atol=1e-4)
    one = decompose_kl(z[:, :1], mu[:, :1], logvar[:, :1], n_data=64)
    assert float(one["tc"]) == pytest.approx(0, abs=1e-5)


def test_G34_the_module_logs_the_terms():
    net = {"z_dim": 8, "base_filters": 4, "variant": "tc"}
    module = build_module(roi_size=(8, 8, 8), model=net, loss={}, train={}, n_train=20)
    batch = {"image": torch.randn(4, 4, 8, 8, 8), "id": list("abcd")}
    module.weights["beta_tc"] = 3.0
    terms = module.objective(batch, module.model.forward_full(batch["image"]), 1.0)
    assert {"loss", "recon", "mi", "tc", "dwkl", "beta_tc"} <= terms.keys()
    cost = terms["mi"] + 3.0 * terms["tc"] + terms["dwkl"]
    torch.testing.assert_close(terms["loss"], terms["recon"] + 4 * cost)


# --- two processes -----------------------------------------------------------------------------------


def global_loss(weights, x):
    """A loss that is nonlinear over the batch: free bits, sum reduction and covariances."""
    mu, logvar = x @ weights, 0.1 * x @ weights
    errors = gather((x - mu @ weights.T).square().sum(1))
    mu, logvar = gather(mu), gather(logvar)
    od, d = dip_penalties(mu, logvar)
    return elbo_terms(errors, mu, logvar, 0.7, n=3, free_bits=0.4)["loss"] + 10 * od + 5 * d, mu


def process(rank, folder, port):
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    weights = torch.nn.Parameter(torch.load(folder / "weights.pt"))
    loss, mu = global_loss(weights, torch.load(folder / "x.pt")[rank::2])
    loss.backward()
    torch.distributed.all_reduce(weights.grad)  # DDP averages the gradients of processes
    torch.save({"grad": weights.grad / 2, "loss": loss.detach(), "mu": mu.detach()}, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def test_G28_two_processes_have_the_gradient_of_the_joined_batch(tmp_path):
    x, weights = torch.randn(6, 3, dtype=DOUBLE), torch.randn(3, 3, dtype=DOUBLE, requires_grad=True)
    torch.save(x, tmp_path / "x.pt")
    torch.save(weights.detach(), tmp_path / "weights.pt")
    loss, mu = global_loss(weights, x)
    loss.backward()
    assert (kl_per_dimension(mu, 0.1 * mu).mean(0) > 0.4).any()
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        port = opened.getsockname()[1]
    mp.spawn(process, (tmp_path, port), nprocs=2)
    for rank in (0, 1):
        found = torch.load(tmp_path / f"{rank}.pt")
        torch.testing.assert_close(found["grad"], weights.grad, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(found["loss"], loss.detach(), rtol=1e-12, atol=0)
        torch.testing.assert_close(found["mu"], mu.detach())


def test_covariance_is_unbiased_in_the_means():
    mu, logvar = posterior(5, 2)
    np.testing.assert_allclose(covariance(mu, logvar, "I").numpy(), np.cov(mu.numpy(), rowvar=False), rtol=1e-12)
