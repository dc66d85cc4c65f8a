"""The participants table of any folder, and splits that never part the scans of a person."""

import json
import re
import subprocess
import sys
import unicodedata

import pandas as pd
import pytest

from neuromf import cohort
from workflow_scripts import cohort as cohort_script
from workflow_scripts import qc as qc_script

IXI = r"(?P<scan>(?P<person>IXI\d+)-(?P<site>[A-Za-z]+)-\d+)-T1"
SHARES = {"train": 0.8, "val": 0.1, "test": 0.1}


@pytest.fixture
def folder(tmp_path):
    def make(*names, **texts):
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(b"scan")
        for name, text in texts.items():
            (tmp_path / f"{name}.tsv").write_text(text, encoding="utf-8")
        return tmp_path

    return make


def people(n, sites=("A", "B", "C"), scans=2):
    """A table of n people at sites of unequal size, with some scans each."""
    rows = [
        {"scan": f"p{k}-{s}", "person": f"p{k}", "site": sites[0 if k % 5 else k // 5 % len(sites)], "problem": ""}
        for k in range(n)
        for s in range(scans)
    ]
    return pd.DataFrame(rows)


def test_a_name_says_who_and_where(folder):
    root = folder("T1/IXI013-HH-1212-T1.nii.gz", "T1/IXI014-Guys-1-T1.nii")
    table = cohort.read_folder(root, "T1/*.nii*", IXI)
    assert table.columns.tolist() == [name for name in cohort.COLUMNS if name != "split"]
    first = table.iloc[0].to_dict()
    assert first.pop("age") != first.pop("problem")  # NaN and ""
    assert first == {
        "scan": "IXI013-HH-1212",
        "person": "IXI013",
        "file": str(root / "T1/IXI013-HH-1212-T1.nii.gz"),
        "mask": "",
        "sex": "",
        "site": "HH",
    }
    assert table["site"].tolist() == ["HH", "Guys"]


def test_without_groups_scan_and_person_are_the_name_of_the_file(folder):
    table = cohort.read_folder(folder("a.b.nii.gz", "c.nii"), "*.nii*", "")
    assert table["scan"].tolist() == table["person"].tolist() == ["a.b", "c"]
    assert len(cohort.find_scans(folder(), "*.nii*")) == 2
    assert cohort.find_scans(folder() / "nowhere", "*.nii*") == []


def test_an_empty_folder_is_named_with_its_pattern_and_the_way_out(folder):
    wanted = rf'no scan in {re.escape(str(folder()))}: nothing matches the pattern "T1/\*.nii.gz"; correct root or '
    with pytest.raises(ValueError, match=wanted):
        cohort.read_folder(folder(), "T1/*.nii.gz", IXI)


def test_a_name_that_does_not_match_stays_with_a_problem(folder):
    table = cohort.read_folder(folder("IXI013-HH-1212-T1.nii.gz", "notes.nii.gz"), "*.nii.gz", IXI)
    assert table["problem"].tolist() == [
        "",
        f"name does not match: notes.nii.gz does not match scan_regex {IXI!r}",
    ]


def test_a_second_file_with_the_same_scan_is_a_duplicate_with_its_own_id(folder):
    root = folder("a/s1.nii.gz", "b/s1.nii.gz", "c/s1.nii.gz", "d/s1__2.nii.gz")
    table = cohort.read_folder(root, "*/*.nii.gz", "")
    assert table["scan"].tolist() == ["s1", "s1__3", "s1__4", "s1__2"]
    assert table["problem"].tolist() == [
        "",
        f"duplicate scan id: s1 is {root}/b/s1.nii.gz, first seen as {root}/a/s1.nii.gz",
        f"duplicate scan id: s1 is {root}/c/s1.nii.gz, first seen as {root}/a/s1.nii.gz",
        "",
    ]


def test_spaces_quotes_and_other_scripts_become_safe_and_distinct_ids(folder):
    names = ["my scan.nii.gz", 'it\'s "it".nii.gz', "脳.nii.gz", "頭.nii.gz", "été.nii.gz", "-x;y.nii.gz"]
    root = folder(*names)
    table = cohort.read_folder(root, "*.nii.gz", "")
    assert (table["problem"] == "").all() and table["scan"].is_unique
    assert all(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", scan) for scan in table["scan"])
    cohort.write_table(table, root / "out.tsv")
    back = cohort.read_table(root / "out.tsv")
    assert {str(root / name) for name in names} == set(back["file"])
    pd.testing.assert_frame_equal(back, table)


def test_people_are_joined_on_file_and_nothing_else_of_theirs_is_copied(folder):
    root = folder(
        "T1/a.nii.gz",
        "T1/b.nii.gz",
        p="\ufeffparticipant_id\tfile\tSex\tage\tsite\tdob\nsub-1\tT1/a.nii.gz\tfemale\t46.5\tHH\t1970-01-01\n"
        "sub-2\tT1/gone.nii.gz\tM\tn/a\t\t1971-01-01\n",
    )
    table = cohort.read_folder(root, "T1/*.nii.gz", "", participants="p.tsv").set_index("scan")
    assert table.loc["a", ["person", "sex", "age", "site"]].tolist() == ["1", "F", 46.5, "HH"]
    assert table.loc["b", "person"] == "b" and table["age"].isna().sum() == 2
    assert table.loc["gone", "problem"] == f"missing file: {root}/T1/gone.nii.gz does not exist, but p.tsv lists it"
    assert table.loc["gone", ["person", "sex"]].tolist() == ["2", "M"]
    assert not table.astype(str).apply(lambda column: column.str.contains("197")).any(axis=None)


def test_a_path_is_the_same_however_its_accents_are_spelt(folder):
    names = [unicodedata.normalize(form, "été.nii.gz") for form in ("NFC", "NFD")]
    root = folder(names[0], p=f"participant_id\tfile\tage\n1\t./{names[1]}\t30\n")
    table = cohort.read_folder(root, "*.nii.gz", "", participants="p.tsv")
    assert table[["person", "age", "problem"]].values.tolist() == [["1", 30.0, ""]]


def test_people_are_joined_on_person_with_or_without_sub(folder):
    root = folder(
        "sub-01_T1w.nii.gz", "02_T1w.nii.gz", p="participant_id\tsex\tage\n01\tm\t7\nsub-02\tF\t999\n3\tF\t1\n"
    )
    table = cohort.read_folder(root, "*.nii.gz", r"(?P<person>(sub-)?\d+)_T1w", participants="p.tsv")
    assert table["person"].tolist() == ["02", "01", "3"] and table["sex"].tolist() == ["F", "M", "F"]
    assert table["age"].isna().tolist() == [True, False, False]
    assert table["problem"].tolist() == ["", "", "missing file: p.tsv lists 3, but there is no such scan"]


def test_a_listed_file_outside_the_pattern_is_not_called_missing(folder):
    root = folder("T1/a.nii.gz", "T2/a.nii.gz", p="participant_id\tfile\n1\tT1/a.nii.gz\n1\tT2/a.nii.gz\n9\t\n")
    problems = cohort.read_folder(root, "T1/*.nii.gz", "", participants="p.tsv")["problem"].tolist()
    assert problems[1] == 'not in the pattern: p.tsv lists T2/a.nii.gz, which "T1/*.nii.gz" does not match'
    assert problems[2] == "missing file: p.tsv lists 9, but there is no such scan"


def test_a_mask_is_found_by_its_template_or_missed_by_name(folder):
    root = folder("T1/IXI013-HH-1-T1.nii.gz", "T1/IXI014-HH-2-T1.nii.gz", "m/IXI013-HH-1-mask.nii.gz")
    table = cohort.read_folder(root, "T1/*", IXI, masks="m/{scan}-mask.nii.gz")
    assert table.loc[0, "mask"] == str(root / "m/IXI013-HH-1-mask.nii.gz")
    assert table["problem"].tolist() == ["", f"missing mask: {root}/m/IXI014-HH-2-mask.nii.gz does not exist"]


def test_a_link_to_nothing_is_a_missing_file(folder):
    (folder("a.nii.gz") / "b.nii.gz").symlink_to("nowhere")
    table = cohort.read_folder(folder(), "*.nii.gz", "")
    assert table["problem"].tolist() == ["", f"missing file: {folder()}/b.nii.gz is a link to nothing"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"scan_regex": "("}, r"scan_regex '\(' is not a regular expression: missing \)"),
        ({"scan_regex": "(?P<subject>.)"}, "named groups subject; they must be among scan, person, site"),
        (
            {"scan_regex": "", "masks": "{subject}.nii"},
            r'masks "{subject}.nii" may name {scan}, {person} and {site} only',
        ),
        ({"scan_regex": "", "participants": "no.tsv"}, "participants table .*no.tsv does not exist; correct the key"),
        ({"scan_regex": "", "participants": "p.tsv"}, "needs a row and a column .* got 1 rows with columns id, age"),
    ],
)
def test_a_wrong_setting_is_named(folder, given, message):
    with pytest.raises(ValueError, match=message):
        cohort.read_folder(folder("a.nii.gz", p="id\tage\n1\t2\n"), "*.nii.gz", **given)


