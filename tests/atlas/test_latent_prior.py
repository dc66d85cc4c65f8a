"""One-step prior of latents: closed form for a Gaussian, mixture, file, comparison with N(0, I), script."""

import json

import numpy as np
import pytest
import torch
from atlas.evaluation_helpers import LinearAtlas

from neuromf.atlas import latent_prior, prior_evaluation
from neuromf.atlas.rates import prior_rates
from neuromf.data.brain_grid import brain_grid

SMALL = {"width": 16, "depth": 1, "batch": 64, "halflife_steps": 5}


def gaussian(d=4, n=500, seed=0):
    """Samples of a correlated Gaussian and its closed-form map from noise to data, mean + C^(1/2) eps."""
    random = torch.Generator().manual_seed(seed)
    root = 0.6 * torch.randn(d, d, generator=random) + 0.5 * torch.eye(d)
    x = torch.randn(d, generator=random) + torch.randn(n, d, generator=random) @ root.T
    mean, covariance = x.mean(0), torch.cov(x.T, correction=0)
    values, vectors = torch.linalg.eigh(covariance.double())
    square_root = ((vectors * values.sqrt()) @ vectors.T).float()
    return x, lambda noise: mean + noise @ square_root


def sharp(x):
    """Log-variances of posteriors that are points."""
    return torch.full_like(x, -30.0)


