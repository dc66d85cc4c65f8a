"""From seeds to volumes: the same sample in any batch, the same run after its file, true NIfTI at the end."""

import nibabel as nib
import numpy as np
import pytest
import torch

from neuromf import cohort, flow, generate, seeds, vae
from neuromf.gaussian import GaussianFlow

NET = {"widths": [8, 16], "res_blocks": 1, "attention": [False, True], "head_width": 8, "norm_groups": 4, "patch": 1}
SHAPE = (4, 4, 4, 4)
STATS = {"mean": [1.0, -2.0, 0.0, 5.0], "std": [0.5, 1.0, 3.0, 2.0], "shape": list(SHAPE)}
SPREAD, CENTRE = (torch.tensor(STATS[name]).view(1, 4, 1, 1, 1) for name in ("std", "mean"))


def awake(prediction="x", seed=0, **kind):
    """A network whose last layer is no longer zero, so that it moves what it is given."""
    u = generate.build(NET, prediction, seed=seed, **kind)
    torch.nn.init.normal_(u.net.out[2].conv.weight, std=0.2, generator=seeds.generator("test", seed))
    return u.requires_grad_(False).eval()


def still(z, t, r):
    return torch.zeros_like(z)


def to_zero(z, t, r):
    """The average velocity of data that is zero: u(z, t, r) = z / t."""
    return z / flow.like(t, z)


@pytest.fixture(scope="module")
def decoder():
    return vae.initial(vae.COMPACT, None, seed=0)


@pytest.fixture
def stored(tmp_path):
    """A run on disk, with its averaged and its online network and its early samples."""
    base, early = GaussianFlow.fitted(seeds.noise(8, list(range(6)), SHAPE), 3), seeds.noise(9, [0, 1, 2], SHAPE)
    nets = {kind: awake(seed=k, base=base, head=True) for k, kind in enumerate(("ema", "online", "ema-500"))}
    generate.save_run(tmp_path / "model.pt", nets, early=early, net=NET, stats=STATS)
    return tmp_path / "model.pt", nets, early


# --- noise and latents -------------------------------------------------------------------------------


def test_sample_k_of_a_seed_has_the_same_noise_in_any_company():
    whole = seeds.noise(7, [0, 1, 2, 3], SHAPE)
    assert torch.equal(seeds.noise(7, [2], SHAPE)[0], whole[2])
    assert torch.equal(seeds.noise(7, [3, 1], SHAPE), whole[[3, 1]])
    assert not torch.equal(seeds.noise(8, [2], SHAPE)[0], whole[2])
    assert len({float(one.sum()) for one in whole}) == 4


@pytest.mark.parametrize("batch", [1, 3, 5, 16])
def test_without_movement_latents_are_their_noise_bit_by_bit_whatever_the_batch(batch):
    got = generate.draw_latents(generate.Run(still, STATS, SHAPE), n=5, steps=1, seed=7, batch=batch)
    assert torch.equal(got, seeds.noise(7, list(range(5)), SHAPE) * SPREAD + CENTRE)


@pytest.mark.parametrize("steps", [1, 4])
def test_latents_are_denormalised(steps):
    """Data that is zero once normalised is the mean of each channel."""
    got = generate.draw_latents(generate.Run(to_zero, STATS, SHAPE), n=3, steps=steps, seed=0, batch=2)
    torch.testing.assert_close(got, CENTRE.expand(3, *SHAPE), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("prediction", "steps"), [("x", 1), ("u", 1), ("x", 3)])
