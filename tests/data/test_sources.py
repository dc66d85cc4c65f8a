"""Sources of scans: rows of a folder, a BIDS folder and a table, and their reaction to bad input."""

import math
import os
import re
import shutil
import unicodedata
from pathlib import Path

import pandas as pd
import pytest

from neuromf.data import participants
from neuromf.data.sources import bids, delimited, table, values
from neuromf.data.sources import folder as folder_source
from neuromf.data.sources import table as table_source

REAL = Path(os.environ.get("NEUROMF_REAL_DATA", Path(__file__).parents[2] / "../shared/data"))
LAYOUT = REAL / "fcd_ds004199_layout"
IXI = r"(?P<scan>(?P<participant>IXI\d+)-(?P<site>[A-Za-z]+)-\d+)-T1"


def read_folder(*arguments, **settings):
    return participants.tidy(folder_source.read_folder(*arguments, **settings))


def test_participant_and_site_come_from_the_file_name(folder):
    root = folder("T1/IXI013-HH-1212-T1.nii.gz", "T1/IXI014-Guys-1-T1.nii")
    table = read_folder(root, "T1/*.nii*", IXI)
    assert table.columns.tolist() == [name for name in participants.COLUMNS if name != "split"]
    first = table.iloc[0].to_dict()
    assert first.pop("age") != first.pop("problem")  # NaN and ""
    assert first == {
        "scan": "IXI013-HH-1212",
        "participant": "IXI013",
        "file": str(root / "T1/IXI013-HH-1212-T1.nii.gz"),
        "mask": "",
        "sex": "",
        "site": "HH",
    }
    assert table["site"].tolist() == ["HH", "Guys"]


def test_without_groups_the_file_name_is_scan_and_participant(folder):
    table = read_folder(folder("a.b.nii.gz", "c.nii"), "*.nii*", "")
    assert table["scan"].tolist() == table["participant"].tolist() == ["a.b", "c"]
    assert len(folder_source.find_scans(folder(), "*.nii*")) == 2
    assert folder_source.find_scans(folder() / "nowhere", "*.nii*") == []


def test_an_empty_folder_is_refused(folder):
    message = rf'no scan in {re.escape(str(folder()))}: nothing matches the pattern "T1/\*.nii.gz"; correct root or '
    with pytest.raises(ValueError, match=message):
        read_folder(folder(), "T1/*.nii.gz", IXI)


def test_a_name_that_does_not_match_has_a_problem(folder):
    table = read_folder(folder("IXI013-HH-1212-T1.nii.gz", "notes.nii.gz"), "*.nii.gz", IXI)
    assert table["problem"].tolist() == [
        "",
        f"name does not match: notes.nii.gz does not match scan_regex {IXI!r}",
    ]


def test_a_repeated_scan_is_a_duplicate_with_its_own_id(folder):
    root = folder("a/s1.nii.gz", "b/s1.nii.gz", "c/s1.nii.gz", "d/s1__2.nii.gz")
    table = read_folder(root, "*/*.nii.gz", "")
    assert table["scan"].tolist() == ["s1", "s1__3", "s1__4", "s1__2"]
    assert table["problem"].tolist() == [
        "",
        f"duplicate scan id: s1 is {root}/b/s1.nii.gz, first seen as {root}/a/s1.nii.gz",
        f"duplicate scan id: s1 is {root}/c/s1.nii.gz, first seen as {root}/a/s1.nii.gz",
        "",
    ]


