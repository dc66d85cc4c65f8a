"""Caches: maps in LMDB, points in HDF5, workers, damaged records; checks of maps and points."""

import multiprocessing

import h5py
import lmdb
import numpy as np
import pytest
from torch.utils.data import DataLoader

from neuromf.atlas.caches import MapCache, read_point_cache, write_map_cache, write_point_cache
from neuromf.atlas.checks import check_maps, check_points
from neuromf.atlas.kernel_maps import kernel_maps
from neuromf.data.brain_grid import brain_grid

GRID = brain_grid("6mm")


@pytest.fixture
def few(mock_studies):
    return mock_studies.take(range(12))


@pytest.fixture
def cache(few, tmp_path):
    write_map_cache(few, tmp_path / "maps.lmdb", GRID, [9.0, 12.0])
    return MapCache(tmp_path / "maps.lmdb")


def test_A10_a_record_has_the_maps_of_its_study(cache, few):
    name = few.table["id"].iloc[7]
    assert len(cache) == 12 and cache[name].shape == (2, GRID.n_voxels) and cache[name].dtype == np.float16
    for row, fwhm in enumerate([9.0, 12.0]):
        assert np.array_equal(cache[name][row], kernel_maps(few.take([7]), GRID, fwhm)[0])
    assert cache.index["scale"] == "mock"


class Sums:
    """A data set of the sums of maps, read in the workers of a loader."""

    def __init__(self, cache, ids):
        self.cache, self.ids = cache, ids

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, k):
        return float(self.cache[self.ids[k]].astype(np.float64).sum())


def test_A10_two_workers_read_after_a_fork(cache, few):
    ids = few.table["id"].tolist()
    expected = [float(cache[name].astype(np.float64).sum()) for name in ids]  # opened here, before the fork
    loader = DataLoader(
        Sums(cache, ids), batch_size=4, num_workers=2, multiprocessing_context=multiprocessing.get_context("fork")
    )
    assert np.concatenate([batch.numpy() for batch in loader]) == pytest.approx(expected)


def test_A10_a_fork_inherits_no_open_environment(cache, few):
    cache[few.table["id"].iloc[0]]  # opens the environment
    context = multiprocessing.get_context("fork")
    parent, child = context.Pipe()
    process = context.Process(target=lambda: child.send(cache._env is None))
    process.start()
    process.join()
    assert parent.recv()
    assert cache[few.table["id"].iloc[0]].any()


def test_A10_unknown_and_damaged_records_are_refused(cache, few, tmp_path):
    with pytest.raises(KeyError, match="'nobody is not in"):
        cache["nobody"]
    first, second = few.table["id"].iloc[:2]
    cache.close()
    with lmdb.open(str(tmp_path / "maps.lmdb"), subdir=False, lock=False) as env, env.begin(write=True) as transaction:
        data = bytearray(transaction.get(first.encode()))
        data[len(data) // 2] ^= 1
        transaction.put(first.encode(), bytes(data))
        transaction.put(second.encode(), b"\xc1")
    damaged = MapCache(tmp_path / "maps.lmdb")
    for name in (first, second):
        with pytest.raises(ValueError, match=f"study {name} is damaged"):
            damaged[name]


def test_A10_a_missing_cache_is_named(tmp_path):
    with pytest.raises(ValueError, match="none.lmdb is missing: write it"):
        MapCache(tmp_path / "none.lmdb")


def test_A11_every_study_is_in_the_point_cache_with_its_foci(few, tmp_path):
    write_point_cache(few, tmp_path / "points.h5")
    found = dict(read_point_cache(tmp_path / "points.h5"))
    assert found.keys() == {*few.table["id"]}
    for k, name in enumerate(few.table["id"]):
        assert found[name].dtype == np.float32 and np.array_equal(found[name], few.foci(k))
    with h5py.File(tmp_path / "points.h5", "a") as file:
        file[few.table["id"].iloc[0]][0, 0] = np.nan
    with pytest.raises(ValueError, match=f"study {few.table['id'].iloc[0]} of"):
        dict(read_point_cache(tmp_path / "points.h5"))


def test_A80_invalid_maps_are_refused_with_their_study(few):
    maps, ids = kernel_maps(few, GRID, 9.0), few.table["id"].tolist()
    check_maps(maps, ids, GRID)
    with pytest.raises(ValueError, match="maps must be floats of shape"):
        check_maps(maps[:, :-1], ids, GRID)
    for value in (np.nan, np.inf, 1.5, -0.1):
        wrong = maps.copy()
        wrong[4, 100] = value
        with pytest.raises(ValueError, match=f"the map of study {ids[4]} must be in"):
            check_maps(wrong, ids, GRID)


def test_A80_invalid_points_are_refused_with_their_study(few):
    points, ids = np.stack([few.foci(k)[:5] for k in range(12)]), few.table["id"].tolist()
    check_points(points, ids, GRID)
    with pytest.raises(ValueError, match="points must have shape"):
        check_points(points[:, :, :2], ids, GRID)
    for value, message in ((np.nan, "is not finite"), (300, "80% of the points of study")):
        wrong = points.copy()
        wrong[3, 2, 0] = value
        with pytest.raises(ValueError, match=message) as error:
            check_points(wrong, ids, GRID)
        assert ids[3] in str(error.value)
