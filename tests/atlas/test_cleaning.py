"""Cleaning: duplicates with and without signs, Talairach coordinates, mislabelled spaces, the log; the real counts."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from atlas.atlas_helpers import SPACE

from neuromf.atlas.cleaning import clean_tables, deduplicate
from neuromf.data.brain_grid import brain_grid
from neuromf.data.neurosynth import CoordinateTables, read_neurosynth
from neuromf.data.talairach import mni_to_tal, tal_to_mni
from neuromf.simulation import foci as foci_simulation
from neuromf.simulation.foci import simulate_foci

GRID = brain_grid("2mm")


def foci(*rows):
    return pd.DataFrame(rows, columns=["id", "x", "y", "z", "sign", "n"]).assign(table_id="1")


TOY = foci(
    ("a", 10.0, 20.0, 30.0, 1, 12),
    ("a", 10.4, 19.6, 30.0, 1, 40),  # the same mm, more participants
    ("a", 10.0, 20.0, 30.0, -1, 8),  # the same place, another direction
    ("a", 10.0, 20.0, 31.0, 1, 12),
    ("b", 10.0, 20.0, 30.0, 1, 12),
)


def test_A03_opposite_signs_and_the_largest_sample_are_kept():
    kept, log = deduplicate(TOY)
    assert kept.index.tolist() == [1, 2, 3, 4]
    assert log == {"original": 5, "kept": 4, "rate": 0.2, "signed": True}


def test_A03_without_signs_the_first_of_equal_positions_is_kept():
    kept, log = deduplicate(TOY.drop(columns=["sign", "n"]))
    assert kept.index.tolist() == [0, 3, 4]
    assert log == {"original": 5, "kept": 3, "rate": 0.4, "signed": False}


def test_A03_positions_are_compared_at_1_mm_not_at_a_tenth():
    kept, _ = deduplicate(foci(("a", 1.0, 2.0, 3.0, 0, 1), ("a", 1.3, 2.0, 3.0, 0, 1), ("a", 1.6, 2.0, 3.0, 0, 1)))
    assert kept["x"].tolist() == [1.0, 1.6]


def test_A04_the_transform_is_that_of_lancaster_and_its_round_trip_is_exact():
    assert np.allclose(mni_to_tal([[0, 0, 0], [40, -20, 10]]),
                       [[-1.0423, -1.3940, 3.6475], [36.2557, -21.1720, 11.5225]], atol=1e-4)  # fmt: skip
    points = np.random.default_rng(0).uniform(-80, 80, (1000, 3))
    for there, back in ((mni_to_tal, tal_to_mni), (tal_to_mni, mni_to_tal)):
        assert np.linalg.norm(back(there(points)) - points, axis=1).max() < 1e-3
    moved = tal_to_mni([[36.2557, -21.1720, 11.5225]])
    assert np.allclose(moved, [[40, -20, 10]], atol=1e-3)


def tables_of(space, points, name="s"):
    table = pd.DataFrame({"id": name, "table_id": "1", **dict(zip("xyz", np.asarray(points, float).T, strict=True))})
    metadata = pd.DataFrame({"id": [name], "space": [space], "title": ["t"], "year": [2010], "journal": ["j"]})
    return CoordinateTables(table, metadata, np.ones((1, 1), np.float32), ("w",), "mock", "")


INSIDE = np.array([[-40, -20, 10], [40, -20, 10], [0, -60, 20], [30, 20, 0], [-30, 10, 30.0]])


@pytest.mark.parametrize(("space", "policy", "moves"), [
    ("TAL", SPACE, True), ("MNI", SPACE, False), ("UNKNOWN", SPACE, False),
    ("TAL", {**SPACE, "tal": "keep"}, False), ("UNKNOWN", {**SPACE, "unknown": "transform"}, True),
])  # fmt: skip
def test_A04_only_studies_of_the_policy_are_moved(space, policy, moves):
    studies, log = clean_tables(tables_of(space, INSIDE), GRID, scale="mock", space=policy)
    assert np.allclose(studies.points, tal_to_mni(INSIDE) if moves else INSIDE, atol=1e-4)
    assert log["studies"][0]["decision"] == ("transformed" if moves else "kept")
    expected = np.sqrt(((tal_to_mni(INSIDE) - INSIDE) ** 2).sum(1).mean()) if moves else 0
    assert log["studies"][0]["displacement_rms_mm"] == pytest.approx(expected, abs=1e-3)


def test_A05_dropped_studies_are_logged_and_left_out():
    tables = tables_of("TAL", INSIDE)
    studies, log = clean_tables(tables, GRID, scale="mock", space={**SPACE, "tal": "drop"})
    assert len(studies) == 0 and log["studies"][0]["decision"] == "dropped"


def superior():
    """Points at the upper border of the brain, which the transform moves out of it."""
    highest = {}
    for x, y, z in GRID.centres_mm:
        if abs(x) < 40 and -60 < y < 20:
            highest[x, y] = max(z, highest.get((x, y), -99))
    return np.array([[*place, z] for place, z in highest.items()])[::40]


def test_A05_a_mislabelled_study_is_flagged_and_not_moved():
    points = superior()
    studies, log = clean_tables(tables_of("TAL", points), GRID, scale="mock", space=SPACE)
    row = log["studies"][0]
    assert row["decision"] == "flagged" and row["in_mask_before"] == 1 and row["in_mask_if_transformed"] < 0.9
    assert np.allclose(studies.points, points)
    studies, log = clean_tables(tables_of("TAL", points), GRID, scale="mock", space=SPACE, max_rise=1.0)
    assert log["studies"][0]["decision"] == "transformed"


def test_A06_the_log_has_every_study_and_the_fractions_outside_by_space(mock_tables):
    studies, log = clean_tables(mock_tables, GRID, scale="mock", space=SPACE)
    assert log.keys() == {"deduplication", "summary", "studies"}
    keys = {"id", "space", "decision", "n_reported", "n_foci", "displacement_rms_mm", "in_mask_before",
            "in_mask_after", "in_mask_if_transformed", "included"}  # fmt: skip
    assert len(log["studies"]) == 100 and all(row.keys() == keys for row in log["studies"])
    assert sum(row["included"] for row in log["studies"]) == len(studies) == log["summary"]["n_studies"]
    for space in ("MNI", "TAL", "UNKNOWN"):
        assert 0 <= log["summary"][space]["out_of_mask_before"] < 0.3


def test_cleaned_foci_are_in_the_mask_and_studies_with_few_are_excluded(mock_tables, mock_studies):
    assert GRID.in_mask(mock_studies.points).all()
    counts = np.diff(mock_studies.starts)
    assert counts.min() >= 5 and np.array_equal(counts, mock_studies.table["n_foci"])
    fewer, _ = clean_tables(mock_tables, GRID, scale="mock", space=SPACE, min_foci=20)
    assert len(fewer) == (counts >= 20).sum()
    without, _ = clean_tables(mock_tables, GRID, scale="mock", space=SPACE, exclude_modalities=("pet",))
    assert not without.table["pet"].any() and 0 < len(without) < len(mock_studies)


def test_A04_the_planted_space_shift_is_undone(monkeypatch):
    """Mock studies in Talairach coordinates and in MNI coordinates agree after the transform of the former."""

    def points(mislabelled):
        monkeypatch.setattr(foci_simulation, "MISLABELLED", mislabelled)
        tables = simulate_foci(60, seed=1)
        space = tables.coordinates["id"].map(tables.metadata.set_index("id")["space"]).to_numpy()
        return tables.coordinates.loc[space == "TAL", ["x", "y", "z"]].to_numpy()

    talairach, mni = points(0.0), points(1.0)
    assert 5 < np.linalg.norm(talairach - mni, axis=1).mean() < 7
    assert np.linalg.norm(tal_to_mni(talairach) - mni, axis=1).max() < 2  # both are rounded to mm


def test_A03_A04_counts_and_rates_of_the_shared_part(real_folder):
    tables = read_neurosynth(real_folder)
    studies, log = clean_tables(tables, GRID, scale="full", space=SPACE, max_rise=1.0)
    complete = len(tables.metadata) == 14371
    assert log["deduplication"]["rate"] == pytest.approx(0.119 if complete else 0.115, abs=0.005)
    assert len(studies) == (13046 if complete else 8620)
    tal = (
        tables.metadata["space"].set_axis(tables.metadata["id"]).reindex(tables.coordinates["id"]).eq("TAL").to_numpy()
    )
    raw = tables.coordinates.loc[tal, ["x", "y", "z"]].to_numpy()
    moved = np.linalg.norm(tal_to_mni(raw) - raw, axis=1)
    assert moved.mean() == pytest.approx(5.7, abs=0.05)
    assert np.percentile(moved, 95) == pytest.approx(9.0, abs=0.1) and moved.max() == pytest.approx(17.8, abs=0.05)
    assert log["summary"]["TAL"]["out_of_mask_after"] == pytest.approx(1 - 0.942, abs=0.005)
    flagged = clean_tables(replace(tables), GRID, scale="full", space=SPACE)[1]["summary"]["TAL"]["decisions"]
    assert 100 < flagged["flagged"] < 300
