"""Participants tables, splits by participant, and the merged quality control table."""

import json
import re
import subprocess
import sys

import pandas as pd
import pytest

from neuromf.data import participants
from workflow_scripts import cohort as cohort_script
from workflow_scripts import qc as qc_script

IXI = r"(?P<scan>(?P<participant>IXI\d+)-(?P<site>[A-Za-z]+)-\d+)-T1"
FRACTIONS = {"train": 0.8, "val": 0.1, "test": 0.1}


def table_of(n, sites=("A", "B", "C"), scans=2):
    """A table of n participants at sites of unequal size, with some scans each."""
    rows = [
        {"scan": f"p{k}-{s}", "participant": f"p{k}", "site": sites[0 if k % 5 else k // 5 % len(sites)], "problem": ""}
        for k in range(n)
        for s in range(scans)
    ]
    return pd.DataFrame(rows)


def test_all_scans_of_a_participant_share_a_split():
    table = table_of(40)
    table["split"] = participants.split_by_participant(table, FRACTIONS, seed=0)
    assert (table.groupby("participant")["split"].nunique() == 1).all()
    assert table.drop_duplicates("participant")["split"].value_counts().to_dict() == {"train": 32, "val": 4, "test": 4}


def test_splits_depend_on_the_seed_and_not_on_the_order_of_rows():
    table = table_of(40)
    split = participants.split_by_participant(table, FRACTIONS, seed=0)
    shuffled = table.sample(frac=1, random_state=1)
    pd.testing.assert_series_equal(participants.split_by_participant(shuffled, FRACTIONS, seed=0).sort_index(), split)
    assert not participants.split_by_participant(table, FRACTIONS, seed=1).equals(split)


@pytest.mark.parametrize("seed", range(5))
def test_each_site_is_split_in_the_same_fractions(seed):
    table = table_of(300, scans=1)
    table["split"] = participants.split_by_participant(table, FRACTIONS, seed)
    counts = table.groupby("site")["split"].value_counts().unstack(fill_value=0)
    for name, fraction in FRACTIONS.items():
        assert (counts[name] - fraction * counts.sum(axis=1)).abs().max() <= 1.5


def test_each_split_has_a_participant_if_possible():
    assert set(participants.split_by_participant(table_of(3), FRACTIONS, seed=0)) == {"train", "val", "test"}
    assert set(participants.split_by_participant(table_of(1), FRACTIONS, seed=0)) == {"train"}
    assert set(participants.split_by_participant(table_of(9), {"train": 0.5, "test": 0.5, "val": 0}, seed=0)) == {
        "train",
        "test",
    }


def test_a_participant_at_two_sites_has_one_split():
    table = table_of(40)
    table.loc[table["scan"].str.endswith("-1"), "site"] = "elsewhere"
    table["split"] = participants.split_by_participant(table, FRACTIONS, seed=0)
    assert (table.groupby("participant")["split"].nunique() == 1).all()
    assert table.drop_duplicates("participant")["split"].value_counts().to_dict() == {"train": 32, "val": 4, "test": 4}


@pytest.mark.parametrize("seed", range(5))
def test_sites_with_one_participant_are_split_like_one_large_site(seed):
    table = table_of(20, scans=1)
    table["site"] = table["participant"]
    split = participants.split_by_participant(table, FRACTIONS, seed)
    assert split.value_counts().to_dict() == {"train": 16, "val": 2, "test": 2}


def test_a_scan_with_a_problem_has_no_split():
    table = table_of(20)
    split = participants.split_by_participant(table, FRACTIONS, seed=0)
    new = table.iloc[:6].assign(person=list("abcdef"), problem="missing file: x")
    assert participants.split_by_participant(pd.concat([table, new]), FRACTIONS, seed=0).tolist() == [*split, *[""] * 6]


def test_smaller_training_fractions_are_nested_in_larger_ones():
    table = table_of(40)
    table["split"] = participants.split_by_participant(table, FRACTIONS, seed=0)
    splits_of = {
        fraction: participants.subsample_training_participants(table, fraction) for fraction in (1.0, 0.5, 0.25, 0.001)
    }
    assert splits_of[1.0].tolist() == table["split"].tolist()
    trained = {fraction: set(splits.index[splits == "train"]) for fraction, splits in splits_of.items()}
    assert [len(scans) for scans in trained.values()] == [
        64,
        32,
        16,
        2,
    ]  # both scans of a participant are kept or dropped
    assert trained[0.001] < trained[0.25] < trained[0.5] < trained[1.0]
    others = table.loc[table["split"] != "train", "scan"]
    assert all(splits[others].tolist() == splits_of[1.0][others].tolist() for splits in splits_of.values())


@pytest.mark.parametrize("fractions", [{"train": 0.8, "val": 0.1}, {"train": 1.1, "val": -0.1}, {"training": 1.0}])
def test_invalid_fractions_are_refused(fractions):
    with pytest.raises(ValueError, match=re.escape(f"not negative, and sum to 1; got {fractions}")):
        participants.split_by_participant(table_of(5), fractions, seed=0)


def test_long_ids_are_shortened_and_unique():
    table = participants.tidy([{"scan": "a" * 300 + end, "participant": "1", "file": end} for end in "xyx"])
    assert table["scan"].is_unique and table["scan"].str.len().max() < 140
    assert table["problem"].tolist()[2].startswith("duplicate scan id")


def test_repeated_names_take_linear_time():
    names = ["t1"] * 60_000
    ids, problems = participants._unique_ids(names, names)
    assert len(set(ids)) == 60_000 and ids[:3] == ["t1", "t1__2", "t1__3"] and problems.count("") == 1


def test_tables_of_shards_are_merged_with_their_columns(folder):
    root = folder(
        a="scan\tparticipant\tfile\tmask\tsex\tage\tsite\tflair\ns1\tp1\ts1.nii.gz\t\tF\t30\tX\tf1.nii.gz\n",
        b="scan\tparticipant\tfile\ns2\tp2\ts2.nii.gz\ns1\tp3\tother.nii.gz\n",
        c="scan\tparticipant\n",
    )
    table = participants.merge_tables([root / "a.tsv", root / "b.tsv"])
    assert table["scan"].tolist() == ["s1", "s2", "s1__2"] and table["flair"].tolist() == ["f1.nii.gz", "", ""]
    assert table["age"].tolist()[0] == 30 and table["age"].isna().sum() == 2
    assert table["problem"].tolist() == ["", "", "duplicate scan id: s1 is other.nii.gz, first seen as s1.nii.gz"]
    with pytest.raises(ValueError, match="c.tsv lacks the columns file; got scan, participant"):
        participants.merge_tables([root / "c.tsv"])
    with pytest.raises(ValueError, match="no scan in the 0 tables of the cohort"):
        participants.merge_tables([])


def test_a_failed_write_leaves_no_file(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="No space left"):
        participants.write_table(table_of(2), tmp_path / "t.tsv")
    assert not list(tmp_path.iterdir())


def test_the_script_writes_the_participants_table(folder, tmp_path):
    root = folder(*(f"T1/IXI{k:03d}-HH-1-T1.nii.gz" for k in range(10)), "T1/odd.nii.gz")
    source = {"source": "folder", "root": str(root), "pattern": "T1/*", "scan_regex": IXI}
    config = {"cohort": {**source, "split": FRACTIONS}, "seed": 0}
    cohort_script.main(["--config", json.dumps(config), "--out", str(tmp_path / "p.tsv")])
    table = participants.read_table(tmp_path / "p.tsv")
    assert table.columns.tolist() == participants.COLUMNS
    assert table["split"].value_counts().to_dict() == {"train": 8, "val": 1, "test": 1, "": 1}
    config = {"cohort": {"source": "embedded", "tables": [str(tmp_path / "p.tsv")], "split": FRACTIONS}, "seed": 0}
    cohort_script.main(["--config", json.dumps(config), "--out", str(tmp_path / "q.tsv")])
    assert (tmp_path / "q.tsv").read_bytes() == (tmp_path / "p.tsv").read_bytes()


@pytest.fixture
def shards(tmp_path):
    def make(*rows):
        for k, (scan, status, reason) in enumerate(rows):
            row = {
                "scan": scan,
                "participant": scan,
                "split": "train",
                "status": status,
                "reason": reason,
                "coverage": 1.0,
            }
            participants.write_table(pd.DataFrame([row]), tmp_path / str(k) / "qc.tsv")
        return [str(tmp_path / str(k)) for k in range(len(rows))]

    return make


def test_the_summary_counts_excluded_scans_by_reason(shards, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("workflow_scripts._cli.log_to_terminal", lambda: None)
    caplog.set_level("INFO", logger="neuromf.data.participants")
    bad = "quarantined"
    folders = shards(
        ("b", "accepted", ""), ("c", bad, "damaged: c: x"), ("a", bad, "damaged: y"), ("d", bad, "empty: d")
    )
    qc_script.main(["--shards", *folders, "--out", str(tmp_path / "qc.tsv")])
    assert participants.read_table(tmp_path / "qc.tsv")["scan"].tolist() == ["a", "b", "c", "d"]
    assert caplog.messages[-1] == "1 accepted, 3 excluded: 2 damaged, 1 empty"


def qc_table(**digests):
    rows = [
        {"scan": scan, "participant": scan, "split": split, "status": "accepted" if digest else "quarantined",
         "reason": "" if digest else "empty: x", "digest": digest, "volume": f"{scan}.nii.gz", "stripped_by": by,
         "note": ""}
        for scan, (split, digest, by) in digests.items()
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_the_same_content_under_two_names_is_one_scan(tmp_path, caplog):
    """Copies are in two shards, and in both splits; the scan that is first by name stays."""
    shards = [
        qc_table(b=("test", "1", "mask"), c=("train", "2", "none")),
        qc_table(a=("train", "1", "already"), d=("val", "", ""), e=("test", "3", "already")),
    ]
    for k, shard in enumerate(shards):
        participants.write_table(shard, tmp_path / str(k) / "qc.tsv")
    caplog.set_level("INFO")
    table = participants.merge_qc([tmp_path / "0", tmp_path / "1"]).set_index("scan")
    reason = "duplicate: same content as a; remove one of the two files"
    assert table.loc["b", ["status", "reason", "split", "volume"]].tolist() == ["quarantined", reason, "", ""]
    assert table["split"].drop("b").to_dict() == {"a": "train", "c": "train", "d": "val", "e": "test"}
    assert table["status"].tolist() == ["accepted", "quarantined", "accepted", "quarantined", "accepted"]
    assert "scans: 2 taken as skull-stripped already, 1 whole heads" in caplog.messages
    assert caplog.messages[-1] == "3 accepted, 2 excluded: 1 duplicate, 1 empty"


def test_a_study_without_a_usable_scan_stops(shards, tmp_path):
    folders = shards(("a", "quarantined", "damaged: a"))
    message = r"none of 1 scans can be used \(1 damaged\); the column reason of .*/0/qc.tsv gives the reason"
    with pytest.raises(SystemExit, match=message):
        qc_script.main(["--shards", *folders, "--out", str(tmp_path / "qc.tsv")])


def test_light_scripts_import_neither_torch_nor_monai():
    code = "import sys, workflow_scripts.cohort, workflow_scripts.qc; print({'torch', 'monai'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
    code = "import sys, neuromf.workflow; print({'pandas', 'numpy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
