"""The embedded cohort against analytical deformations and against published ranges of anatomy."""

import dataclasses
import typing

import nibabel as nib
import numpy as np
import pytest
import torch

from neuromf.config import cohort
from neuromf.core import seeds
from neuromf.data.participants import read_table
from neuromf.simulation import brains
from neuromf.simulation.brains import GRID_MM, Variation

SCANNER = {"shape": (32, 32, 24), "spacing_mm": (7.5, 7.5, 7.5)}
NUMBERS = range(4)
NONE = Variation(head_mm=0, lobes_mm=0, gyri_mm=0, folds_mm=0, rotation_deg=0, bias_field=0, noise=0)


def smooth(amount, shape=(9, 10, 11), key="velocity"):
    """A velocity field (1, 3, I, J, K) in voxels, zero at the border, float32."""
    field = brains.smooth_noise((3, *shape), 8.0, seeds.generator("test", key))
    rim = np.ones(shape)
    for axis, n in enumerate(shape):
        rim = rim * np.expand_dims(np.sin(np.pi * np.arange(n) / (n - 1)), [a for a in range(3) if a != axis])
    return torch.from_numpy(amount * field * rim).float()[None]


def linear(matrix, shape=(7, 8, 9)):
    """The field x -> matrix x around the middle voxel, with shape (1, 3, I, J, K)."""
    x = torch.stack(torch.meshgrid(*(torch.arange(n) - (n - 1) / 2 for n in shape), indexing="ij"))
    return torch.einsum("ab,bijk->aijk", torch.as_tensor(matrix, dtype=torch.float32), x)[None]


def interior(field, rim=2):
    return field[..., rim:-rim, rim:-rim, rim:-rim]


def simulate(number, seed=0, variation=None, **scanner):
    return brains.simulate_scan(number, seed=seed, variation=variation or Variation(), **{**SCANNER, **scanner})


@pytest.fixture(scope="module")
def scans():
    return [simulate(number) for number in NUMBERS]


def message(error):
    return str(error.value)


# --- deformation -------------------------------------------------------------------------------------


def test_zero_velocity_is_the_identity():
    zero = torch.zeros(1, 3, 5, 6, 7)
    displacement, smallest = brains.diffeomorphism(zero)
    assert torch.equal(displacement, zero) and smallest == 1
    assert torch.equal(brains.jacobian(zero), torch.ones(5, 6, 7))


@pytest.mark.parametrize("scale", [(1.2, 0.9, 1.1), (0.5, 1.0, 2.0)])
def test_jacobian_of_a_scaling_is_the_product_of_its_factors(scale):
    got = brains.jacobian(linear(np.diag(scale) - np.eye(3)))
    torch.testing.assert_close(got, torch.full_like(got, float(np.prod(scale))))


def test_jacobian_is_the_determinant_of_a_linear_map_and_negative_under_folding():
    matrix = np.array([[1.1, 0.3, 0.0], [-0.2, 0.9, 0.1], [0.05, 0.0, 1.3]])
    got = brains.jacobian(linear(matrix - np.eye(3)))
    torch.testing.assert_close(got, torch.full_like(got, float(np.linalg.det(matrix))))
    assert (brains.jacobian(linear(np.diag([-2.0, 0, 0]))) < 0).all()


def test_exponential_of_a_constant_field_is_a_translation():
    velocity = torch.tensor([0.7, -1.3, 0.2]).view(1, 3, 1, 1, 1).expand(1, 3, 6, 7, 8)
    torch.testing.assert_close(brains.exponential(velocity), velocity)


@pytest.mark.parametrize("rate", [-0.4, 0.3])
def test_exponential_of_a_linear_field_squares_its_first_step(rate):
    """dx/dt = a x leads from x to exp(a) x, in 2^n steps to (1 + a / 2^n)^(2^n): the error halves with each n."""
    velocity = linear(rate * np.eye(3), (13, 13, 13))
    reached, exact = [], interior(linear(np.expm1(rate) * np.eye(3), (13, 13, 13)), 4)
    for n in (3, 4, 5):
        reached.append(interior(brains.exponential(velocity, n), 4))
        steps = linear(((1 + rate / 2**n) ** 2**n - 1) * np.eye(3), (13, 13, 13))
        torch.testing.assert_close(reached[-1], interior(steps, 4), rtol=0, atol=1e-5)
    errors = [float((got - exact).abs().max()) for got in reached]
    np.testing.assert_allclose(np.diff(np.log2(errors)), -1, atol=0.1)