def test_all_scans_of_a_person_share_a_split():
    table = people(40)
    table["split"] = cohort.split_by_person(table, SHARES, seed=0)
    assert (table.groupby("person")["split"].nunique() == 1).all()
    assert table.drop_duplicates("person")["split"].value_counts().to_dict() == {"train": 32, "val": 4, "test": 4}


def test_splits_depend_on_the_seed_and_not_on_the_order_of_rows():
    table = people(40)
    split = cohort.split_by_person(table, SHARES, seed=0)
    shuffled = table.sample(frac=1, random_state=1)
    pd.testing.assert_series_equal(cohort.split_by_person(shuffled, SHARES, seed=0).sort_index(), split)
    assert not cohort.split_by_person(table, SHARES, seed=1).equals(split)


@pytest.mark.parametrize("seed", range(5))
def test_each_site_is_shared_out_alike(seed):
    table = people(300, scans=1)
    table["split"] = cohort.split_by_person(table, SHARES, seed)
    counts = table.groupby("site")["split"].value_counts().unstack(fill_value=0)
    for name, share in SHARES.items():
        assert (counts[name] - share * counts.sum(axis=1)).abs().max() <= 1.5


def test_each_share_gets_someone_as_soon_as_there_are_people_enough():
    assert set(cohort.split_by_person(people(3), SHARES, seed=0)) == {"train", "val", "test"}
    assert set(cohort.split_by_person(people(1), SHARES, seed=0)) == {"train"}
    assert set(cohort.split_by_person(people(9), {"train": 0.5, "test": 0.5, "val": 0}, seed=0)) == {"train", "test"}


