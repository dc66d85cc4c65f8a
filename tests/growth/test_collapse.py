"""Active units, use of the latent, verdicts, and the callback that evaluates them."""

import pytest
import torch
from growth.training_helpers import config, loaders, module_of
from torch import nn

from neuromf.growth.callbacks import Diagnostics, diagnose
from neuromf.growth.probes import cross_probe, probe, volume_and_centroid
from neuromf.vae.collapse import active_units, posterior_statistics, verdict

HEALTHY = {"au_count": 11, "kl_raw": 12.0, "bypass_ratio": 0.3, "mu_var_mean": 0.5}


def test_G41_five_of_sixteen_units_are_active():
    mu = torch.randn(50, 16, generator=torch.Generator().manual_seed(0))
    mu[:, 5:] = 3.0 + 0.01 * mu[:, 5:]
    assert active_units(mu) == 5
    assert posterior_statistics(mu, torch.zeros_like(mu))["au_frac"] == 5 / 16


def test_G41_diagnostics_are_dense_at_first_then_every_fifth_epoch_and_the_last(tmp_path):
    callback = Diagnostics(tmp_path, loaders()[1], [], [1.0] * 3, dense_epochs=15)
    assert [epoch for epoch in range(33) if callback.due(epoch, 33)] == [*range(15), 15, 20, 25, 30, 32]


def test_G82_a_prior_like_encoder_has_log_variance_0_and_standard_deviation_1():
    found = posterior_statistics(torch.zeros(20, 4), torch.zeros(20, 4))
    assert (found["logvar_mean"], found["z_std"], found["au_count"]) == (0, 1, 0)


class Toy(nn.Module):
    """A model with one latent per voxel mean of a channel, or a constant encoder."""

    def __init__(self, constant):
        super().__init__()
        self.constant, self.z_dim = constant, 4

    def encode(self, x):
        mu = x.mean((2, 3, 4))
        return (0 * mu, 0 * mu) if self.constant else (mu, torch.full_like(mu, -6.0))

    def decode(self, z):
        return z[:, :, None, None, None].expand(-1, -1, 8, 8, 8)

    def forward(self, x):
        mu, logvar = self.encode(x)
        return self.decode(mu), mu, logvar


def toy_row(constant):
    module = module_of(config())
    module.model = Toy(constant)
    random = torch.Generator().manual_seed(3)
    values = 3 * torch.randn(12, 4, generator=random)
    image = values[:, :, None, None, None].expand(-1, -1, 8, 8, 8).clone() + 0.1
    batch = {"image": image, "seg": torch.zeros(12, 1, 8, 8, 8), "patient": [str(k) for k in range(12)]}
    return diagnose(module, [batch], [1.0] * 3, seed=0)


def test_G42_a_constant_encoder_is_collapsed_with_its_readings():
    row = toy_row(constant=True)
    found = verdict(row, 4, floor=0.4)
    assert found.state == "collapsed" and found.failing == ("au_count", "kl_raw", "bypass_ratio")
    assert [text.split(":")[0] for text in found.reading] == [
        "the decoder ignores z",
        "the encoder gives near-constant means",
        "the encoder has collapsed to the prior",
    ]
    assert "exp2_recipe3_free_bits" in found.recipe


def test_G42_an_identity_is_healthy():
    row = toy_row(constant=False)
    found = verdict(row, 4)
    assert (found.state, found.failing, found.reading) == ("healthy", (), ())
    assert row["recon_mu_mse"] < 1e-10 and row["recon_z0_mse"] > 1 and row["recon_delta_mu_vs_sampled"] > 0


@pytest.mark.parametrize(
    "changed, state",
    [
        ({}, "healthy"),
        ({"au_count": 10}, "suspect"),  # 8 % of 128 is 10.24
        ({"kl_raw": 10.0}, "suspect"),
        ({"bypass_ratio": 0.19}, "suspect"),
        ({"bypass_ratio": 0.04}, "collapsed"),
        ({"kl_raw": 1.9}, "collapsed"),
        ({"au_count": 0}, "collapsed"),
        ({"bypass_ratio": float("nan")}, "suspect"),
    ],
)
def test_G42_a_verdict_needs_active_units_bypass_and_kl(changed, state):
    assert verdict(HEALTHY | changed, 128).state == state


def test_G42_the_kl_must_exceed_the_free_bits_floor():
    found = verdict(HEALTHY, 128, floor=25.6)
    assert (found.state, found.failing) == ("suspect", ("kl_raw",))
    assert "collapsed to the prior" in found.reading[0]


def test_G43_volume_and_centroid_are_those_of_the_segmentation():
    seg = torch.zeros(2, 1, 8, 8, 8)
    seg[0, 0, 2:4, 0:4, 6] = 3
    seg[0, 0, 2, 0, 6] = 2  # oedema is part of the tumour, not of the mass
    found = volume_and_centroid(seg, [2.0, 1.0, 1.0])
    assert found[0].tolist() == pytest.approx([torch.log1p(torch.tensor(14.0)).item(), 3 / 8, 2 / 8, 6.5 / 8])
    assert found[1].isnan().all()


def test_G43_probes_find_a_planted_volume():
    random = torch.Generator().manual_seed(1)
    mu = torch.randn(80, 6, generator=random)
    targets = torch.stack([mu[:, 0], *torch.randn(3, 80, generator=random)], 1)
    targets[7] = torch.nan
    volume, centroid = probe(mu[:50].numpy(), targets[:50].numpy(), mu[50:].numpy(), targets[50:].numpy())
    assert volume > 0.95 and centroid < 0.3
    patients = [str(k // 2) for k in range(80)]
    assert cross_probe(mu.numpy(), targets.numpy(), patients)[0] > 0.8