def test_special_characters_give_safe_and_unique_ids(folder):
    names = ["my scan.nii.gz", 'it\'s "it".nii.gz', "脳.nii.gz", "頭.nii.gz", "été.nii.gz", "-x;y.nii.gz"]
    root = folder(*names)
    table = read_folder(root, "*.nii.gz", "")
    assert (table["problem"] == "").all() and table["scan"].is_unique
    assert all(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", scan) for scan in table["scan"])
    participants.write_table(table, root / "out.tsv")
    back = participants.read_table(root / "out.tsv")
    assert {str(root / name) for name in names} == set(back["file"])
    pd.testing.assert_frame_equal(back, table)


def test_participants_are_joined_on_file_without_other_columns(folder):
    root = folder(
        "T1/a.nii.gz",
        "T1/b.nii.gz",
        p="\ufeffparticipant_id\tfile\tSex\tage\tsite\tdob\nsub-1\tT1/a.nii.gz\tfemale\t46.5\tHH\t1970-01-01\n"
        "sub-2\tT1/gone.nii.gz\tM\tn/a\t\t1971-01-01\n",
    )
    table = read_folder(root, "T1/*.nii.gz", "", participants="p.tsv").set_index("scan")
    assert table.loc["a", ["participant", "sex", "age", "site"]].tolist() == ["1", "F", 46.5, "HH"]
    assert table.loc["b", "participant"] == "b" and table["age"].isna().sum() == 2
    assert table.loc["gone", "problem"] == f"missing file: {root}/T1/gone.nii.gz does not exist, but p.tsv lists it"
    assert table.loc["gone", ["participant", "sex"]].tolist() == ["2", "M"]
    assert not table.astype(str).apply(lambda column: column.str.contains("197")).any(axis=None)


def test_paths_are_joined_in_any_unicode_form(folder):
    names = [unicodedata.normalize(form, "été.nii.gz") for form in ("NFC", "NFD")]
    root = folder(names[0], p=f"participant_id\tfile\tage\n1\t./{names[1]}\t30\n")
    table = read_folder(root, "*.nii.gz", "", participants="p.tsv")
    assert table[["participant", "age", "problem"]].values.tolist() == [["1", 30.0, ""]]


def test_participants_are_joined_with_or_without_sub(folder):
    root = folder(
        "sub-01_T1w.nii.gz", "02_T1w.nii.gz", p="participant_id\tsex\tage\n01\tm\t7\nsub-02\tF\t999\n3\tF\t1\n"
    )
    table = read_folder(root, "*.nii.gz", r"(?P<participant>(sub-)?\d+)_T1w", participants="p.tsv")
    assert table["participant"].tolist() == ["02", "01", "3"] and table["sex"].tolist() == ["F", "M", "F"]
    assert table["age"].isna().tolist() == [True, False, False]
    assert table["problem"].tolist() == ["", "", "missing file: p.tsv lists 3, but there is no such scan"]


def test_a_listed_file_outside_the_pattern_is_not_missing(folder):
    root = folder("T1/a.nii.gz", "T2/a.nii.gz", p="participant_id\tfile\n1\tT1/a.nii.gz\n1\tT2/a.nii.gz\n9\t\n")
    problems = read_folder(root, "T1/*.nii.gz", "", participants="p.tsv")["problem"].tolist()
    assert problems[1] == 'not in the pattern: p.tsv lists T2/a.nii.gz, which "T1/*.nii.gz" does not match'
    assert problems[2] == "missing file: p.tsv lists 9, but there is no such scan"


def test_a_missing_mask_is_a_problem(folder):
    root = folder("T1/IXI013-HH-1-T1.nii.gz", "T1/IXI014-HH-2-T1.nii.gz", "m/IXI013-HH-1-mask.nii.gz")
    table = read_folder(root, "T1/*", IXI, masks="m/{scan}-mask.nii.gz")
    assert table.loc[0, "mask"] == str(root / "m/IXI013-HH-1-mask.nii.gz")
    assert table["problem"].tolist() == ["", f"missing mask: {root}/m/IXI014-HH-2-mask.nii.gz does not exist"]


def test_a_broken_link_is_a_missing_file(folder):
    (folder("a.nii.gz") / "b.nii.gz").symlink_to("nowhere")
    table = read_folder(folder(), "*.nii.gz", "")
    assert table["problem"].tolist() == ["", f"missing file: {folder()}/b.nii.gz is a broken link"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"scan_regex": "("}, r"scan_regex '\(' is not a regular expression: missing \)"),
        ({"scan_regex": "(?P<subject>.)"}, "named groups subject; they must be among scan, participant, site"),
        (
            {"scan_regex": "", "masks": "{subject}.nii"},
            r'masks "{subject}.nii" may name {scan}, {participant} and {site} only',
        ),
        ({"scan_regex": "", "participants": "no.tsv"}, "participants table .*no.tsv does not exist; correct the key"),
        ({"scan_regex": "", "participants": "p.tsv"}, "needs a row and a column .* got 1 rows with columns id, age"),
    ],
)
def test_an_invalid_setting_is_refused(folder, given, message):
    with pytest.raises(ValueError, match=message):
        read_folder(folder("a.nii.gz", p="id\tage\n1\t2\n"), "*.nii.gz", **given)


def test_columns_of_a_participants_table_can_be_renamed(folder):
    root = folder("a.nii.gz", "b.nii.gz", p="Subject\tSEX\tage\tage_scan\tcenter\nsub-a\tm\t3\t31\tX\nb\tf\t4\t41\t\n")
    columns = {"participant": "subject", "age": "age_scan", "site": "center"}
    table = read_folder(root, "*.nii.gz", "", participants="p.tsv", columns=columns)
    assert table[["participant", "sex", "age", "site"]].values.tolist() == [["a", "M", 31, "X"], ["b", "F", 41, ""]]
    message = r'p.tsv has no column "agescan", the value of columns.age; it has Subject, SEX, age, age_scan, center$'
    with pytest.raises(ValueError, match=message):
        read_folder(root, "*.nii.gz", "", participants="p.tsv", columns={"participant": "Subject", "age": "agescan"})


