"""Loss of local contrast, and training of the decoder alone."""

import pytest
import torch

from neuromf.core import seeds
from neuromf.training import trainer
from neuromf.vae import maisi, train
from neuromf.vae.sharpness import FLOOR, contrast_loss, details, local_contrast
from neuromf.vae.weights import build_autoencoder

SETTINGS = {"steps": 2, "batch": 1, "lr": 1e-2, "seed": 0, "kl_weight": 0.0, "log_every": 2}


def noise(*shape, key="noise"):
    return torch.rand(shape, generator=seeds.generator("test", key), dtype=torch.float64)


def test_a_plane_has_no_details_and_a_checkerboard_has_all():
    i, j, k = torch.meshgrid(*[torch.arange(16.0, dtype=torch.float64)] * 3, indexing="ij")
    plane, checkerboard = (x[None, None] for x in (i + 2 * j - k, (-1) ** (i + j + k)))
    inside = (..., slice(1, -1), slice(1, -1), slice(1, -1))
    assert details(plane)[inside].abs().max() < 1e-12
    assert torch.allclose(details(checkerboard)[inside], (1 + 1 / 27) * checkerboard[inside])


def test_contrast_is_the_root_mean_square_of_details_above_a_floor():
    volume = noise(1, 1, 16, 16, 16)
    first = details(volume)[..., :8, :8, :8].square().mean()
    assert local_contrast(volume)[0, 0, 0, 0, 0] == pytest.approx(float((first + FLOOR).sqrt()), rel=1e-12)
    assert local_contrast(volume).shape == (1, 1, 3, 3, 3)


def test_the_loss_is_zero_for_equal_contrast_and_grows_as_details_fade():
    volume = noise(2, 1, 16, 16, 16)
    assert contrast_loss(volume, volume) == 0 and contrast_loss(volume, volume + 0.3) < 1e-6
    faded = [volume - fraction * details(volume) for fraction in (0.2, 0.5, 0.9)]
    losses = [float(contrast_loss(volume, x)) for x in faded]
    assert 0 < losses[0] < losses[1] < losses[2]


def test_training_the_decoder_leaves_latents_as_they_are(tmp_path):
    volumes = noise(2, 1, 16, 16, 16).float()
    vae = build_autoencoder(maisi.COMPACT, None, seed=0)
    before, reconstruction = vae.encode(volumes), vae.reconstruct(volumes)
    module = train.AutoencoderModule(vae, volumes, trained="decoder", contrast_weight=1.0, **SETTINGS)
    trainer.fit(module, checkpoint=tmp_path / "ckpt" / "vae.ckpt")
    vae.eval().requires_grad_(False)
    assert all(torch.equal(x, y) for x, y in zip(before, vae.encode(volumes), strict=True))
    assert (vae.reconstruct(volumes) - reconstruction).abs().max() > 1e-4
    assert module.history[-1]["contrast"] > 0
