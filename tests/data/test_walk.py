"""Scans are found below links, and not among results, hidden files or folders that cannot be read."""

from pathlib import Path

import pytest

from neuromf.data.sources import walk
from neuromf.data.sources.folder import read_folder
from neuromf.data.sources.pairs import read_pairs
from neuromf.data.sources.table import read_listed_scans
from neuromf.data.sources.walk import find_scans


def names(root, *patterns):
    return [path.relative_to(root).as_posix() for path in find_scans(root, *patterns)]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*.nii.gz", ["a.nii.gz"]),
        ("**/*.nii.gz", ["a.nii.gz", "s1/T1/b.nii.gz", "s2/T1/c.nii.gz"]),
        ("*/T1/*.nii*", ["s1/T1/b.nii.gz", "s2/T1/c.nii.gz"]),
        ("**/T1/?.nii.gz", ["s1/T1/b.nii.gz", "s2/T1/c.nii.gz"]),
        ("s[2]/**/*", ["s2/T1/c.nii.gz"]),
        ("s1/T1/b.nii.gz", ["s1/T1/b.nii.gz"]),
        ("./s1//T1/*", ["s1/T1/b.nii.gz"]),
        ("s1/T1/b.nii.gz/*", []),
        ("nothing/*", []),
    ],
)
def test_patterns_match_as_in_pathlib(folder, pattern, found):
    root = folder("a.nii.gz", "s1/T1/b.nii.gz", "s2/T1/c.nii.gz")
    assert names(root, pattern) == found
    assert {path.relative_to(root).as_posix() for path in root.glob(pattern) if not path.is_dir()} == set(found) or (
        pattern == "s[2]/**/*"
    )


def test_an_absolute_pattern_is_refused(folder):
    with pytest.raises(ValueError, match=r'the pattern "/data/\*.nii.gz" is an absolute path; write it relative to'):
        find_scans(folder(), "/data/*.nii.gz")


def test_results_below_the_scans_are_never_scans(folder, monkeypatch, caplog):
    root = folder("s1.nii.gz", "work/results/volumes/0/s1.nii.gz", "results/vae/x.nii.gz", "other/results/y.nii.gz")
    (root / "work/.snakemake").mkdir()  # another run of the workflow
    monkeypatch.chdir(root)
    assert names(root, "**/*.nii.gz") == ["other/results/y.nii.gz", "s1.nii.gz"]
    assert caplog.messages == [f"{root}: not listed: 1 with a name that begins with a dot, 2 folders of results"]
    monkeypatch.chdir(root / "work")
    assert names(root, "**/*.nii.gz") == ["other/results/y.nii.gz", "results/vae/x.nii.gz", "s1.nii.gz"]


def test_a_link_into_results_is_not_followed(folder, monkeypatch):
    root = folder("in/s1.nii.gz", "results/volumes/0/s1.nii.gz")
    (root / "in/prepared").symlink_to(root / "results/volumes")
    monkeypatch.chdir(root)
    assert names(root / "in", "**/*.nii.gz") == ["s1.nii.gz"]


@pytest.mark.parametrize(
    "hidden", ["._s1.nii.gz", ".git/annex/objects/x.nii.gz", "s/._s1.nii.gz", ".heudiconv/a/x.nii.gz"]
)
@pytest.mark.parametrize("pattern", ["**/*.nii.gz", "**/*"])
def test_hidden_files_and_folders_are_counted_and_not_listed(folder, caplog, hidden, pattern):
    root = folder("s1.nii.gz", hidden)
    assert names(root, pattern) == ["s1.nii.gz"]
    assert caplog.messages == [f"{root}: not listed: 1 with a name that begins with a dot"]


def test_a_file_of_a_mac_leaves_both_pairs(folder):
    """._c_FLAIR.nii.gz has the name of an image, and ._sub-1_FLAIR_roi.nii.gz made a second mask."""
    root = folder("c/c_FLAIR.nii.gz", "c/c_lesion.nii.gz", "c/._c_FLAIR.nii.gz", "c/._c_lesion.nii.gz")
    assert [(row["scan"], row["problem"]) for row in read_pairs("pairs", root)] == [("c", "")]
    root = folder(*(f"b/sub-1/anat/{dot}sub-1_{end}.nii" for dot in ("", "._") for end in ("acq-x_FLAIR", "FLAIR_roi")))
    (row,) = read_pairs("bids", root / "b")
    assert row["problem"] == "" and row["mask"].endswith("/sub-1_FLAIR_roi.nii")


