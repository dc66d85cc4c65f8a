"""The frozen autoencoder as encoder of four modalities."""

import torch

from neuromf.growth.frozen_encoder import FrozenEncoder
from neuromf.vae.weights import PACKAGED, load


def test_G84_four_modalities_become_a_vector_of_principal_components_without_training():
    x = torch.randn(10, 4, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    vae = load(PACKAGED)
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    encoder = FrozenEncoder(vae, 6).fit([{"image": x[:5]}, {"image": x[5:]}])
    mu, logvar = encoder.encode(x)
    assert mu.shape == logvar.shape == (10, 6) and not mu.requires_grad
    assert not any(p.requires_grad for p in encoder.parameters())
    assert all(torch.equal(value, before[name]) for name, value in vae.state_dict().items())
    cov = torch.cov(mu.T)
    assert (cov - torch.diag(cov.diagonal())).abs().max() < 1e-4 * cov.diagonal().max()
    assert (cov.diagonal().diff() <= 1e-6).all() and mu.mean(0).abs().max() < 1e-4
    for channel in range(4):
        changed = x.clone()
        changed[:, channel, :4] += 3
        assert not torch.allclose(encoder.encode(changed)[0], mu)
    torch.testing.assert_close(encoder.encode(2 * x + 1)[0], mu, rtol=1e-3, atol=1e-3)  # intensities are scaled