def test_the_first_row_of_a_participant_counts(folder, caplog):
    root = folder("a.nii.gz", "b.nii.gz", p="participant_id\tage\nb\t20\nsub-a\t30\na\t31\n")
    table = read_folder(root, "*.nii.gz", "", participants="p.tsv")
    assert table[["participant", "age", "problem"]].values.tolist() == [["a", 30, ""], ["b", 20, ""]]
    assert caplog.messages == ["p.tsv: 1 rows repeat an earlier participant and are ignored: a"]


def test_participants_without_a_scan_and_scans_without_a_participant_have_rows(folder):
    root = folder("a.nii.gz", "b.nii.gz", p="participant_id\tage\na\t30\nc\t40\nunknown\t50\n")
    table = read_folder(root, "*.nii.gz", "", participants="p.tsv")
    assert table["participant"].tolist() == ["a", "b", "c", "unnamed"]
    assert table["age"].tolist()[0] == 30 and table["age"].isna().tolist() == [False, True, False, False]
    assert table["problem"].tolist()[2:] == [
        "missing file: p.tsv lists c, but there is no such scan",
        "missing file: p.tsv lists a row without a name, but there is no such scan",
    ]


@pytest.mark.parametrize(
    ("text", "years"),
    [("26,9", 26.9), ("26.9", 26.9), ("89+", 89), ("34 yrs", 34), ("34yrs.", 34), ("034Y", 34), ("018M", 1.5),
     ("18 months", 1.5), ("104 weeks", 104 * 7 / 365.25), (" 30, ", 30), ("7", 7)],
)  # fmt: skip
def test_an_age_is_read_as_people_write_it(text, years):
    assert values.parse_age(text) == pytest.approx(years)


@pytest.mark.parametrize("text", ["20-30", "20 to 30", "34 m", "999", "-3", "0", "thirty", "34 parsecs", "n/a", "1e1"])
def test_an_ambiguous_age_is_unknown(text):
    assert math.isnan(values.parse_age(text))


def test_units_of_participants_json_are_heeded(folder):
    root = folder("a.nii.gz", "b.nii.gz", p="participant_id\tage\tsex\na\t18\t1\nb\t34 y\t2\n")
    (root / "p.json").write_text(
        '{"age": {"Units": "Months"}, "sex": {"Levels": {"1": "Male", "2": {"Description": "female"}}}}'
    )
    table = read_folder(root, "*.nii.gz", "", participants="p.tsv")
    assert table[["age", "sex"]].values.tolist() == [[1.5, "M"], [34, "F"]]
    columns = {"file": "{participant_id}.nii.gz", "participant": "participant_id", "age": "age", "sex": "sex"}
    rows = table_source.list_table(root, "p.tsv", columns)
    assert [(row["age"], row["sex"]) for row in rows] == [(1.5, "M"), (34, "F")]


@pytest.mark.parametrize(("text", "sex"), [("w", "F"), ("F,", "F"), (" Male;", "M"), ("weiblich", "F"), ("Mann", "M"),
                                           ("1", ""), ("2", ""), ("O", ""), ("divers", ""), ("n/a", "")])  # fmt: skip
def test_sex_is_read_as_people_write_it(text, sex):
    assert values.parse_sex(text) == sex


def test_values_that_cannot_be_read_are_counted_with_an_example(folder, caplog):
    cells = ["20-30\t1", "20-30\tO", "26,9\tF,", "n/a\tn/a", "999\t1"]
    lines = [f"s{k}\t{cell}" for k, cell in enumerate(cells)]
    root = folder(*(f"s{k}.nii.gz" for k in range(5)), p="\n".join(["participant_id\tage\tsex", *lines]))
    table = read_folder(root, "*.nii.gz", "", participants="p.tsv")
    assert table["age"].tolist()[2] == 26.9 and table["sex"].tolist() == ["", "", "F", "", ""]
    age = "p.tsv: 3 values of age cannot be read and are unknown: '20-30' (2), '999' (1); write a number of years"
    sex = (
        "p.tsv: 3 values of sex cannot be read and are unknown: '1' (2), 'O' (1); write M or F, or codes with Levels in"
    )
    assert [message[: len(text)] for message, text in zip(sorted(caplog.messages), (age, sex), strict=True)] == [
        age,
        sex,
    ]
    caplog.clear()
    columns = {"file": "{participant_id}.nii.gz", "participant": "participant_id", "age": "age", "sex": "sex"}
    table_source.list_table(root, "p.tsv", columns)
    assert len(caplog.messages) == 2


