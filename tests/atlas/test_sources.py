"""Sources: Neurosynth, its checks; the NeuroStore extract with signs; the mock; statistical maps."""

import gzip
import json

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from atlas.atlas_helpers import REAL_DATA, SPACE
from scipy import sparse

from neuromf.atlas.cleaning import clean_tables
from neuromf.atlas.kernel_maps import kernel_maps
from neuromf.core.files import sha256
from neuromf.data.brain_grid import brain_grid
from neuromf.data.neurostore import read_neurostore
from neuromf.data.neurosynth import COORDINATES, KEYS, METADATA, TOPICS, read_neurosynth
from neuromf.data.statistical_maps import (
    BUTTON_PRESS,
    read_hcp_contrasts,
    read_pain_maps,
    read_statistical_map,
)
from neuromf.simulation.foci import simulate_foci, topic_centres

GRID = brain_grid("6mm")


@pytest.fixture
def folder(tmp_path):
    """Three studies in the layout of Neurosynth."""
    coordinates = ("id\ttable_id\ttable_num\tpeak_id\tx\ty\tz\n1\t7\t4.\t0\t6.0\t-24.0\t12.0\n"
                   "2\t8\t1\t1\t0\t0\t0\n2\t9\t2\t2\t0\t0\t9\n")  # fmt: skip
    metadata = ("id\tdoi\tspace\ttitle\tauthors\tyear\tjournal\n1\t\tMNI\tA NA study\tX\t1997\tBrain\n"
                "2\t10.1/x\tTAL\tNull\tY\t2003\tCortex\n3\t\tUNKNOWN\tThird\tZ\t2004\tBrain\n")  # fmt: skip
    (tmp_path / COORDINATES).write_bytes(gzip.compress(coordinates.encode()))
    (tmp_path / METADATA).write_bytes(gzip.compress(metadata.encode()))
    weights = sparse.csr_matrix(np.array([[0.25, 0.75], [1, 0], [0.5, 0.5]], np.float32))
    sparse.save_npz(tmp_path / TOPICS.format(vocabulary="LDA50"), weights)
    (tmp_path / KEYS.format(vocabulary="LDA50")).write_text("0\t0.1\tpain noxious heat cold\n1\t0.2\tmotor hand\n")
    return tmp_path


def test_A01_tables_are_read_as_published(folder):
    tables = read_neurosynth(folder)
    assert tables.metadata["id"].tolist() == ["1", "2", "3"] and tables.metadata["title"].iloc[0] == "A NA study"
    assert tables.topic_words == ("pain noxious heat", "motor hand")
    assert tables.topics.tolist() == [[0.25, 0.75], [1, 0], [0.5, 0.5]]
    assert tables.digests[COORDINATES] == sha256(folder / COORDINATES) and len(tables.manifest) == 64
    assert "ODbL" in tables.licence


def test_A01_a_missing_file_or_another_digest_is_refused_with_the_way_out(folder):
    with pytest.raises(ValueError, match="expected is abc: remove it and download it again"):
        read_neurosynth(folder, sha256={METADATA: "abc"})
    (folder / METADATA).unlink()
    with pytest.raises(ValueError, match="snakemake atlas_fetch.*NEUROMF_REAL_DATA.*atlas.scale: mock"):
        read_neurosynth(folder)


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        (COORDINATES, "-24.0", "nan", "coordinates of study 1 are not finite"),
        (COORDINATES, "2\t9\t2", "5\t9\t2", "1 studies have no metadata row, such as 5"),
        (METADATA, "\n3\t", "\n2\t", "study 2 has several metadata rows"),
        (METADATA, "UNKNOWN", "ICBM", "spaces must be MNI, TAL, UNKNOWN; got ICBM"),
        (METADATA, "journal", "magazine", "columns journal are missing"),
    ],
)
def test_A80_invalid_tables_are_refused(folder, file, old, new, message):
    text = gzip.decompress((folder / file).read_bytes()).decode()
    (folder / file).write_bytes(gzip.compress(text.replace(old, new).encode()))
    with pytest.raises(ValueError, match=message):
        read_neurosynth(folder)


def test_A80_topics_of_other_studies_are_refused(folder):
    name = folder / TOPICS.format(vocabulary="LDA50")
    sparse.save_npz(name, sparse.csr_matrix(np.ones((2, 2), np.float32) / 2))
    with pytest.raises(ValueError, match="must have 3 non-negative rows that sum to 1; got"):
        read_neurosynth(folder)


def test_A01_the_real_files_have_the_published_counts(real_folder):
    tables = read_neurosynth(real_folder)
    assert (len(tables.metadata), len(tables.coordinates)) in {(14371, 507891), (9542, 334476)}
    assert tables.topics.shape == (len(tables.metadata), 50) and len(tables.topic_words) == 50
    assert not {"sign", "n", "t", "z_stat"} & set(tables.coordinates)
    space = tables.metadata["space"].value_counts()
    assert tuple(space[["MNI", "TAL", "UNKNOWN"]]) in {(10204, 2335, 1832), (6825, 1510, 1207)}


def test_A02_mock_studies_do_not_depend_on_their_number():
    few, many = simulate_foci(5, seed=3), simulate_foci(9, seed=3)
    assert few.metadata.equals(many.metadata.iloc[:5])
    assert few.coordinates.equals(many.coordinates.iloc[: len(few.coordinates)])
    assert not few.coordinates.equals(simulate_foci(5, seed=4).coordinates)
    assert few.source == "mock"