def test_the_opposite_velocity_gives_the_inverse():
    velocity = smooth(0.5)
    forward, backward = brains.exponential(velocity), brains.exponential(-velocity)
    assert forward.abs().max() > 0.4
    assert brains.compose(forward, backward).abs().max() < 0.12 * forward.abs().max()  # error of interpolation


def test_composition_is_exact_for_linear_fields_and_not_commutative():
    first, second = np.diag([0.1, -0.2, 0.05]), np.array([[0, 0.1, 0], [0.05, 0, 0], [0, 0, -0.1]])
    expected = (np.eye(3) + second) @ (np.eye(3) + first) - np.eye(3)
    reversed_order = (np.eye(3) + first) @ (np.eye(3) + second) - np.eye(3)
    got = brains.compose(linear(first), linear(second))
    torch.testing.assert_close(interior(got), interior(linear(expected)), rtol=0, atol=1e-5)
    assert not torch.allclose(interior(got), interior(linear(reversed_order)), rtol=0, atol=1e-3)


def test_composition_with_the_identity_changes_nothing():
    field, zero = smooth(1.0), torch.zeros(1, 3, 9, 10, 11)
    torch.testing.assert_close(brains.compose(field, zero), field)
    torch.testing.assert_close(brains.compose(zero, field), field, rtol=0, atol=1e-5)


def test_a_folding_velocity_is_damped_until_its_jacobian_suffices():
    folding = smooth(4.0)
    assert brains.jacobian(brains.exponential(folding)).min() < 0.5
    displacement, smallest = brains.diffeomorphism(folding, smallest=0.5)
    assert smallest == float(brains.jacobian(displacement).min()) > 0.5
    with pytest.raises(ValueError) as error:
        brains.diffeomorphism(folding, smallest=1.5)
    assert message(error).startswith("no diffeomorphism found: the smallest Jacobian is ")
    assert message(error).endswith(", but must exceed 1.5")


def test_smooth_noise_has_unit_deviation_and_the_requested_smoothness():
    fields = [brains.smooth_noise((3, 24, 24, 24), mm, seeds.generator("test", "noise")) for mm in (4.0, 12.0)]
    for field in fields:
        assert field.std() == pytest.approx(1, abs=1e-5)
    neighbours = [float((field[:, 1:] * field[:, :-1]).mean() / (field**2).mean()) for field in fields]
    expected = [np.exp(-1 / (4 * (mm / GRID_MM) ** 2)) for mm in (4.0, 12.0)]
    np.testing.assert_allclose(neighbours, expected, atol=0.04)


# --- participants ------------------------------------------------------------------------------------


def test_a_participant_depends_on_seed_and_number_alone(scans):
    volume, affine, traits = simulate(1)
    assert np.array_equal(volume, scans[1][0]) and np.array_equal(affine, scans[1][1]) and traits == scans[1][2]


def test_other_numbers_and_seeds_give_other_participants(scans):
    volumes = [volume for volume, _, _ in scans] + [simulate(0, seed=1)[0]]
    for k, volume in enumerate(volumes):
        for other in volumes[:k]:
            assert np.abs(volume - other).mean() > 0.01
    assert len({traits["age"] for _, _, traits in scans}) == len(scans)


def test_global_random_seeds_have_no_effect(scans):
    torch.manual_seed(123)
    np.random.seed(123)
    assert np.array_equal(simulate(0)[0], scans[0][0])


def test_every_deformation_is_invertible(scans):
    for number, (_, _, traits) in zip(NUMBERS, scans, strict=True):
        displacement, smallest = brains.draw_deformation(number, 0, traits, Variation())
        determinant = brains.jacobian(displacement / GRID_MM)
        assert float(determinant.min()) == pytest.approx(smallest, abs=1e-4) and smallest > 0.1
        assert traits["smallest_jacobian"] == round(smallest, 4)


def test_participants_with_equal_traits_differ_in_shape():
    traits = brains.draw_traits(0, 0, Variation())
    first, again, other, reseeded = (
        brains.draw_deformation(*who, traits, Variation())[0] for who in ((0, 0), (0, 0), (1, 0), (0, 1))
    )
    assert torch.equal(first, again)
    assert (first - other).abs().mean() > 0.5 and (first - reseeded).abs().mean() > 0.5  # mm


def test_ages_fill_their_range_and_both_sexes_occur():
    participants = [brains.draw_traits(number, 0, Variation()) for number in range(300)]
    ages = np.array([traits["age"] for traits in participants])
    assert ages.min() > 20 and ages.max() < 86 and abs(ages.mean() - 53) < 3.5
    assert 0.35 < np.mean([traits["sex"] == "M" for traits in participants]) < 0.55