@pytest.mark.parametrize("theirs", ["1", "001", "SUB-01", "1.0"])
def test_ids_with_other_leading_zeros_are_joined_if_unique(folder, caplog, theirs):
    root = folder("sub-01.nii.gz", "sub-12.nii.gz", p=f"participant_id\tage\n{theirs}\t30\n12\t40\n")
    table = read_folder(root, "*.nii.gz", "(?P<participant>.+)", participants="p.tsv")
    assert table[["participant", "age", "problem"]].values.tolist() == [["01", 30, ""], ["12", 40, ""]]
    shown = theirs.removeprefix("sub-")
    assert caplog.messages == [
        f"p.tsv: 1 ids differ from those of scans in leading zeros or capitals and are joined, such as {shown} with 01"
    ]


def test_ids_are_not_joined_if_two_are_alike(folder):
    root = folder("sub-01.nii.gz", "sub-001.nii.gz", p="participant_id\tage\n1\t30\n")
    table = read_folder(root, "*.nii.gz", "(?P<participant>.+)", participants="p.tsv")
    assert table["age"].isna().sum() == 2 and table["problem"].tolist()[2].startswith("missing file: p.tsv lists 1")
    root = folder(p="participant_id\tage\n1\t30\n0001\t31\n")
    assert read_folder(root, "sub-01.nii.gz", "(?P<participant>.+)", participants="p.tsv")["age"].isna().sum() == 1


def test_blank_rows_of_a_spreadsheet_are_skipped(folder):
    root = folder("a.nii.gz")
    (root / "p.csv").write_text("participant_id,age,sex\na,30,F\n,,\n , ,\n,,\n")
    assert len(read_folder(root, "*.nii.gz", "", participants="p.csv")) == 1
    (root / "t.csv").write_text("file,id\na.nii.gz,a\n,\n")
    assert len(table_source.list_table(root, "t.csv", {"file": "file", "participant": "id"})) == 1


def test_unicode_forms_of_an_id_are_one_participant(folder):
    names = [f"{unicodedata.normalize(form, 'José')}-{form}.nii.gz" for form in ("NFC", "NFD")]
    table = read_folder(folder(*names), "*.nii.gz", r"(?P<scan>(?P<participant>.+)-\w+)\.nii")
    assert table["participant"].nunique() == 1 and table["scan"].nunique() == 2


NAMES = ["a b.nii.gz", 'it\'s "it".nii.gz', "$(reboot).nii.gz", "`x`;y.nii.gz", "two\nlines.nii.gz", "cr\rhere.nii.gz"]


def test_any_file_name_is_written_and_read(folder):
    table = read_folder(folder(*NAMES), "*.nii.gz", "")
    assert (table["problem"] == "").all()
    assert all(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", scan) for scan in table["scan"])
    participants.write_table(table, folder() / "out.tsv")
    back = participants.read_table(folder() / "out.tsv")
    assert set(back["file"]) == {str(folder() / name) for name in NAMES}
    pd.testing.assert_frame_equal(back, table)


def test_an_undecodable_name_is_a_problem(folder):
    (folder("a.nii.gz") / os.fsdecode(b"\xff.nii.gz")).write_bytes(b"scan")
    table = read_folder(folder(), "*.nii.gz", "")
    assert table["problem"].tolist() == [
        "",
        rf"unreadable name: {folder()}/\xff.nii.gz is not UTF-8; rename the file",
    ]
    participants.write_table(table, folder() / "out.tsv")


def read(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return delimited.read_lines(path, "participants table")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_line_ends_and_byte_order_marks_do_not_matter(tmp_path, end, mark):
    columns, lines = read(tmp_path / "p.tsv", mark + end.join(["id\t name ", "1\t é ", "", '2\t"two\twords"', "3"]))
    assert columns == ["id", "name"]
    assert [(line.number, *line.cells.values()) for line in lines] == [
        (2, "1", "é"),
        (4, "2", "two\twords"),
        (5, "3", ""),
    ]


def test_a_quoted_field_can_hold_a_line_end(tmp_path):
    _, lines = read(tmp_path / "p.csv", 'id,note,age\n1,"two\nlines, ""quoted""",30\n2,,40\n')
    assert lines[0].cells == {"id": "1", "note": 'two\nlines, "quoted"', "age": "30"}
    assert lines[1] == (4, {"id": "2", "note": "", "age": "40"})


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "p.tsv",
            "id,age\n1,2\n",
            "seems to be separated by commas, not by tabs: its only column is 'id,age'; save it",
        ),
        ("p.csv", "id;age\n1;2\n", "seems to be separated by semicolons, not by commas: its only column is 'id;age'"),
        ("p.csv", "id\tage\n1\t2\n", "seems to be separated by tabs, not by commas"),
        ("p.csv", "id,age\n1,2\n3,4,5\n", "line 3 of participants table .*p.csv has 3 fields, its header 2; quote a f"),
        ("p.csv", 'id,age\n1,2\n"3,4\n5,6\n', "line 3 of participants table .*p.csv cannot be read: .* ends with one"),
        ("p.csv", 'id,age\n"1" x,2\n', "line 2 of participants table .*p.csv cannot be read"),
        ("p.csv", "id,age,id\n1,2,3\n", "p.csv has two columns id; rename or remove one"),
    ],
)
def test_an_irregular_table_is_refused_with_its_line(tmp_path, name, text, message):
    with pytest.raises(ValueError, match=message):
        read(tmp_path / name, text)