@pytest.mark.informational
def test_A71_the_prior_of_gaussian_latents_starts_at_the_closed_form():
    x, exact = gaussian()
    u = latent_prior.new_velocity(x, width=8, depth=1, seed=0)
    prior, noise = latent_prior.LatentPrior(u, {}, {}), torch.randn(50, 4, generator=torch.Generator().manual_seed(1))
    for nfe in (1, 3):
        torch.testing.assert_close(prior(noise, nfe), exact(noise), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(prior.gaussian(noise), exact(noise), rtol=1e-3, atol=1e-3)
    assert (exact(noise) - noise).abs().max() > 0.5


@pytest.mark.informational
def test_A71_paths_of_a_gaussian_end_at_the_samples_and_the_map_is_monotone():
    x, _ = gaussian()
    prior = latent_prior.LatentPrior(latent_prior.new_velocity(x, width=8, depth=1, seed=0), {}, {})
    noise = torch.randn(30, 4, generator=torch.Generator().manual_seed(1))
    path = prior.path(noise, 8)
    torch.testing.assert_close(path[0], noise)
    torch.testing.assert_close(path[-1], prior(noise), rtol=1e-3, atol=1e-3)
    found = prior_evaluation.flow_table(prior, dict.fromkeys(("test", "val"), (x, sharp(x))), np.arange(4), 0)
    assert found["monotone_fraction"] == 1 and found["frechet"]["nfe_1"] < 0.1 < found["frechet"]["normal"]
    assert abs(found["frechet"]["nfe_1"] - found["frechet"]["nfe_4"]) < 1e-3

    class Folded:
        z_dim = 4

        def __call__(self, noise):
            return noise.abs()

    assert 0.3 < prior_evaluation.monotone_fraction(Folded()) < 0.8


@pytest.mark.informational
def test_A71_training_keeps_the_gaussian_and_draws_equal_seeds_equally(tmp_path):
    x, exact = gaussian()
    runs = [latent_prior.train_prior(x, sharp(x), n_steps=12, seed=3, card={"scale": "mock"}, **SMALL) for _ in "ab"]
    noise = torch.randn(200, 4, generator=torch.Generator().manual_seed(1))
    assert torch.equal(runs[0][0](noise), runs[1][0](noise))
    assert (runs[0][0](noise) - exact(noise)).square().mean().sqrt() < 0.1 * x.std()
    prior, history = runs[0]
    assert list(history.columns[:2]) == ["step", "epoch"] and history["step"].iloc[-1] == 12
    prior.save(tmp_path / "prior")
    again = latent_prior.load_prior(tmp_path / "prior")
    assert torch.equal(again(noise), prior(noise)) and again.card == {"scale": "mock", "seed": 3}


@pytest.mark.informational
def test_A71_a_wide_posterior_is_part_of_the_latents():
    x, _ = gaussian()
    z, _, _, _ = latent_prior.draw_batch(0 * x, torch.zeros_like(x), 4000, 0, 0)
    assert abs(float(z.std()) - 1) < 0.03


@pytest.mark.informational
def test_A71_latents_and_losses_that_are_not_finite_stop_the_training():
    x, _ = gaussian(n=100)
    with pytest.raises(FloatingPointError, match=r"at step 1: lower atlas.prior.lr"):
        latent_prior.train_prior(x, sharp(x), n_steps=2, lr=1e38, **SMALL)
    x[3, 1] = float("nan")
    with pytest.raises(ValueError, match=r"latents of rows \[3\] are not finite"):
        latent_prior.train_prior(x, sharp(x), n_steps=1, **SMALL)


@pytest.mark.slow
@pytest.mark.informational
def test_A71_one_step_samples_have_both_modes_that_a_gaussian_lacks():
    random = torch.Generator().manual_seed(0)
    sign = torch.where(torch.rand(4000, generator=random) < 0.4, -2.0, 2.0)
    x = torch.stack([sign, torch.zeros(4000)], 1) + 0.3 * torch.randn(4000, 2, generator=random)
    prior, _ = latent_prior.train_prior(x, sharp(x), n_steps=800, batch=256, width=64, depth=2, lr=4e-3)
    first = prior(torch.randn(4000, 2, generator=random))[:, 0]
    assert (first.abs() < 1).float().mean() < 0.1  # a Gaussian has .38 there
    assert abs(float((first < 0).float().mean()) - 0.4) < 0.1


@pytest.fixture(scope="module")
def compared(mock_studies):
    """A model whose latents are shifted by 3 against N(0, I), with the exact Gaussian prior of its latents."""
    grid = brain_grid("6mm")
    atlas = Shifted(LinearAtlas(mock_studies, grid, z_dim=3))
    train = mock_studies.take(mock_studies.rows("train"))
    maps = prior_evaluation.kernel_maps(train, grid, 12.0, dtype=np.float32)
    mu, logvar = prior_evaluation.encoded(atlas, grid, maps, prior_evaluation.metadata_of(atlas, train))
    drawn = prior_evaluation.samples((mu, logvar), 0)
    prior = latent_prior.LatentPrior(latent_prior.new_velocity(drawn, width=8, depth=1, seed=0), {}, {})
    return (
        atlas,
        prior,
        prior_evaluation.compare_priors(atlas, prior, mock_studies, grid, n_z=2, n_studies=8, n_generated=100),
    )


class Shifted:
    """A linear model in latents z + 3: N(0, I) is far from its aggregated posterior."""

    def __init__(self, atlas):
        self.atlas, self.schema, self.z_dim = atlas, atlas.schema, atlas.z_dim

    def decode(self, z, m=None, own=None):
        return self.atlas.decode(z - 3, m)

    def encode(self, maps, m=None):
        mu, logvar = self.atlas.encode(maps, m)
        return mu + 3, logvar


@pytest.mark.informational
def test_A71_overlap_and_bits_prefer_the_prior_of_the_latents(compared):
    _, _, found = compared
    latents = found["latents"]
    assert latents["one_step"]["coverage"]["value"] > latents["normal"]["coverage"]["value"]
    assert latents["difference"]["precision"]["low"] > 0
    value = latents["one_step"]["precision"]["value"] - latents["normal"]["precision"]["value"]
    assert latents["difference"]["precision"]["value"] == pytest.approx(value)
    assert latents["network"]["precision"]["value"] == 0  # this prior is the Gaussian itself
    bits = found["bits"]
    assert bits["normal"]["low"] <= bits["normal"]["value"] <= bits["normal"]["high"]
    weights = bits["one_step"]["value"] - bits["normal"]["value"]
    assert bits["difference"]["value"] == pytest.approx(weights)
    assert found["maps"]["n"] == found["latents"]["n"] == 14 and found["active"] == [0, 1, 2]


@pytest.mark.informational
def test_A71_both_priors_decode_the_same_noise(compared, mock_studies):
    atlas, _, _ = compared
    some, grid = mock_studies.take(np.arange(2)), brain_grid("6mm")
    same = [prior_rates(atlas, grid, some, 2, 0, prior) for prior in (None, lambda noise: noise)]
    assert np.array_equal(*same)
    assert not np.array_equal(same[0], prior_rates(atlas, grid, some, 2, 0, lambda noise: noise + 1))


@pytest.mark.informational
def test_A71_the_figure_has_its_panels_and_facts(compared, tmp_path):
    from neuromf.figures import atlas_prior

    _, _, found = compared
    result = {"scale": "mock", "statement": "Mock data", "seed": 0, **found}
    (tmp_path / "prior.json").write_text(json.dumps(result))
    atlas_prior.render(result=tmp_path / "prior.json", out=tmp_path / "fig_8")
    assert (tmp_path / "fig_8.png").stat().st_size > 30_000
    assert json.loads((tmp_path / "fig_8.json").read_text())["bits"] == result["bits"]