def test_a_scan_with_a_problem_has_no_split_and_moves_nobody_else():
    table = people(20)
    split = cohort.split_by_person(table, SHARES, seed=0)
    new = table.iloc[:6].assign(person=list("abcdef"), problem="missing file: x")
    assert cohort.split_by_person(pd.concat([table, new]), SHARES, seed=0).tolist() == [*split, *[""] * 6]


@pytest.mark.parametrize("shares", [{"train": 0.8, "val": 0.1}, {"train": 1.1, "val": -0.1}, {"training": 1.0}])
def test_shares_that_are_no_shares_are_refused(shares):
    with pytest.raises(ValueError, match=re.escape(f"not negative, and sum to 1; got {shares}")):
        cohort.split_by_person(people(5), shares, seed=0)


def test_tables_of_shards_become_one_and_keep_their_own_columns(folder):
    root = folder(
        a="scan\tperson\tfile\tmask\tsex\tage\tsite\tflair\ns1\tp1\ts1.nii.gz\t\tF\t30\tX\tf1.nii.gz\n",
        b="scan\tperson\tfile\ns2\tp2\ts2.nii.gz\ns1\tp3\tother.nii.gz\n",
        c="scan\tperson\n",
    )
    table = cohort.merge_tables([root / "a.tsv", root / "b.tsv"])
    assert table["scan"].tolist() == ["s1", "s2", "s1__2"] and table["flair"].tolist() == ["f1.nii.gz", "", ""]
    assert table["age"].tolist()[0] == 30 and table["age"].isna().sum() == 2
    assert table["problem"].tolist() == ["", "", "duplicate scan id: s1 is other.nii.gz, first seen as s1.nii.gz"]
    with pytest.raises(ValueError, match="c.tsv lacks the columns file; got scan, person"):
        cohort.merge_tables([root / "c.tsv"])
    with pytest.raises(ValueError, match="no scan in the 0 tables of the cohort"):
        cohort.merge_tables([])


