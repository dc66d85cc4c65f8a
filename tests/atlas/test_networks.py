"""Layers and networks of the volume model: receptive field, FiLM, gradient reversal, shapes, backbones."""

import pytest
import torch
from torch import nn

from neuromf.atlas.volume_vae import MIN_FIELD_MM, ConditionalEncoder, VolumeVAE
from neuromf.data.brain_grid import brain_grid
from neuromf.nn.decoders import upsampling_stage
from neuromf.nn.fast_upsampling import ResizeStage, trilinear
from neuromf.nn.film import FiLM
from neuromf.nn.gradient_reversal import reverse_gradient
from neuromf.nn.receptive_field import gradient_footprint, main_path, receptive_field
from neuromf.nn.resnet3d import resnet10_blocks

PARAMETERS = {"resnet10": 967_433, "densenet": 925_009}  # of docs/atlas_model.md


def random_generator(seed=0):
    return torch.Generator().manual_seed(seed)


def model_of(grid, **settings):
    torch.manual_seed(0)
    mean = torch.full((grid.n_voxels,), 0.05)
    return VolumeVAE(torch.from_numpy(grid.mask), float(grid.spacing_mm[0]), mean, **settings)


def conv(kernel, stride=1, dilation=1):
    return nn.Conv3d(1, 1, kernel, stride, padding=dilation * (kernel // 2), dilation=dilation)


@pytest.mark.parametrize(
    ("layers", "field"),
    [
        ([(3, 1, 1)], 3),
        ([(3, 2, 1), (3, 1, 1)], 7),  # 1 + 2 + 2 x 2
        ([(7, 2, 1), (3, 2, 1), (3, 1, 2), (3, 1, 4)], 59),  # 1 + 6 + 4 + 16 + 32
    ],
)
def test_A16_the_receptive_field_has_its_closed_form_and_the_footprint_agrees(layers, field):
    chain = nn.Sequential(*(conv(*layer) for layer in layers))
    assert receptive_field(main_path(chain)) == field
    assert gradient_footprint(chain, (96, 16, 16))[0] == field


def test_A16_the_footprint_of_the_encoder_is_its_analytic_field():
    torch.manual_seed(0)
    stem = nn.Sequential(nn.Conv3d(1, 4, 3, 2, padding=1), nn.GroupNorm(1, 4), nn.ReLU())
    chain = nn.Sequential(stem, *resnet10_blocks(4, 4)[0])
    assert receptive_field(main_path(chain)) == 207  # 3 + 8 + 4 + 8 + 8 + 16 + 32 + 128
    assert gradient_footprint(chain, (448, 4, 4))[0] == 207


@pytest.mark.parametrize("backbone", PARAMETERS)
@pytest.mark.parametrize(("shape", "spacing_mm"), [((32, 40, 32), 6.0), ((91, 109, 91), 2.0)])
def test_A16_every_encoder_sees_more_than_150_mm(backbone, shape, spacing_mm):
    encoder = ConditionalEncoder(shape, spacing_mm, 4, None, backbone=backbone, width=4)
    assert encoder.field_mm > MIN_FIELD_MM


def test_A16_a_small_receptive_field_is_refused():
    with pytest.raises(ValueError, match="must exceed 150 mm: raise atlas.depth"):
        ConditionalEncoder((91, 109, 91), 2.0, 4, None, width=4, depth=2)


@pytest.mark.parametrize("grid", ["6mm", "2mm"])
def test_A15_shapes_on_both_grids_without_batch_normalisation(grid):
    grid = brain_grid(grid)
    model = model_of(grid, width=4, decoder_width=4, n_metadata=3, decoder_depth=3).eval()
    with torch.no_grad():
        mu, logvar = model.encode(torch.rand(1, 1, *grid.shape))
        out = model.decode(mu)
    assert mu.shape == logvar.shape == (1, 32) and out.shape == (1, 1, *grid.shape)
    assert not any(isinstance(module, nn.BatchNorm3d) for module in model.modules())
    assert (out[0, 0].numpy()[~grid.mask] == 0).all() and (out[0, 0].numpy()[grid.mask] != 0).all()


def test_A15_group_normalisation_has_8_groups_at_the_width_of_the_paper():
    norms = [module for block in resnet10_blocks(32, 4)[0] for module in block.modules()
             if isinstance(module, nn.GroupNorm)]  # fmt: skip
    assert norms and all(norm.num_groups == 8 for norm in norms)


@pytest.mark.parametrize("backbone", PARAMETERS)
def test_A17_both_backbones_step_and_have_the_documented_size(backbone):
    model = model_of(brain_grid("6mm"), backbone=backbone)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[backbone]
    before = [p.clone() for p in model.encoder.parameters()]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    mu, logvar = model.encode(torch.rand(1, 1, 32, 40, 32))
    (mu.square().sum() + logvar.square().sum()).backward()
    optimizer.step()
    assert any(not torch.equal(old, new) for old, new in zip(before, model.encoder.parameters(), strict=True))


def test_A40_the_gauss_decoder_has_two_bounded_channels():
    grid = brain_grid("6mm")
    out = model_of(grid, recon="gauss").decode(torch.randn(2, 32))
    assert out.shape == (2, 2, *grid.shape)
    assert out[:, 1].min() >= -10 and out[:, 1].max() <= 3


def test_fast_upsampling_equals_the_layers_of_torch_in_values_and_gradients():
    torch.manual_seed(0)
    stage, reference = ResizeStage(4, 8), upsampling_stage(4, 8, "resize_conv")
    reference.load_state_dict(stage.state_dict())
    x = torch.randn(2, 4, 3, 5, 4)
    pairs = ((stage, reference), (trilinear, nn.Upsample(scale_factor=2, mode="trilinear")))
    for fast, slow in pairs:
        found = []
        for layer in (fast, slow):
            inputs = x.clone().requires_grad_()
            out = layer(inputs)
            out.square().sum().backward()
            found.append((out, inputs.grad))
        for a, b in zip(*found, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_one_row_of_metadata_and_observed_foci_holds_for_all_latents():
    grid = brain_grid("6mm")
    densities = {"global": torch.rand(grid.n_voxels), "topics": torch.rand(2, grid.n_voxels),
                 "count_weights": torch.rand(3), "count_bias": torch.tensor(1.0)}  # fmt: skip
    model = model_of(grid, n_metadata=3, recon="poisson", densities=densities, topic_columns=(1, 3)).eval()
    nn.init.normal_(model.residual.basis, std=0.1)
    nn.init.normal_(model.decoder.last.weight, std=0.1)
    z, m, own = torch.randn(4, 32), torch.rand(1, 3), torch.rand(1, grid.n_voxels)
    with torch.no_grad():
        one = model.decode(z, m, None, own)
        many = model.decode(z, m.expand(4, -1), None, own.expand(4, -1))
    torch.testing.assert_close(one, many)
    assert not torch.allclose(one[0], one[1])


# --- conditioning ----------------------------------------------------------------------------------------


def test_A23_film_is_the_identity_at_first_and_passes_a_gradient_to_m():
    torch.manual_seed(0)
    film, h, c = FiLM(5, 6), torch.randn(2, 6, 3, 4, 5), torch.randn(2, 5, requires_grad=True)
    assert torch.equal(film(h, c), h)
    nn.init.normal_(film.layers[-1].weight)
    out = film(h, c)
    out.square().sum().backward()
    assert out.shape == h.shape and c.grad.abs().min() > 0
    scale, shift = film.layers(c).chunk(2, dim=1)
    assert torch.allclose(out[0, 2], (1 + scale[0, 2]) * h[0, 2] + shift[0, 2])


def test_A23_metadata_reach_encoder_and_decoder_and_missing_entries_do_not():
    model = model_of(brain_grid("6mm"), n_metadata=3)
    for film in [*model.encoder.films, *model.decoder.films]:
        nn.init.normal_(film.layers[-1].weight, std=0.1, generator=random_generator())
    nn.init.normal_(model.decoder.last.weight, generator=random_generator())
    m = torch.zeros(1, 3, requires_grad=True)
    mu, _ = model.encode(torch.rand(1, 1, 32, 40, 32, generator=random_generator()), m)
    assert torch.autograd.grad(mu.sum(), m, retain_graph=True)[0].abs().min() > 0
    assert torch.autograd.grad(model.decode(torch.ones(1, 32), m).sum(), m)[0].abs().min() > 0
    some, other = torch.tensor([[1.0, torch.nan, 2.0]]), torch.tensor([[1.0, 7.0, 2.0]])
    observed = torch.tensor([[True, False, True]])
    with torch.no_grad():
        assert torch.equal(model.decode(torch.ones(1, 32), some), model.decode(torch.ones(1, 32), other, observed))
        assert not torch.equal(model.decode(torch.ones(1, 32), some), model.decode(torch.ones(1, 32), other))


def test_A25_gradient_reversal_is_the_identity_with_a_reversed_scaled_gradient():
    x = torch.tensor([1.0, -2.0], requires_grad=True)
    y = reverse_gradient(x, 0.3)
    assert torch.equal(y, x)
    (y * torch.tensor([5.0, 7.0])).sum().backward()
    assert x.grad.tolist() == pytest.approx([-1.5, -2.1])
