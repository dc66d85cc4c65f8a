"""The embedded cohort against geometry whose answer is known, and against what is true of people."""

import dataclasses
import typing

import nibabel as nib
import numpy as np
import pytest
import torch

from neuromf.config import study
from neuromf.core import seeds
from neuromf.simulation import brains
from neuromf.simulation.brains import GRID_MM, Variation

SCANNER = {"shape": (32, 32, 24), "spacing_mm": (7.5, 7.5, 7.5)}
PEOPLE = range(4)
NOBODY = Variation(head_mm=0, lobes_mm=0, gyri_mm=0, folds_mm=0, rotation_deg=0, bias_field=0, noise=0)


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


def inner(field, rim=2):
    return field[..., rim:-rim, rim:-rim, rim:-rim]


def scan(number, seed=0, variation=None, **scanner):
    return brains.scan(number, seed=seed, variation=variation or Variation(), **{**SCANNER, **scanner})


@pytest.fixture(scope="module")
def scans():
    return [scan(number) for number in PEOPLE]


def message(error):
    return str(error.value)


# --- deformation -------------------------------------------------------------------------------------


def test_no_velocity_moves_nothing_and_keeps_volume():
    still = torch.zeros(1, 3, 5, 6, 7)
    displacement, smallest = brains.diffeomorphism(still)
    assert torch.equal(displacement, still) and smallest == 1
    assert torch.equal(brains.jacobian(still), torch.ones(5, 6, 7))


@pytest.mark.parametrize("scale", [(1.2, 0.9, 1.1), (0.5, 1.0, 2.0)])
def test_jacobian_of_a_scaling_is_the_product_of_its_factors(scale):
    got = brains.jacobian(linear(np.diag(scale) - np.eye(3)))
    torch.testing.assert_close(got, torch.full_like(got, float(np.prod(scale))))


def test_jacobian_is_the_determinant_of_any_linear_map_and_negative_where_it_folds():
    matrix = np.array([[1.1, 0.3, 0.0], [-0.2, 0.9, 0.1], [0.05, 0.0, 1.3]])
    got = brains.jacobian(linear(matrix - np.eye(3)))
    torch.testing.assert_close(got, torch.full_like(got, float(np.linalg.det(matrix))))
    assert (brains.jacobian(linear(np.diag([-2.0, 0, 0]))) < 0).all()


def test_exponential_of_a_constant_field_is_a_translation():
    velocity = torch.tensor([0.7, -1.3, 0.2]).view(1, 3, 1, 1, 1).expand(1, 3, 6, 7, 8)
    torch.testing.assert_close(brains.exponential(velocity), velocity)


@pytest.mark.parametrize("rate", [-0.4, 0.3])
def test_exponential_of_a_linear_field_squares_its_small_steps_exactly(rate):
    """dx/dt = a x leads from x to exp(a) x, in 2^n steps to (1 + a / 2^n)^(2^n), which is half as wrong for each n."""
    velocity = linear(rate * np.eye(3), (13, 13, 13))
    reached, exact = [], inner(linear(np.expm1(rate) * np.eye(3), (13, 13, 13)), 4)
    for n in (3, 4, 5):
        reached.append(inner(brains.exponential(velocity, n), 4))
        steps = linear(((1 + rate / 2**n) ** 2**n - 1) * np.eye(3), (13, 13, 13))
        torch.testing.assert_close(reached[-1], inner(steps, 4), rtol=0, atol=1e-5)
    errors = [float((got - exact).abs().max()) for got in reached]
    np.testing.assert_allclose(np.diff(np.log2(errors)), -1, atol=0.1)


def test_the_opposite_velocity_leads_back():
    velocity = smooth(0.5)
    there, back = brains.exponential(velocity), brains.exponential(-velocity)
    assert there.abs().max() > 0.4
    assert brains.compose(there, back).abs().max() < 0.12 * there.abs().max()  # linear reading between voxels


def test_composition_is_exact_on_linear_fields_and_runs_first_then_second():
    first, then = np.diag([0.1, -0.2, 0.05]), np.array([[0, 0.1, 0], [0.05, 0, 0], [0, 0, -0.1]])
    expected = (np.eye(3) + then) @ (np.eye(3) + first) - np.eye(3)
    other = (np.eye(3) + first) @ (np.eye(3) + then) - np.eye(3)
    got = brains.compose(linear(first), linear(then))
    torch.testing.assert_close(inner(got), inner(linear(expected)), rtol=0, atol=1e-5)
    assert not torch.allclose(inner(got), inner(linear(other)), rtol=0, atol=1e-3)


