"""Brain grids: voxel indices, left and right, vectors and volumes."""

import nibabel as nib
import numpy as np
import pytest

from neuromf.data.brain_grid import brain_grid


def test_A07_the_origin_is_at_the_known_voxel_of_the_2mm_grid():
    grid = brain_grid("2mm")
    assert grid.shape == (91, 109, 91)
    assert grid.indices([[0, 0, 0]]).tolist() == [[45, 63, 36]]
    assert grid.indices([[40, 0, 0]]).tolist() == [[25, 63, 36]]


def test_A07_a_focus_on_the_right_is_on_the_right_of_the_saved_image(tmp_path):
    for name in ("2mm", "6mm"):
        grid = brain_grid(name)
        values = np.zeros(grid.n_voxels, np.float32)
        values[grid.mask_index([[40, -20, 10]])] = 1
        nib.save(nib.Nifti1Image(grid.volume(values), grid.affine), tmp_path / "focus.nii.gz")
        canonical = nib.as_closest_canonical(nib.load(tmp_path / "focus.nii.gz"))
        (voxel,) = np.argwhere(canonical.get_fdata())
        x, y, z = nib.affines.apply_affine(canonical.affine, voxel)
        assert nib.aff2axcodes(canonical.affine) == ("R", "A", "S")
        assert x > 30 and abs(x - 40) <= 3 and abs(y + 20) <= 3 and abs(z - 10) <= 3


def test_A07_the_6mm_grid_holds_every_voxel_of_the_2mm_mask():
    fine, coarse = brain_grid("2mm"), brain_grid("6mm")
    assert coarse.shape == (32, 40, 32) and not np.any(np.array(coarse.shape) % 8)
    voxels = coarse.indices(fine.centres_mm)
    assert voxels.min(0).tolist() == [4, 4, 1] and voxels.max(0).tolist() == [28, 34, 26]
    assert coarse.in_mask(fine.centres_mm).all()
    # log2 of the number of voxels is the uniform row of the reference table, 13.367
    assert abs(np.log2(coarse.n_voxels) - 13.367) < 0.01


def test_vectors_and_volumes_are_inverse():
    grid = brain_grid("6mm")
    values = np.random.default_rng(0).random((2, 3, grid.n_voxels))
    volume = grid.volume(values, fill=-1)
    assert volume.shape == (2, 3, *grid.shape) and np.all(volume[..., ~grid.mask] == -1)
    assert np.array_equal(grid.vector(volume), values)
    assert np.array_equal(grid.mask_index(grid.centres_mm), np.arange(grid.n_voxels))


def test_points_outside_the_mask_have_no_position():
    grid = brain_grid("6mm")
    assert grid.mask_index([[0, 0, 0], [500, 0, 0], [90, 100, 100]]).tolist()[1:] == [-1, -1]
    assert grid.in_mask([[0, 0, 0], [500, 0, 0]]).tolist() == [True, False]


def test_unknown_grids_are_refused():
    with pytest.raises(ValueError, match="2mm or 6mm; got '4mm'"):
        brain_grid("4mm")
