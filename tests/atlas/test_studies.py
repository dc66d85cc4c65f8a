"""Studies: files, selections, checks, strata, splits and near-duplicates."""

from dataclasses import replace

import numpy as np
import pytest

from neuromf.atlas.studies import (
    N_BINS,
    assign_splits,
    check_splits,
    near_duplicates,
    read_studies,
    strata,
    subset_rows,
    write_studies,
)


def test_studies_are_read_as_they_were_written(mock_studies, tmp_path):
    write_studies(mock_studies, tmp_path, manifest="abc")
    again = read_studies(tmp_path)
    assert again.table.equals(mock_studies.table) and again.topic_words == mock_studies.topic_words
    assert again.scale == "mock" and again.signs is None
    for name in ("points", "starts", "topics"):
        assert np.array_equal(getattr(again, name), getattr(mock_studies, name))
        assert getattr(again, name).dtype == getattr(mock_studies, name).dtype


def test_missing_files_are_named(tmp_path):
    with pytest.raises(ValueError, match="lacks studies.tsv, foci.npz, topics.npz, scale.json"):
        read_studies(tmp_path)


def test_selected_studies_have_their_own_foci(mock_studies):
    few = mock_studies.take([5, 2])
    assert few.table["id"].tolist() == mock_studies.table["id"].iloc[[5, 2]].tolist()
    assert np.array_equal(few.foci(0), mock_studies.foci(5)) and np.array_equal(few.foci(1), mock_studies.foci(2))
    keep = np.arange(len(few.points)) % 2 == 0
    half = few.take_foci(keep)
    assert np.array_equal(half.points, few.points[keep])
    assert np.array_equal(half.study_of_focus, few.study_of_focus[keep])
    assert len(mock_studies.take([])) == 0


def test_strata_are_the_quantile_bins_of_year_and_number_of_foci(mock_studies):
    found = strata(mock_studies.table)
    assert 0 <= found.min() and found.max() < N_BINS**2
    years = mock_studies.table["year"].groupby(found // N_BINS).agg(["min", "max"]).to_numpy()
    assert np.all(years[1:, 0] > years[:-1, 1])


def test_A13_splits_have_their_fractions_and_are_disjoint_and_seeded(mock_studies):
    counts = mock_studies.table["split"].value_counts()
    assert np.abs(counts[["train", "val", "test"]] / len(mock_studies) - [0.7, 0.15, 0.15]).max() < 0.02
    rows = [mock_studies.rows(split) for split in ("train", "val", "test")]
    assert sorted(np.concatenate(rows)) == list(range(len(mock_studies)))
    again, other = (assign_splits(mock_studies, [0.7, 0.15, 0.15], seed=seed) for seed in (0, 1))
    assert again.table["split"].equals(mock_studies.table["split"])
    assert not other.table["split"].equals(mock_studies.table["split"])
    check_splits(mock_studies)


def duplicated(studies, shared):
    """The studies with a copy of study 0 under another id that has this fraction of its foci."""
    n = len(studies.foci(0))
    points = np.concatenate(
        [studies.points, studies.foci(0)[: int(shared * n)], studies.foci(1)[: n - int(shared * n)]]
    )
    table = studies.table.iloc[[*range(len(studies)), 0]].reset_index(drop=True)
    table.loc[len(studies), "id"] = "copy"
    starts = np.append(studies.starts, len(points))
    return replace(studies, table=table, points=points, starts=starts, topics=studies.topics[[*range(len(studies)), 0]])


def test_A13_near_duplicates_are_in_one_split(mock_studies):
    for seed in range(5):
        both = assign_splits(duplicated(mock_studies, 0.8), [0.5, 0.25, 0.25], seed=seed)
        assert both.table["split"].iloc[0] == both.table["split"].iloc[-1]
    groups = near_duplicates(duplicated(mock_studies, 0.3))
    assert groups[0] != groups[-1]


def test_A13_a_near_duplicate_in_another_split_is_refused(mock_studies):
    both = assign_splits(duplicated(mock_studies, 0.8), [0.7, 0.15, 0.15], seed=0)
    other = "val" if both.table["split"].iloc[0] == "train" else "train"
    both.table.loc[len(both) - 1, "split"] = other
    with pytest.raises(ValueError, match="near-duplicates mock00000, copy are in the splits"):
        check_splits(both)


def test_A13_a_study_in_two_splits_is_refused(mock_studies):
    table = mock_studies.table.iloc[[*range(len(mock_studies))]].copy()
    table.loc[3, "id"] = table.loc[4, "id"]
    with pytest.raises(ValueError, match=f"study {table.loc[4, 'id']} has several rows"):
        replace(mock_studies, table=table)
    mock_studies.table.assign(split="other")
    with pytest.raises(ValueError, match="has split 'held'"):
        check_splits(replace(mock_studies, table=mock_studies.table.assign(split="held")))


def test_A02_a_subset_is_seeded_and_has_the_proportions_of_the_strata(mock_studies):
    rows = subset_rows(mock_studies, 60, seed=3)
    assert np.array_equal(rows, subset_rows(mock_studies, 60, seed=3)) and len(set(rows)) == 60
    assert not np.array_equal(rows, subset_rows(mock_studies, 60, seed=4))
    stratum = strata(mock_studies.table)
    whole, part = (np.bincount(values, minlength=N_BINS**2) / len(values) for values in (stratum, stratum[rows]))
    assert np.abs(whole - part).max() < 0.02
    assert np.array_equal(subset_rows(mock_studies, 1000, seed=0), np.arange(len(mock_studies)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {"points": s.points + np.where(s.study_of_focus == 2, np.nan, 0)[:, None]}, "is not finite"),
        (lambda s: {"topics": s.topics * 2}, "must be 0 or more and sum to 1"),
        (lambda s: {"starts": s.starts[:-1]}, "starts that end at"),
        (lambda s: {"points": s.points[:, :2]}, "shape"),
        (lambda s: {"scale": "half"}, "scale must be one of"),
        (lambda s: {"signs": np.ones(len(s.points), np.int8)}, "signs: scale mock has no source"),
        (lambda s: {"table": s.table.assign(n_subjects=20)}, "n_subjects: scale mock has no source"),
    ],
)  # fmt: skip
def test_A80_invalid_studies_are_refused(mock_studies, change, message):
    with pytest.raises(ValueError, match=message):
        replace(mock_studies, **change(mock_studies))
    if message == "is not finite":
        with pytest.raises(ValueError, match=mock_studies.table["id"].iloc[2]):
            replace(mock_studies, **change(mock_studies))