def test_composition_with_no_movement_changes_nothing():
    field, still = smooth(1.0), torch.zeros(1, 3, 9, 10, 11)
    torch.testing.assert_close(brains.compose(field, still), field)
    torch.testing.assert_close(brains.compose(still, field), field, rtol=0, atol=1e-5)


def test_a_velocity_that_folds_is_calmed_until_it_does_not():
    wild = smooth(4.0)
    assert brains.jacobian(brains.exponential(wild)).min() < 0.5
    displacement, smallest = brains.diffeomorphism(wild, smallest=0.5)
    assert smallest == float(brains.jacobian(displacement).min()) > 0.5
    with pytest.raises(ValueError) as error:
        brains.diffeomorphism(wild, smallest=1.5)
    assert message(error).startswith("no diffeomorphism found: the smallest Jacobian is still ")
    assert message(error).endswith(", wanted over 1.5")


def test_noise_has_unit_deviation_and_the_smoothness_asked():
    rough, fine = (brains.smooth_noise((3, 24, 24, 24), mm, seeds.generator("test", "noise")) for mm in (4.0, 12.0))
    for field in (rough, fine):
        assert field.std() == pytest.approx(1, abs=1e-5)
    neighbours = [float((field[:, 1:] * field[:, :-1]).mean() / (field**2).mean()) for field in (rough, fine)]
    expected = [np.exp(-1 / (4 * (mm / GRID_MM) ** 2)) for mm in (4.0, 12.0)]
    np.testing.assert_allclose(neighbours, expected, atol=0.04)


# --- a person ----------------------------------------------------------------------------------------


def test_the_same_number_of_the_same_seed_is_the_same_person_bit_by_bit(scans):
    volume, affine, facts = scan(1)
    assert np.array_equal(volume, scans[1][0]) and np.array_equal(affine, scans[1][1]) and facts == scans[1][2]


def test_other_numbers_and_other_seeds_are_other_people(scans):
    volumes = [volume for volume, _, _ in scans] + [scan(0, seed=1)[0]]
    for k, volume in enumerate(volumes):
        for other in volumes[:k]:
            assert np.abs(volume - other).mean() > 0.01
    assert len({facts["age"] for _, _, facts in scans}) == len(scans)


def test_a_global_seed_changes_nothing(scans):
    torch.manual_seed(123)
    np.random.seed(123)
    assert np.array_equal(scan(0)[0], scans[0][0])


def test_every_deformation_keeps_every_volume_element(scans):
    for number, (_, _, facts) in zip(PEOPLE, scans, strict=True):
        displacement, smallest = brains.warp(number, 0, facts, Variation())
        found = brains.jacobian(displacement / GRID_MM)
        assert float(found.min()) == pytest.approx(smallest, abs=1e-4) and smallest > 0.1
        assert facts["smallest_jacobian"] == round(smallest, 4)


def test_people_with_the_same_facts_still_have_their_own_shape():
    facts = brains.person(0, 0, Variation())
    first, again, other, reseeded = (
        brains.warp(*who, facts, Variation())[0] for who in ((0, 0), (0, 0), (1, 0), (0, 1))
    )
    assert torch.equal(first, again)
    assert (first - other).abs().mean() > 0.5 and (first - reseeded).abs().mean() > 0.5  # mm


def test_ages_fill_their_range_and_both_sexes_occur():
    people = [brains.person(number, 0, Variation()) for number in range(300)]
    ages = np.array([facts["age"] for facts in people])
    assert ages.min() > 20 and ages.max() < 86 and abs(ages.mean() - 53) < 3.5
    assert 0.35 < np.mean([facts["sex"] == "M" for facts in people]) < 0.55


def test_old_people_have_more_fluid_and_less_grey_matter_and_men_are_larger():
    people = [brains.person(number, 0, Variation()) for number in range(300)]
    old, young = ([facts for facts in people if (facts["age"] > 60) is late] for late in (True, False))
    for name, sign in (("csf_bias", 1), ("ventricles_mm", 1), ("grey_bias", -1)):
        assert sign * (np.mean([f[name] for f in old]) - np.mean([f[name] for f in young])) > 0.2
    size = {sex: np.mean([f["scale_x"] for f in people if f["sex"] == sex]) for sex in "MF"}
    assert size["M"] / size["F"] == pytest.approx(0.93 / 0.87, abs=0.02)