def test_a_table_in_another_encoding_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"p.tsv is not UTF-8 text \(invalid continuation byte, byte 6\); save it as U"
    ):
        read(tmp_path / "p.tsv", "id\nJosé\n2\n", "latin-1")
    with pytest.raises(ValueError, match="p.tsv is not UTF-8 text"):
        read(tmp_path / "p.tsv", "id\tage\n", "utf-16")


def read_bids(*arguments, **settings):
    return participants.tidy(bids.read_bids(*arguments, **settings))


def test_sessions_and_runs_belong_to_one_participant(folder):
    root = folder(
        "sub-01/ses-1/anat/sub-01_ses-1_run-1_T1w.nii.gz",
        "sub-01/ses-1/anat/sub-01_ses-1_run-2_T1w.nii.gz",
        "sub-01/ses-2/anat/sub-01_ses-2_T1w.nii",
        "sub-02/anat/sub-02_T1w.nii.gz",
        "sub-02/anat/sub-02_T1w.json",
        "sub-02/anat/sub-02_T1w_roi.nii.gz",
        "sub-02/anat/sub-02_FLAIR.nii.gz",
        "sub-02/func/sub-02_T1w.nii.gz",
        "derivatives/x/sub-02/anat/sub-02_T1w.nii.gz",
        participants="participant_id\tsex\tage\tsite\tdate_of_birth\nsub-01\tF\t30\tX\t1990-01-01\n02\tM\tn/a\tY\t\n",
    )
    table = read_bids(root)
    assert table["scan"].tolist() == [
        "sub-01_ses-1_run-1_T1w", "sub-01_ses-1_run-2_T1w", "sub-01_ses-2_T1w", "sub-02_T1w"
    ]  # fmt: skip
    assert table["participant"].tolist() == ["01", "01", "01", "02"] and table["site"].tolist() == ["X", "X", "X", "Y"]
    assert (table["problem"] == "").all() and "1990" not in table.to_csv()
    assert table.columns.tolist() == [name for name in participants.COLUMNS if name != "split"]
    assert read_bids(root, suffix="FLAIR")["scan"].tolist() == ["sub-02_FLAIR", "01"]


def test_a_bids_folder_without_table_or_scans(folder, caplog):
    root = folder("sub-1/anat/sub-1_T2w.nii.gz", "sub-1/anat/sub-1_FLAIR.nii.gz", "sub-2/anat/sub-2_T2w.nii")
    assert len(read_bids(root, suffix="T2w")) == 2
    assert caplog.messages == [f"{root} has no participants.tsv: sex, age and site of its participants are unknown"]
    message = r"\*_T1w.nii\[.gz\]; correct suffix: there are T2w \(2\), FLAIR \(1\)"
    with pytest.raises(ValueError, match=message):
        read_bids(root)
    with pytest.raises(ValueError, match=r"there is no sub-\*/\[ses-\*/\]dwi/\*_T1w.nii\[.gz\]; correct root or datat"):
        read_bids(root, datatype="dwi")
    with pytest.raises(ValueError, match="participants table .*people.tsv does not exist; correct the key"):
        read_bids(root, suffix="T2w", participants="people.tsv")


def test_a_scan_in_the_folder_of_another_subject_has_a_problem(folder):
    root = folder("sub-1/anat/sub-2_T1w.nii.gz", "sub-2/anat/T1w_T1w.nii.gz", "sub-3/anat/sub-3_T1w.nii.gz")
    assert read_bids(root)["problem"].tolist() == [
        "name does not match: sub-1/anat/sub-2_T1w.nii.gz lies in sub-1, so it must begin with sub-1_",
        "name does not match: sub-2/anat/T1w_T1w.nii.gz lies in sub-2, so it must begin with sub-2_",
        "",
    ]