def test_a_sample_is_the_same_whatever_the_batch(prediction, steps):
    run = generate.Run(awake(prediction), STATS, SHAPE)
    whole = generate.draw_latents(run, n=5, steps=steps, seed=3, batch=5)
    assert whole.shape == (5, *SHAPE) and whole.isfinite().all()
    for batch in (1, 2):
        got = generate.draw_latents(run, n=5, steps=steps, seed=3, batch=batch)
        torch.testing.assert_close(got, whole, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(generate.draw_latents(run, n=2, steps=steps, seed=3), whole[:2], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(generate.draw_latents(run, n=5, steps=steps, seed=4), whole)


# --- a run on disk -----------------------------------------------------------------------------------


def test_fresh_weights_follow_from_their_seed_and_leave_the_global_one_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, again, other = (generate.build(NET, "x", seed=seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_a_run_comes_back_from_its_file_with_the_same_output(stored):
    path, nets, _ = stored
    z, t, r = seeds.noise(0, [0, 1], SHAPE), torch.tensor([1.0, 0.6]), torch.tensor([0.0, 0.3])
    for kind, net in nets.items():
        run = generate.load_run(path, kind)
        assert torch.equal(run.u.outputs(z, t, r), net.outputs(z, t, r))
        assert (run.stats, run.shape, run.u.prediction) == (STATS, SHAPE, "x")
        assert not run.u.training and not any(p.requires_grad for p in run.u.parameters())
    assert torch.equal(generate.load_run(path).u(z, t, r), nets["ema"](z, t, r))
    assert not torch.allclose(nets["ema"](z, t, r), nets["online"](z, t, r))


def test_others_are_one_step_of_other_weights_the_base_alone_and_what_the_run_drew_early(stored):
    path, nets, early = stored
    got = generate.others(path, n=2, seed=4)
    assert got.keys() == {"online", "ema-500", "early", "base"}
    for kind in ("online", "ema-500"):
        expected = generate.draw_latents(generate.Run(nets[kind], STATS, SHAPE), n=2, steps=1, seed=4)
        torch.testing.assert_close(got[kind], expected)
    torch.testing.assert_close(got["early"], early * SPREAD + CENTRE)
    one_step = nets["ema"].base(seeds.noise(4, [0, 1], SHAPE), torch.ones(2), torch.zeros(2))
    torch.testing.assert_close(got["base"], one_step * SPREAD + CENTRE)


def test_others_are_drawn_by_the_sampler_of_the_run(stored):
    path, nets, _ = stored
    expected = generate.draw_latents(generate.Run(nets["online"], STATS, SHAPE), n=2, steps=1, seed=4, sampler="euler")
    torch.testing.assert_close(generate.others(path, n=2, seed=4, sampler="euler")["online"], expected)


def test_a_run_of_velocity_prediction_has_no_base(tmp_path):
    nets = {"ema": awake("u"), "online": awake("u", 1)}
    generate.save_run(tmp_path / "model.pt", nets, early=seeds.noise(9, [0], SHAPE), net=NET, stats=STATS)
    assert generate.others(tmp_path / "model.pt", n=2).keys() == {"online", "early"}


# --- volumes on disk ---------------------------------------------------------------------------------


def test_volumes_are_nifti_in_ras_with_their_spacing_around_the_origin(decoder, tmp_path):
    latent = 3 * seeds.noise(0, [0, 1, 2], (4, 3, 4, 5))
    generate.write_volumes(decoder, latent, tmp_path, spacing_mm=2.5, seed=11)
    decoded = decoder.decode(latent)[:, 0].clamp(0, 1).numpy()
    for number, expected in enumerate(decoded):
        image = nib.load(tmp_path / f"{number:05d}.nii.gz")
        assert image.shape == (12, 16, 20) and nib.aff2axcodes(image.affine) == ("R", "A", "S")
        np.testing.assert_allclose(image.header.get_zooms(), 2.5)
        np.testing.assert_allclose(nib.affines.apply_affine(image.affine, (5.5, 7.5, 9.5)), 0, atol=1e-5)
        volume = image.get_fdata()
        assert volume.min() >= 0 and volume.max() <= 1 and np.ptp(volume) > 0.1
        np.testing.assert_allclose(volume, expected, atol=1e-4)


def test_the_table_of_samples_names_each_file_and_its_seed(decoder, tmp_path):
    generate.write_volumes(decoder, seeds.noise(0, [0, 1], (4, 2, 2, 2)), tmp_path, spacing_mm=1.0, seed=11)
    table = cohort.read_table(tmp_path / "samples.tsv")
    assert table.to_dict("list") == {
        "number": ["0", "1"],
        "seed": ["11", "11"],
        "file": [str(tmp_path / f"{number:05d}.nii.gz") for number in range(2)],
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000.nii.gz", "00001.nii.gz", "samples.tsv"]


@pytest.mark.parametrize(("sampler", "n_steps", "steps"), [("mean", 4, 4), ("euler", 4, 4), ("heun", 2, 4)])
def test_latents_are_drawn_by_the_sampler_that_is_named(sampler, n_steps, steps):
    run = generate.Run(awake("u"), STATS, SHAPE)
    solve = {"mean": flow.sample, "euler": flow.euler, "heun": flow.heun}[sampler]
    wanted = solve(run.u, seeds.noise(3, [0, 1], SHAPE), flow.uniform_times(n_steps)) * SPREAD + CENTRE
    torch.testing.assert_close(generate.draw_latents(run, n=2, steps=steps, seed=3, sampler=sampler), wanted)


def test_heun_needs_two_evaluations_an_interval():
    with pytest.raises(ValueError, match="heun takes 2 evaluations an interval; 3 cannot be shared out"):
        generate.draw_latents(generate.Run(still, STATS, SHAPE), n=2, steps=3, seed=0, sampler="heun")