def test_without_variation_only_age_and_sex_differ():
    none = Variation(scale=0, rotation_deg=0, ventricles_mm=0, tissue_bias=0, contrast=0, age_years=(50, 50 + 1e-6))
    facts = brains.person(3, 0, none)
    size = 0.93 if facts.pop("sex") == "M" else 0.87
    assert facts == {
        "age": 50, "ventricles_mm": pytest.approx(0, abs=2), "grey_bias": pytest.approx(0, abs=0.36),
        "csf_bias": pytest.approx(0, abs=0.46), "csf_t1": 0.24, "grey_t1": 0.66,
        "scale_x": size, "scale_y": size, "scale_z": size,
        "rotation_x_deg": 0, "rotation_y_deg": 0, "rotation_z_deg": 0,
    }  # fmt: skip


def test_tissue_shares_fill_the_brain_and_follow_their_bias():
    tissue = torch.tensor([[0.2, 0.5, 0.3], [0.0, 0.1, 0.5], [0.0, 0.0, 0.0]]).T.reshape(1, 3, 3, 1, 1)
    plain = brains.tissue_shares(tissue, {"csf_bias": 0.0, "grey_bias": 0.0})
    torch.testing.assert_close(plain.sum(1), tissue.sum(1))
    torch.testing.assert_close(plain[0, :, 0, 0, 0], torch.tensor([0.04, 0.25, 0.09]) / 0.38)
    torch.testing.assert_close(brains.tissue_shares(tissue, {"csf_bias": 0.0, "grey_bias": 0.0}, sharpness=1.0), tissue)
    thick = brains.tissue_shares(tissue, {"csf_bias": 0.0, "grey_bias": float(np.log(2))})
    torch.testing.assert_close(thick[0, :, 0, 0, 0], torch.tensor([0.04, 0.5, 0.09]) / 0.63)
    wide = brains.tissue_shares(tissue, {"csf_bias": float(np.log(2)), "grey_bias": 0.0})
    torch.testing.assert_close(wide[0, :, 0, 0, 0], torch.tensor([0.08, 0.25, 0.09]) / 0.42)


def fluid_ml(ventricles_mm, step=4.0):
    """CSF in the middle of a person who is average but for the ventricles: 40 x 80 x 50 mm around them."""
    facts = brains.person(0, 0, NOBODY) | {"ventricles_mm": ventricles_mm, "csf_bias": 0.0, "grey_bias": 0.0}
    axes = [torch.arange(low, high, step) for low, high in ((-20.0, 20.0), (-60.0, 20.0), (-10.0, 40.0))]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    displacement, smallest = brains.warp(0, 0, facts, NOBODY)
    assert smallest > 0.1
    return float(brains.anatomy(points, displacement, facts)[1][0].sum()) * step**3 / 1000


def test_a_ventricle_wall_further_out_holds_more_fluid():
    small, average, large = (fluid_ml(mm) for mm in (-2.5, 0.0, 2.5))
    assert 1.1 * small < average and 1.1 * average < large


def test_tissue_volumes_are_those_of_people(scans):
    for _, _, facts in scans:
        assert 400 < facts["gm_ml"] < 1100 and 250 < facts["wm_ml"] < 800 and 20 < facts["csf_ml"] < 400


def test_tissue_volumes_do_not_depend_on_the_scanner(scans):
    finer = scan(0, shape=(48, 48, 36), spacing_mm=(5.0, 5.0, 5.0))[2]
    for name in ("csf_ml", "gm_ml", "wm_ml"):
        assert finer[name] == pytest.approx(scans[0][2][name], rel=0.05)


# --- the scanner -------------------------------------------------------------------------------------