def test_a_scan_with_and_without_gzip_is_a_duplicate(folder):
    root = folder("sub-1/anat/sub-1_T1w.nii", "sub-1/anat/sub-1_T1w.nii.gz")
    assert read_bids(root)["problem"].str.split(":").str[0].tolist() == ["", "duplicate scan id"]


def test_masks_are_found_in_bids_derivatives(folder):
    root = folder(
        "sub-1/ses-a/anat/sub-1_ses-a_acq-x_T1w.nii.gz",
        "sub-2/anat/sub-2_T1w.nii.gz",
        "derivatives/masks/sub-1/ses-a/anat/sub-1_ses-a_acq-x_desc-brain_mask.nii.gz",
    )
    table = read_bids(root, masks="derivatives/masks/{folder}/{entities}_desc-brain_mask.nii.gz")
    assert table["mask"][0] == f"{root}/derivatives/masks/sub-1/ses-a/anat/sub-1_ses-a_acq-x_desc-brain_mask.nii.gz"
    missed = f"missing mask: {root}/derivatives/masks/sub-2/anat/sub-2_desc-brain_mask.nii.gz does not exist"
    assert table["problem"].tolist() == ["", missed]
    with pytest.raises(ValueError, match=r"may name {scan}, {entities}, {folder}, {participant} and {session} only"):
        read_bids(root, masks="{subject}.nii")


@pytest.mark.skipif(not LAYOUT.is_dir(), reason=f"no layout of ds004199 in {LAYOUT}; set NEUROMF_REAL_DATA")
def test_a_real_bids_folder_is_read(tmp_path):
    paths = [line.cells["path"] for line in delimited.read_lines(LAYOUT / "file_manifest.tsv", "manifest").lines]
    for path in paths:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    shutil.copy(LAYOUT / "participants.tsv", tmp_path)
    for suffix, n in (("FLAIR", 170), ("T1w", 170)):
        assert n == len([path for path in paths if path.endswith(f"_{suffix}.nii.gz")])
        table = read_bids(tmp_path, suffix=suffix, columns={"age": "age_scan"})
        assert len(table) == n and (table["problem"] == "").all() and table["participant"].nunique() == 170
        assert table["age"].notna().all() and set(table["sex"]) == {"F", "M"}
    assert table.set_index("participant").loc["00058", ["sex", "age"]].tolist() == ["M", 4.0]


SCANS = """dataset\tparticipant_id\tsession_id\tfilename\toriginal
A\tsub_1\tses_1\tt1.nii.gz\t1990-01-01
A\tsub_1\tses_2\tt1.nii.gz\tx
A\tsub_2\tses_1\tt1.nii.gz\tx
B\tsub_1\tses_1\tt1.nii.gz\tx
B\tsub_1\tses_1\tt2.nii.gz\tx
"""
PEOPLE = """dataset\tparticipant_id\tsession_id\tsex\tage\tgroup
A\tsub_1\tses_1\tF\t20\tControl
A\tsub_1\tses_2\tF\t22\tControl
A\tsub_2\tses_1\tM\t30\tPatient
B\tsub_1\tses_1\tM\t40\tn/a
"""
COLUMNS = {"file": "{dataset}/{participant_id}/{session_id}/{filename}", "participant": "participant_id"}
COLUMNS |= {"dataset": "dataset", "site": "dataset", "sex": "sex", "age": "age"}
JOIN = {"participants": "people.tsv", "join": ["dataset", "participant_id", "session_id"]}


@pytest.fixture
def fomo(folder):
    """Two tables like those of FOMO-60K, and their scans."""
    names = ["A/sub_1/ses_1/t1", "A/sub_1/ses_2/t1", "A/sub_2/ses_1/t1", "B/sub_1/ses_1/t1", "B/sub_1/ses_1/t2"]
    return folder(*(f"{name}.nii.gz" for name in names), mapping=SCANS, people=PEOPLE)


def listed(root, name="mapping.tsv", columns=COLUMNS, **settings):
    return participants.tidy(table.read_listed_scans(root, name, columns, **settings))


def written(folder, text, columns=None, name="t"):
    """The rows of a tsv with the columns file and participant."""
    root = folder(**{name: text})
    return listed(root, f"{name}.tsv", columns or {"file": "file", "participant": "participant"})