def test_linked_folders_are_listed_once_and_loops_end(folder, caplog):
    root = folder("in/s1.nii.gz", "elsewhere/deep/s2.nii.gz")
    (root / "in/linked").symlink_to(root / "elsewhere")
    (root / "elsewhere/deep/loop").symlink_to(root / "elsewhere")
    (root / "in/self").symlink_to(root / "in")
    assert names(root / "in", "**/*.nii.gz") == ["linked/deep/s2.nii.gz", "s1.nii.gz"]
    assert caplog.messages == [f"{root}/in: not listed: 2 links to folders that are listed already"]


def test_a_folder_that_cannot_be_read_is_a_row_with_a_problem(folder, monkeypatch, caplog):
    root = folder("a/s1.nii.gz", "b/s2.nii.gz")
    entries = Path.iterdir

    def iterdir(path):
        if path == root / "b":
            raise PermissionError(13, "Permission denied")
        return entries(path)

    monkeypatch.setattr(Path, "iterdir", iterdir)  # root can read folders of any mode
    rows = read_folder(root, "**/*.nii.gz", "")
    problem = f"no permission: the folder {root}/b cannot be read; change its mode"
    assert [(row["scan"], row["problem"]) for row in rows] == [("s1", ""), ("b", problem)]
    assert caplog.messages == [f"{root}/b cannot be read, so its scans are missing from the study; change its mode"]


ANNEX = "../.git/annex/objects/a/b/MD5E-s12--0.nii.gz/MD5E-s12--0.nii.gz"


def test_content_that_datalad_did_not_get_is_named_with_the_command(folder):
    root = folder("s/a.nii.gz", "m/a.nii.gz")
    (root / "s/b.nii.gz").symlink_to(ANNEX)
    (root / "m/b.nii.gz").symlink_to(ANNEX)
    rows = read_folder(root, "s/*.nii.gz", "")
    advice = "is not on this machine; run: datalad get"
    assert rows[1]["problem"] == f"missing file: the content of {root}/s/b.nii.gz {advice} {root}/s/b.nii.gz"
    (root / "s/b.nii.gz").unlink()
    folder("s/b.nii.gz")
    rows = read_folder(root, "s/*.nii.gz", "", masks="m/{scan}.nii.gz")
    assert rows[1]["problem"] == f"missing mask: the content of {root}/m/b.nii.gz {advice} {root}/m/b.nii.gz"
    (root / "s/c.nii.gz").symlink_to(ANNEX)
    (root / "t.tsv").write_text("file\tid\ns/c.nii.gz\tc\n")
    (row,) = read_listed_scans(root, "t.tsv", {"file": "file", "participant": "id"})
    assert row["problem"] == f"missing file: the content of {root}/s/c.nii.gz {advice} {root}/s/c.nii.gz"


def test_lesion_masks_without_content_are_named(folder):
    root = folder("sub-1/anat/sub-1_FLAIR.nii.gz")
    (root / "sub-1/anat/sub-1_FLAIR_roi.nii.gz").symlink_to(ANNEX)
    (row,) = read_pairs("bids", root)
    assert row["problem"].startswith("missing mask: the content of ") and "datalad get" in row["problem"]


def test_a_file_in_a_folder_that_cannot_be_entered_is_named(folder, monkeypatch):
    root = folder("a/s1.nii.gz")

    def stat(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(walk.os, "stat", stat)
    reason = f"no permission: {root}/a/s1.nii.gz cannot be reached; change the mode of its folder"
    assert walk.missing_reason(root / "a/s1.nii.gz", "file") == reason


@pytest.mark.parametrize("name", ["sub-1_part-phase_T1w", "sub-1_part-real_T1w", "sub-1_part-imag_T1w", "s1_ph"])
def test_parts_of_complex_images_are_excluded_in_every_source(folder, name):
    magnitude = "sub-1_part-mag_T1w.nii.gz"
    root = folder(f"sub-1/anat/{name}.nii.gz", f"sub-1/anat/{magnitude}")
    part = name.split("part-")[-1].split("_")[0] if "part-" in name else "ph"
    problem = f"not magnitude: {name}.nii.gz is the {part} part of a complex image; leave it out"
    rows = {row["scan"]: row["problem"] for row in read_folder(root, "**/*.nii.gz", "")}
    assert rows == {name: problem, "sub-1_part-mag_T1w": ""}
    (root / "t.tsv").write_text(f"file\tid\nsub-1/anat/{name}.nii.gz\t1\nsub-1/anat/{magnitude}\t1\n")
    rows = read_listed_scans(root, "t.tsv", {"file": "file", "participant": "id"})
    assert [row["problem"] for row in rows] == [problem, ""]


def test_the_default_regular_expression_drops_the_ending(folder):
    rows = read_folder(folder("p00.nii.gz", "p01.nii"), "*", "(?P<scan>.+)")
    assert [(row["scan"], row["participant"]) for row in rows] == [("p00", "p00"), ("p01", "p01")]