@pytest.mark.parametrize("oblique_deg", [0.0, 8.0, -15.0])
def test_the_scanner_has_axes_psr_its_spacing_and_its_centre_at_zero(oblique_deg):
    shape, spacing = (12, 14, 9), (1.5, 2.0, 3.0)
    affine = brains.scanner_affine(shape, spacing, oblique_deg)
    assert nib.aff2axcodes(affine) == ("P", "S", "R")
    np.testing.assert_allclose(nib.affines.voxel_sizes(affine), spacing)
    np.testing.assert_allclose(nib.affines.apply_affine(affine, (np.array(shape) - 1) / 2), 0, atol=1e-9)
    assert np.degrees(nib.affines.obliquity(affine)).max() == pytest.approx(abs(oblique_deg))
    np.testing.assert_allclose(affine[0, :3], [0, 0, 3.0], atol=1e-12)  # left-right is not tilted


def test_the_brain_lies_in_the_middle_of_the_scanner_and_of_the_volume(scans):
    for volume, affine, _ in scans:
        assert volume.shape == SCANNER["shape"] and nib.aff2axcodes(affine) == ("P", "S", "R")
        centre = nib.affines.apply_affine(affine, np.argwhere(volume > 0).mean(0))
        assert np.linalg.norm(centre) < 40
        assert not any(side.any() for axis in range(3) for side in (volume.take(0, axis), volume.take(-1, axis)))


def test_the_brain_stands_upright_and_looks_ahead():
    volume, affine, _ = scan(0, variation=NOBODY)
    world = nib.affines.apply_affine(affine, np.argwhere(volume > 0))
    base = world[world[:, 2] < np.percentile(world[:, 2], 15)]  # of a brain: the cerebellum, which is at the back
    assert base[:, 1].mean() < world[:, 1].mean() - 5
    length = dict(zip("xyz", np.ptp(world, axis=0), strict=True))
    assert 100 < length["x"] < length["y"] < 200 and 90 < length["z"] < length["y"]


def test_intensities_rise_from_fluid_to_white_matter_and_end_outside(scans):
    for volume, _, _ in scans:
        assert volume.dtype == np.float32 and volume.min() == 0 and volume.max() <= 1
        inside = volume[volume > 0]
        assert 0.1 < len(inside) / volume.size < 0.4
        assert 0.55 < np.percentile(inside, 95) < 0.9 and np.percentile(inside, 5) < 0.45


def test_noise_without_signal_is_rayleigh():
    """The magnitude of complex noise of deviation s has mean s sqrt(pi / 2) where there is no signal."""
    shape = (30, 30, 30)
    got = brains.acquire(
        torch.zeros(shape), torch.ones(shape), Variation(noise=0.02, bias_field=0), seeds.generator("test", "rice")
    )
    assert got.mean() == pytest.approx(brains.WHITE * 0.02 * np.sqrt(np.pi / 2), rel=0.02)
    assert not brains.acquire(torch.ones(shape), torch.zeros(shape), Variation(), seeds.generator("test", "rice")).any()


# --- a cohort ----------------------------------------------------------------------------------------


def test_people_are_written_with_the_facts_that_made_them(tmp_path, scans):
    table = brains.write_people([2, 0], tmp_path, seed=0, variation={}, **SCANNER)
    assert table["scan"].tolist() == table["person"].tolist() == ["EMB0002", "EMB0000"]
    assert table["site"].unique().tolist() == ["embedded"] and table["mask"].unique().tolist() == [""]
    for row, number in zip(table.to_dict("records"), (2, 0), strict=True):
        volume, affine, facts = scans[number]
        image = nib.load(row["file"])
        np.testing.assert_allclose(image.get_fdata(), volume, atol=2e-5)
        np.testing.assert_allclose(image.affine, affine, atol=1e-4)
        assert {name: row[name] for name in facts} == facts


def test_an_unknown_kind_of_variation_is_named(tmp_path):
    with pytest.raises(ValueError) as error:
        brains.write_people([0], tmp_path, seed=0, variation={"nose_mm": 1.0, "noise": 0.1}, **SCANNER)
    assert message(error) == (
        "unknown kind of variation ['nose_mm']; allowed: ['age_years', 'bias_field', 'contrast', 'folds_mm', "
        "'gyri_mm', 'head_mm', 'lobes_mm', 'noise', 'rotation_deg', 'scale', 'tissue_bias', 'ventricles_mm']"
    )
    assert not list(tmp_path.iterdir())


def test_the_config_knows_every_kind_of_variation_and_no_other():
    known = [field.name for field in dataclasses.fields(brains.Variation)]
    assert sorted(known) == sorted(typing.get_args(study.data.Variation))