def test_one_name_in_two_datasets_is_two_participants(fomo):
    rows = listed(fomo, **JOIN)
    assert rows["participant"].tolist() == ["A/sub_1", "A/sub_1", "A/sub_2", "B/sub_1", "B/sub_1"]
    assert rows["scan"].tolist()[1] == "A_sub_1_ses_2_t1" and rows["scan"].is_unique
    assert rows["age"].tolist() == [20, 22, 30, 40, 40] and rows["sex"].tolist() == list("FFMMM")
    assert rows["site"].tolist() == list("AAABB") and (rows["problem"] == "").all()
    assert rows["file"].tolist()[0] == f"{fomo}/A/sub_1/ses_1/t1.nii.gz"
    assert rows.columns.tolist() == [name for name in participants.COLUMNS if name != "split"]
    assert "1990" not in rows.to_csv()
    rows["split"] = participants.split_by_participant(rows, {"train": 0.5, "test": 0.5}, seed=0)
    assert (rows.groupby("participant")["split"].nunique() == 1).all()


def test_listing_a_table_does_not_check_files(fomo):
    shutil.rmtree(fomo / "A")
    planned = table.list_table(fomo, "mapping.tsv", COLUMNS, **JOIN)
    assert [row["problem"] for row in planned] == [""] * 5
    rows = listed(fomo, **JOIN)
    assert rows["problem"].tolist()[2:] == [
        f"missing file: {fomo}/A/sub_2/ses_1/t1.nii.gz does not exist", "", ""
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("where", "scans"),
    [
        ({"dataset": "A"}, 3),
        ({"filename": "t1.nii.gz"}, 4),
        ({"group": ["Control", ""]}, 4),
        ({"group": None}, 2),
        ({"age": [20, 40.0]}, 3),
        ({"dataset": ["A", "B"], "filename": "t1.nii.gz", "group": "Control"}, 2),
    ],
)
def test_rows_are_selected_by_column_values(fomo, where, scans):
    assert len(listed(fomo, where=where, **JOIN)) == scans


@pytest.mark.parametrize(("cell", "value"), [("True", True), ("yes", True), ("0", False), ("1", 1), ("1.0", 1)])
def test_booleans_and_numbers_are_compared_with_text(folder, cell, value):
    root = folder("a.nii.gz", t=f"file\tparticipant\tok\na.nii.gz\t1\t{cell}\nb.nii.gz\t2\tother\n")
    assert len(listed(root, "t.tsv", {"file": "file", "participant": "participant"}, where={"ok": value})) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"where": {"modality": "T1"}},
            "where names modality, which mapping.tsv and people.tsv does not have; got dataset, participant_id, ",
        ),
        (
            {"where": {"group": ["Control", "control"]}},
            "where.group names 'control', which no row of mapping.tsv and people.tsv has; group holds "
            "'Control' (2), 'n/a' (2), 'Patient' (1)",
        ),
        (
            {"where": {"dataset": "B", "group": "Patient"}},
            "where.group 'Patient' selects no row of mapping.tsv and people.tsv; after the conditions before it, group "
            "holds 'n/a' (2)",
        ),
        (
            {"columns": {"file": "path", "participant": "sex"}},
            "columns.file names path, which mapping.tsv and people.tsv",
        ),
        (
            {"columns": {"file": "{dataset}/{x}", "participant": "sex"}},
            "columns.file names x, which mapping.tsv and people",
        ),
        ({"columns": {"file": "filename"}}, "columns must name file and participant; participant missing"),
        (
            {"columns": {**COLUMNS, "birth": "age"}},
            "columns.birth is unknown; columns may name file, participant, dataset",
        ),
        ({"join": ["subject"]}, "mapping.tsv has no column subject, named in join; it has dataset, participant_id"),
        ({"join": []}, "join must name the columns that mapping.tsv and people.tsv share; got none"),
        ({"participants": "p.tsv"}, "/p.tsv does not exist; correct the key, or leave it out"),
        ({"name": "m.tsv"}, "/m.tsv does not exist; correct the key, or leave it out"),
        ({"name": "empty.tsv"}, "/empty.tsv has no row; it needs a header and a row per scan"),
    ],
)
def test_settings_that_do_not_fit_the_table_are_refused(fomo, settings, message):
    (fomo / "empty.tsv").write_text("dataset\tfile\n")
    with pytest.raises(ValueError, match=re.escape(message)):
        listed(fomo, **{**JOIN, **settings})


def test_many_values_are_listed_by_frequency(folder):
    root = folder(t="file\tparticipant\n" + "".join(f"{k}.nii\t{k % 30}\n" for k in range(90)))
    with pytest.raises(ValueError, match=r"participant holds '0' \(3\), '1' \(3\), .*'11' \(3\) and 18 more"):
        listed(root, "t.tsv", {"file": "file", "participant": "participant"}, where={"participant": "31"})