def test_age_increases_csf_and_reduces_grey_matter_and_men_are_larger():
    participants = [brains.draw_traits(number, 0, Variation()) for number in range(300)]
    old, young = ([traits for traits in participants if (traits["age"] > 60) is late] for late in (True, False))
    for name, sign in (("csf_bias", 1), ("ventricles_mm", 1), ("grey_bias", -1)):
        assert sign * (np.mean([f[name] for f in old]) - np.mean([f[name] for f in young])) > 0.2
    size = {sex: np.mean([f["scale_x"] for f in participants if f["sex"] == sex]) for sex in "MF"}
    assert size["M"] / size["F"] == pytest.approx(0.93 / 0.87, abs=0.02)


def test_without_variation_only_age_and_sex_differ():
    none = Variation(scale=0, rotation_deg=0, ventricles_mm=0, tissue_bias=0, contrast=0, age_years=(50, 50 + 1e-6))
    traits = brains.draw_traits(3, 0, none)
    size = 0.93 if traits.pop("sex") == "M" else 0.87
    assert traits == {
        "age": 50, "ventricles_mm": pytest.approx(0, abs=2), "grey_bias": pytest.approx(0, abs=0.36),
        "csf_bias": pytest.approx(0, abs=0.46), "csf_t1": 0.24, "grey_t1": 0.66,
        "scale_x": size, "scale_y": size, "scale_z": size,
        "rotation_x_deg": 0, "rotation_y_deg": 0, "rotation_z_deg": 0,
    }  # fmt: skip


def test_tissue_fractions_sum_to_the_brain_and_follow_their_bias():
    tissue = torch.tensor([[0.2, 0.5, 0.3], [0.0, 0.1, 0.5], [0.0, 0.0, 0.0]]).T.reshape(1, 3, 3, 1, 1)
    plain = brains.tissue_fractions(tissue, {"csf_bias": 0.0, "grey_bias": 0.0})
    torch.testing.assert_close(plain.sum(1), tissue.sum(1))
    torch.testing.assert_close(plain[0, :, 0, 0, 0], torch.tensor([0.04, 0.25, 0.09]) / 0.38)
    torch.testing.assert_close(
        brains.tissue_fractions(tissue, {"csf_bias": 0.0, "grey_bias": 0.0}, sharpness=1.0), tissue
    )
    thick = brains.tissue_fractions(tissue, {"csf_bias": 0.0, "grey_bias": float(np.log(2))})
    torch.testing.assert_close(thick[0, :, 0, 0, 0], torch.tensor([0.04, 0.5, 0.09]) / 0.63)
    wide = brains.tissue_fractions(tissue, {"csf_bias": float(np.log(2)), "grey_bias": 0.0})
    torch.testing.assert_close(wide[0, :, 0, 0, 0], torch.tensor([0.08, 0.25, 0.09]) / 0.42)


def csf_ml(ventricles_mm, step=4.0):
    """CSF volume in 40 x 80 x 50 mm around the ventricles of an otherwise average participant."""
    traits = brains.draw_traits(0, 0, NONE) | {"ventricles_mm": ventricles_mm, "csf_bias": 0.0, "grey_bias": 0.0}
    axes = [torch.arange(low, high, step) for low, high in ((-20.0, 20.0), (-60.0, 20.0), (-10.0, 40.0))]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    displacement, smallest = brains.draw_deformation(0, 0, traits, NONE)
    assert smallest > 0.1
    return float(brains.sample_anatomy(points, displacement, traits)[1][0].sum()) * step**3 / 1000


def test_an_outward_shift_of_the_ventricle_wall_increases_csf():
    small, average, large = (csf_ml(mm) for mm in (-2.5, 0.0, 2.5))
    assert 1.1 * small < average and 1.1 * average < large


def test_tissue_volumes_are_in_the_range_of_adults(scans):
    for _, _, traits in scans:
        assert 400 < traits["gm_ml"] < 1100 and 250 < traits["wm_ml"] < 800 and 20 < traits["csf_ml"] < 400


def test_tissue_volumes_do_not_depend_on_the_scanner(scans):
    finer = simulate(0, shape=(48, 48, 36), spacing_mm=(5.0, 5.0, 5.0))[2]
    for name in ("csf_ml", "gm_ml", "wm_ml"):
        assert finer[name] == pytest.approx(scans[0][2][name], rel=0.05)