def test_a_table_that_cannot_be_written_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cohort.os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        cohort.write_table(people(2), tmp_path / "t.tsv")
    assert not list(tmp_path.iterdir())


def test_the_script_writes_who_is_in_the_study(folder, tmp_path):
    root = folder(*(f"T1/IXI{k:03d}-HH-1-T1.nii.gz" for k in range(10)), "T1/odd.nii.gz")
    config = {"source": "folder", "root": str(root), "pattern": "T1/*", "scan_regex": IXI, "shares": SHARES, "seed": 0}
    cohort_script.main(["--config", json.dumps(config), "--out", str(tmp_path / "p.tsv")])
    table = cohort.read_table(tmp_path / "p.tsv")
    assert table.columns.tolist() == cohort.COLUMNS
    assert table["split"].value_counts().to_dict() == {"train": 8, "val": 1, "test": 1, "": 1}
    config = {"source": "embedded", "tables": [str(tmp_path / "p.tsv")], "shares": SHARES, "seed": 0}
    cohort_script.main(["--config", json.dumps(config), "--out", str(tmp_path / "q.tsv")])
    assert (tmp_path / "q.tsv").read_bytes() == (tmp_path / "p.tsv").read_bytes()


@pytest.fixture
def shards(tmp_path):
    def make(*rows):
        for k, (scan, status, reason) in enumerate(rows):
            row = {"scan": scan, "person": scan, "split": "train", "status": status, "reason": reason, "coverage": 1.0}
            cohort.write_table(pd.DataFrame([row]), tmp_path / str(k) / "qc.tsv")
        return [str(tmp_path / str(k)) for k in range(len(rows))]

    return make


def test_the_summary_says_how_many_were_set_aside_and_why(shards, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(qc_script, "logger", qc_script.logging.getLogger("test"))
    monkeypatch.setattr("workflow_scripts._cli.log_to_terminal", lambda: None)
    caplog.set_level("INFO")
    bad = "quarantined"
    folders = shards(
        ("b", "accepted", ""), ("c", bad, "damaged: c: x"), ("a", bad, "damaged: y"), ("d", bad, "empty: d")
    )
    qc_script.main(["--shards", *folders, "--out", str(tmp_path / "qc.tsv")])
    assert cohort.read_table(tmp_path / "qc.tsv")["scan"].tolist() == ["a", "b", "c", "d"]
    assert caplog.messages[-1] == "1 accepted, 3 set aside: 2 damaged, 1 empty"


def test_a_study_without_one_usable_scan_ends_with_the_reasons(shards, tmp_path):
    folders = shards(("a", "quarantined", "damaged: a"))
    wanted = r"none of 1 scans can be used \(1 damaged\); the column reason of .*/0/qc.tsv says why"
    with pytest.raises(SystemExit, match=wanted):
        qc_script.main(["--shards", *folders, "--out", str(tmp_path / "qc.tsv")])


def test_light_scripts_import_neither_torch_nor_monai():
    code = "import sys, workflow_scripts.cohort, workflow_scripts.qc; print({'torch', 'monai'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
    code = "import sys, neuromf.cohort as c; c.find_scans('.', '*'); print({'pandas', 'numpy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