def test_scans_without_a_participants_row_are_counted(fomo, caplog):
    (fomo / "people.tsv").write_text(PEOPLE.replace("B\tsub_1", "A\tsub_1"))
    rows = listed(fomo, **JOIN)
    assert caplog.messages == [
        "people.tsv: 1 rows repeat the dataset, participant_id, session_id of an earlier row and are ignored",
        "mapping.tsv: 2 of 5 rows have no row in people.tsv",
    ]
    assert rows["age"].isna().tolist() == [False, False, False, True, True] and rows["sex"].tolist()[3] == ""
    assert rows["age"].tolist()[0] == 20


def test_a_path_outside_the_root_is_refused(folder, tmp_path):
    lines = ["../a.nii.gz", "x/../a.nii.gz", "/etc/passwd", f"{tmp_path}/a.nii.gz", f"{tmp_path}/../b.nii.gz"]
    folder("a.nii.gz", "x/b.nii.gz")
    rows = written(folder, "file\tparticipant\n" + "".join(f"{line}\t{k}\n" for k, line in enumerate(lines)))
    for k in (0, 1, 2, 4):
        problem = f"outside root: line {k + 2} of t.tsv names {lines[k]}, but a file must lie below {tmp_path}, without"
        assert rows["problem"][k] == f"{problem} '..' in its path" and rows["file"][k] == ""
    assert rows["problem"][3] == "" and rows["file"][3] == f"{tmp_path}/a.nii.gz"


def test_two_rows_with_one_file_are_duplicates(folder):
    folder("a.nii.gz")
    rows = written(folder, "file\tparticipant\na.nii.gz\t1\n./a.nii.gz\t2\na.nii.gz\t1\n")
    problems = [f"duplicate file: line {k} of t.tsv names {folder()}/a.nii.gz, as line 2 does" for k in (3, 4)]
    assert rows["problem"].tolist() == ["", *problems] and rows["scan"].is_unique


def test_rows_without_a_file_or_a_participant_have_a_problem(folder):
    folder("a.nii.gz")
    rows = written(folder, "file\tparticipant\n\t1\na.nii.gz\t\na.nii.gz\tn/a\nn/a\tunknown\n")
    assert rows["problem"].tolist() == [
        "missing file: line 2 of t.tsv names none",
        "no participant: line 3 of t.tsv names no participant for a.nii.gz",
        "no participant: line 4 of t.tsv names no participant for a.nii.gz",
        "missing file: line 5 of t.tsv names none",
    ]
    assert rows["scan"].tolist() == ["t-line-2", "a", "a__2", "t-line-5"]


def test_any_file_name_in_a_table_is_found(folder):
    folder(*NAMES)
    quoted = ['"' + name.replace('"', '""') + '"' for name in NAMES]
    rows = written(folder, "file\tparticipant\n" + "".join(f"{name}\t{k}\n" for k, name in enumerate(quoted)))
    assert rows["problem"].tolist() == [""] * len(NAMES)
    assert rows["file"].tolist() == [str(folder() / name) for name in NAMES]


def test_a_table_can_use_another_unicode_form_than_the_disk(folder):
    composed, parted = (unicodedata.normalize(form, "é.nii.gz") for form in ("NFC", "NFD"))
    folder(parted)
    rows = written(folder, f"file\tparticipant\n{composed}\t1\n{parted}\t2\n")
    assert rows["file"].tolist()[0] == str(folder() / parted)
    assert rows["problem"].str.split(":").str[0].tolist() == ["", "duplicate file"]


def test_a_table_can_name_scans_and_masks(folder):
    text = "f\tp\ts\tm(x)\na.nii.gz\t1\tone\tm/a.nii.gz\nb.nii.gz\t2\ttwo\tm/b.nii.gz\n"
    root = folder("a.nii.gz", "b.nii.gz", "m/a.nii.gz", t=text)
    rows = listed(root, "t.tsv", {"file": "f", "participant": "P", "scan": "s", "mask": "m(x)"})
    assert rows["scan"].tolist() == ["one", "two"] and rows["mask"].tolist()[0] == f"{root}/m/a.nii.gz"
    assert rows["problem"].tolist() == ["", f"missing mask: {root}/m/b.nii.gz does not exist"]


def test_the_old_group_person_is_refused_with_its_new_name(folder):
    with pytest.raises(ValueError, match=r"names a group person; rename it: \(\?P<participant>...\)"):
        read_folder(folder("a.nii.gz"), "*.nii.gz", "(?P<person>.)")