# --- scanner -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("oblique_deg", [0.0, 8.0, -15.0])
def test_the_scanner_has_axes_psr_its_spacing_and_its_centre_at_zero(oblique_deg):
    shape, spacing = (12, 14, 9), (1.5, 2.0, 3.0)
    affine = brains.scanner_affine(shape, spacing, oblique_deg)
    assert nib.aff2axcodes(affine) == ("P", "S", "R")
    np.testing.assert_allclose(nib.affines.voxel_sizes(affine), spacing)
    np.testing.assert_allclose(nib.affines.apply_affine(affine, (np.array(shape) - 1) / 2), 0, atol=1e-9)
    assert np.degrees(nib.affines.obliquity(affine)).max() == pytest.approx(abs(oblique_deg))
    np.testing.assert_allclose(affine[0, :3], [0, 0, 3.0], atol=1e-12)  # the left-right axis is not rotated


def test_the_brain_is_centred_in_scanner_and_volume(scans):
    for volume, affine, _ in scans:
        assert volume.shape == SCANNER["shape"] and nib.aff2axcodes(affine) == ("P", "S", "R")
        centre = nib.affines.apply_affine(affine, np.argwhere(volume > 0).mean(0))
        assert np.linalg.norm(centre) < 40
        assert not any(side.any() for axis in range(3) for side in (volume.take(0, axis), volume.take(-1, axis)))


def test_the_brain_is_upright_and_faces_forward():
    volume, affine, _ = simulate(0, variation=NONE)
    world = nib.affines.apply_affine(affine, np.argwhere(volume > 0))
    base = world[world[:, 2] < np.percentile(world[:, 2], 15)]  # the cerebellum, which is posterior
    assert base[:, 1].mean() < world[:, 1].mean() - 5
    length = dict(zip("xyz", np.ptp(world, axis=0), strict=True))
    assert 100 < length["x"] < length["y"] < 200 and 90 < length["z"] < length["y"]


def test_intensities_are_highest_in_white_matter_and_zero_outside(scans):
    for volume, _, _ in scans:
        assert volume.dtype == np.float32 and volume.min() == 0 and volume.max() <= 1
        inside = volume[volume > 0]
        assert 0.1 < len(inside) / volume.size < 0.4
        assert 0.55 < np.percentile(inside, 95) < 0.9 and np.percentile(inside, 5) < 0.45


def test_noise_without_signal_is_rayleigh():
    """Without signal, the magnitude of complex noise with standard deviation s has mean s sqrt(pi / 2)."""
    shape = (30, 30, 30)
    got = brains.acquire(
        torch.zeros(shape), torch.ones(shape), Variation(noise=0.02, bias_field=0), seeds.generator("test", "rice")
    )
    assert got.mean() == pytest.approx(brains.WHITE * 0.02 * np.sqrt(np.pi / 2), rel=0.02)
    assert not brains.acquire(torch.ones(shape), torch.zeros(shape), Variation(), seeds.generator("test", "rice")).any()


# --- cohort ------------------------------------------------------------------------------------------


def test_shards_of_a_cohort_are_written_with_the_traits_of_their_participants(tmp_path, scans):
    cohort = {"seed": 0, "variation": {}, "n_participants": 4, **SCANNER}
    table = brains.simulate_cohort(out=tmp_path, shard=0, n_shards=2, **cohort)
    assert table["scan"].tolist() == table["participant"].tolist() == ["EMB0000", "EMB0002"]
    assert table["site"].unique().tolist() == ["embedded"] and table["mask"].unique().tolist() == [""]
    assert read_table(tmp_path / "participants.tsv")["scan"].tolist() == ["EMB0000", "EMB0002"]
    for row, number in zip(table.to_dict("records"), (0, 2), strict=True):
        volume, affine, traits = scans[number]
        image = nib.load(row["file"])
        np.testing.assert_allclose(image.get_fdata(), volume, atol=2e-5)
        np.testing.assert_allclose(image.affine, affine, atol=1e-4)
        assert {name: row[name] for name in traits} == traits


def test_an_unknown_key_of_variation_is_refused(tmp_path):
    with pytest.raises(ValueError) as error:
        variation = {"nose_mm": 1.0, "noise": 0.1}
        brains.simulate_cohort(out=tmp_path, n_participants=1, seed=0, variation=variation, **SCANNER)
    assert message(error) == (
        "cohort.embedded.variation has unknown keys ['nose_mm']; allowed: ['age_years', 'bias_field', 'contrast', "
        "'folds_mm', 'gyri_mm', 'head_mm', 'lobes_mm', 'noise', 'rotation_deg', 'scale', 'tissue_bias', "
        "'ventricles_mm']"
    )
    assert not list(tmp_path.iterdir())


def test_the_config_has_every_field_of_variation():
    known = [field.name for field in dataclasses.fields(brains.Variation)]
    assert sorted(known) == sorted(typing.get_args(cohort.Variation))