def test_the_mock_has_its_planted_topics_and_drift():
    tables = simulate_foci(250, seed=0)
    year = tables.metadata["year"].to_numpy()
    rise = [np.corrcoef(year, tables.topics[:, topic])[0, 1] for topic in (0, 9)]
    assert rise[0] < -0.1 < 0.1 < rise[1]
    pure = tables.topics.argmax(1)[:, None] == np.arange(10)
    centres = topic_centres(10, seed=0)
    points = tables.coordinates.assign(k=pd.Index(tables.metadata["id"]).get_indexer(tables.coordinates["id"]))
    mni = points[(tables.metadata["space"] == "MNI").to_numpy()[points["k"]]]
    distance = np.linalg.norm(mni[["x", "y", "z"]].to_numpy()[:, None, None] - centres, axis=3).min(2)
    own = distance[pure[mni["k"]]].mean()
    assert own < distance[~pure[mni["k"]]].mean() - 10


def test_A87_the_extract_has_signs_and_sample_sizes():
    tables = read_neurostore()
    assert (tables.metadata["study"].nunique(), len(tables.metadata), len(tables.coordinates)) == (320, 906, 9492)
    assert tables.metadata["task"].value_counts().to_dict() == {"n-back": 500, "flanker": 406}
    assert tables.metadata["n_subjects"].notna().sum() == 898
    assert (tables.coordinates["sign"] < 0).sum() >= 126 and (tables.coordinates["sign"] > 0).sum() >= 3000


def test_A87_signs_survive_cleaning_and_maps():
    tables = read_neurostore()
    studies, log = clean_tables(tables, brain_grid("2mm"), scale="neurostore", space=SPACE, min_foci=1)
    assert log["deduplication"]["signed"] and set(np.unique(studies.signs)) == {-1, 0, 1}
    ids = studies.table["id"].to_numpy()[studies.study_of_focus]
    found = pd.DataFrame({"id": ids, "sign": studies.signs}).groupby("id")["sign"].agg(lambda s: {*s})
    reported = tables.coordinates.groupby("id")["sign"].agg(lambda s: {*s})
    assert all(found[name] <= reported[name] for name in found.index)
    negative = studies.take(np.flatnonzero(np.bincount(studies.study_of_focus[studies.signs < 0]) > 0)[:2])
    both = kernel_maps(negative, GRID, 9.0)
    only = kernel_maps(negative.take_foci(negative.signs < 0), GRID, 9.0)
    assert only.any() and np.all(only <= both) and "n_subjects" in negative.table


def save_map(path, function, spacing=2.0):
    """A map of a function of the coordinates in mm."""
    affine = nib.affines.from_matvec(np.diag([-spacing, spacing, spacing]), (90, -126, -72))
    shape = tuple(int(n * 2 // spacing) for n in (91, 109, 91))
    points = nib.affines.apply_affine(affine, np.indices(shape).reshape(3, -1).T)
    path.parent.mkdir(exist_ok=True, parents=True)
    nib.save(nib.Nifti1Image(function(points).reshape(shape).astype(np.float32), affine), path)
    return path


def test_a_map_is_read_at_the_voxels_of_the_grid(tmp_path):
    path = save_map(tmp_path / "x.nii.gz", lambda p: np.where(p[:, 2] > -40, 100 + p[:, 0], 0))
    found = read_statistical_map(path, GRID)
    inner = found.valid & (GRID.centres_mm[:, 2] > -20)
    assert np.abs(found.values[inner] - 100 - GRID.centres_mm[inner, 0]).max() < 0.2
    assert not found.valid[GRID.centres_mm[:, 2] < -50].any() and not found.values[~found.valid].any()


def test_hcp_contrasts_are_read_from_your_folder_or_refused(tmp_path):
    for name in ("motor_a", "motor_b", "wm_a"):
        save_map(tmp_path / f"{name}.nii.gz", lambda p: p[:, 0] + 200, spacing=6.0)
    found = read_hcp_contrasts(tmp_path, GRID)
    assert {task: [m.name for m in maps] for task, maps in found.items()} == {
        "motor": ["motor_a", "motor_b"],
        "wm": ["wm_a"],
    }
    for where in (None, tmp_path / "none"):
        with pytest.raises(ValueError, match="yours to supply"):
            read_hcp_contrasts(where, GRID)
    (tmp_path / "wm_a.nii.gz").unlink()
    with pytest.raises(ValueError, match="maps of two tasks"):
        read_hcp_contrasts(tmp_path, GRID)


def test_pain_maps_and_button_press_are_read():
    folder = REAL_DATA / "statmaps"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent; set NEUROMF_REAL_DATA")
    maps = read_pain_maps(folder, GRID)
    assert len(maps) == 14 and all(m.valid.mean() > 0.7 and m.values.max() > 4 for m in maps)
    assert maps[0].n_subjects == 25
    press = read_statistical_map(folder / BUTTON_PRESS, GRID)
    motor = (
        np.linalg.norm(GRID.centres_mm - [42, -24, 56], axis=1) < 10,
        np.linalg.norm(GRID.centres_mm - [-42, -24, 56], axis=1) < 10,
    )
    right, left = (press.values[where].mean() for where in motor)
    assert right > 2 and left < -2  # left against right button press: right motor cortex is positive


def test_pain_maps_without_their_list_are_refused(tmp_path):
    with pytest.raises(ValueError, match="has no maps.tsv"):
        read_pain_maps(tmp_path, GRID)
    (tmp_path / "maps.tsv").write_text("map\tdesign_rows\npain_01_t.nii.gz\t9\n")
    with pytest.raises(ValueError, match="lacks pain_01_t.nii.gz"):
        read_pain_maps(tmp_path, GRID)


def test_topics_are_json_friendly(mock_tables):
    json.dumps({"words": mock_tables.topic_words, "manifest": mock_tables.manifest})
