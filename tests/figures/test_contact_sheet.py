"""Outliers of a cohort, and the contact sheet of all scans."""

import json

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from neuromf.data import nifti, participants
from neuromf.figures import contact_sheet, style
from neuromf.metrics.images import outliers
from workflow_scripts import contact_sheet as contact_script

SHAPE = (24, 32, 24)


@pytest.fixture
def table():
    """A cohort of 40 scans without outliers."""
    rng = np.random.default_rng(0)
    extent = [
        f"{x}x{y}x{z}" for x, y, z in (rng.normal([140, 175, 140], [5, 7, 5], (40, 3)) / 2).round().astype(int) * 2
    ]
    sizes, means = rng.normal(1500, 100, 40).round(1), rng.normal(0.6, 0.02, 40).round(4)
    scans = [f"s{k:02d}" for k in range(40)]
    return pd.DataFrame({"scan": scans, "extent_mm": extent, "foreground_ml": sizes, "mean": means})


@pytest.fixture
def correlation():
    return 0.95 + np.random.default_rng(1).normal(0, 0.01, 40)


def brain(rng, shape=SHAPE):
    """An ellipsoid of random size with a bright front and a dark right half of the top."""
    points = np.stack(np.indices(shape), axis=-1) - np.array(shape) / 2 + 0.5
    size = np.array(shape) / 2 * rng.uniform(0.78, 0.85, 3)
    inside = np.linalg.norm(points / size, axis=-1) < 1
    x = 0.5 + 0.3 * (points[..., 1] > 4) - 0.3 * ((points[..., 2] > 3) & (points[..., 0] > 0))
    return (x * inside).astype(np.float32)


def test_robust_scores_are_standard_scores_of_normal_values_and_ignore_outliers():
    values = np.random.default_rng(0).normal(7, 2, 100_001)
    values[:3] = 1e9
    np.testing.assert_allclose(outliers.robust_scores(values)[3:], (values[3:] - 7) / 2, atol=0.05)
    assert (outliers.robust_scores(np.array([3.0, 3, 3, 3, 8])) == 0).all()


def test_a_cohort_of_similar_scans_has_no_outliers(table, correlation):
    rows = outliers.find_outliers(table, correlation)
    assert (rows["flag"] == "").all() and (rows["oddness"] < outliers.BEYOND).all()
    assert rows["oddness"].is_monotonic_decreasing and sorted(rows["scan"]) == table["scan"].tolist()


@pytest.mark.parametrize(
    ("column", "value", "flag"),
    [
        ("foreground_ml", 700, "small (-"),
        ("foreground_ml", 2600, "large (+"),
        ("mean", 0.3, "dark (-"),
        ("mean", 0.9, "bright (+"),
        ("extent_mm", "80x175x140", "narrow (-"),
        ("extent_mm", "140x260x140", "long front to back (+"),
        ("extent_mm", "140x175x90", "low top to bottom (-"),
    ],
)
def test_an_outlier_is_named_and_comes_first(table, correlation, column, value, flag):
    table.loc[17, column] = value
    rows = outliers.find_outliers(table, correlation)
    assert rows["scan"][0] == "s17" and rows["flag"][0].startswith(flag) and ";" not in rows["flag"][0]
    assert (rows["flag"][1:] == "").all()


def test_only_low_correlations_are_outliers_and_all_flags_are_listed(table, correlation):
    correlation[3], correlation[4] = 0.2, 0.9999
    table.loc[3, "foreground_ml"] = 700
    rows = outliers.find_outliers(table, correlation)
    assert [part.split(" (")[0] for part in rows["flag"][0].split("; ")] == ["low correlation", "small"]
    assert (rows["flag"][1:] == "").all()


def test_fewer_than_ten_scans_have_no_outliers(table, correlation):
    table.loc[0, "foreground_ml"] = 9
    assert (outliers.find_outliers(table[:9], correlation[:9])["flag"] == "").all()
    ten = outliers.find_outliers(table[:10], correlation[:10])
    assert ten["scan"][0] == "s00" and ten["flag"][0].startswith("small")


def test_a_flipped_volume_has_a_low_correlation():
    rng = np.random.default_rng(0)
    cohort_ = [brain(rng) for _ in range(20)]
    for axis in range(3):
        lines = [outliers.coarse(x) for x in cohort_[:-1]] + [outliers.coarse(np.flip(cohort_[-1], axis))]
        found = outliers.correlation_with_median(lines)
        assert found[-1] < found[:-1].min() - 0.02 and found[:-1].min() > 0.9
        assert outliers.robust_scores(found)[-1] < -outliers.BEYOND
    assert np.isnan(outliers.correlation_with_median([*lines[:5], 0 * lines[0]])[-1])


def test_coarse_volumes_are_block_means():
    x = np.random.default_rng(0).random((80, 96, 80)).astype(np.float32)
    line = outliers.coarse(x)
    assert line.shape == (16 * 20 * 16,) and line.dtype == np.float32
    assert line[0] == pytest.approx(x[:5, :5, :5].mean(), rel=1e-5)


def test_a_tile_has_left_on_the_left_and_front_on_the_right():
    x = np.zeros(SHAPE, np.float32)
    x[:6] += 0.4  # left
    x[:, 24:] += 0.4  # front
    image = contact_sheet.tile(x, 4.0)
    axial, sagittal = image[:, :24].astype(int), image[:12, 24:].astype(int)
    assert image.shape == (32, 24 + 16) and image.dtype == np.uint8
    assert axial[:, 0].mean() > axial[:, -1].mean() and axial[0].mean() > axial[-1].mean()
    assert sagittal[:, -1].mean() > sagittal[:, 0].mean() and (image[12:, 24:] == 0).all()


def test_outliers_are_framed_and_labelled_and_excluded_scans_listed():
    tiles = [np.full((32, 40), 10 * k, np.uint8) for k in range(14)]
    names, flags = [f"scan-{k}" for k in range(14)], ["small (-9.0); dark (-6.1)"] + [""] * 13
    (page,) = contact_sheet.draw(tiles, names, flags, [("gone", "damaged: " + "x" * 300), ("lost", "missing file: y")])
    (ax,) = page.axes
    texts = [text.get_text() for text in ax.texts]
    assert len(ax.patches) == 1 and set(names) <= set(texts) and "\nsmall (-9.0)\ndark (-6.1)" in texts
    assert texts.count("L") == texts.count("R") == 2  # once in each row
    listed = [text.get_text() for text in page.texts]
    assert listed[0] == "14 scans, 1 outliers (framed, first), 2 excluded:" and listed[2] == "lost: missing file: y"
    assert listed[1].startswith("gone: damaged: xx") and len(listed[1]) <= 150
    canvas = ax.images[0].get_array()
    for k, text in enumerate(names):
        (found,) = (one for one in ax.texts if one.get_text() == text)
        assert canvas[int(found.get_position()[1]) - 3, int(found.get_position()[0])] == 10 * k
    plt.close(page)


@pytest.mark.parametrize(("n", "bad", "wanted"), [(4, 60, 1), (150, 0, 1), (150, 60, 2), (400, 60, 3)])
def test_every_tile_is_on_one_page_and_no_page_is_too_high(n, bad, wanted):
    tiles = [np.full((96, 128), 9, np.uint8)] * n
    names = [f"s{k}" for k in range(n)]
    pages = contact_sheet.draw(tiles, names, ["odd (+9.0)"] * 3 + [""] * (n - 3), [("gone", "why")] * bad)
    texts = [text.get_text() for page in pages for text in page.axes[0].texts]
    assert [name for name in texts if name in set(names)] == names
    assert all(page.get_size_inches()[1] <= contact_sheet.HEIGHT + 0.01 for page in pages)
    assert len(pages) == wanted
    assert (pages[0].texts[-1].get_text() == "and 35 more, see qc.tsv") == bool(bad)
    for page in pages:
        plt.close(page)


def test_a_study_without_accepted_scans_has_a_page():
    (page,) = contact_sheet.draw([], [], [], [("gone", "why")])
    assert [text.get_text() for text in page.texts][1] == "gone: why"
    plt.close(page)


def test_the_script_writes_sheet_scores_and_side_file(tmp_path):
    rng, rows = np.random.default_rng(0), []
    for k in range(14):
        x = brain(rng) if k != 5 else brain(rng)[:, :, ::-1]
        file = tmp_path / f"s{k}.nii.gz"
        nifti.write_volume(file, x, np.diag([4.0, 4, 4, 1]))
        ml, mean = round(float((x > 0).sum()) * 0.064, 1), round(float(x[x > 0].mean()), 4)
        rows.append({"scan": f"s{k}", "status": "accepted", "reason": "", "extent_mm": "80x104x80"})
        rows[-1] |= {"foreground_ml": ml, "mean": mean, "volume": str(file)}
    rows.append({"scan": "bad", "status": "quarantined", "reason": "empty file: x has 0 bytes"})
    participants.write_table(pd.DataFrame(rows), tmp_path / "qc.tsv")
    for name in ("one", "two"):
        stem, config = str(tmp_path / name), json.dumps({"spacing_mm": 4.0, "study": "test"})
        contact_script.main(
            ["--qc", str(tmp_path / "qc.tsv"), "--config", config, "--table", f"{stem}.tsv", "--out", stem]
        )
    found = participants.read_table(tmp_path / "one.tsv")
    assert found["scan"][0] == "s5" and found["flag"][0].startswith("low correlation (-") and len(found) == 14
    facts = json.loads((tmp_path / "one.json").read_text())
    assert (facts["scans"], facts["excluded"], facts["study"]) == (14, ["bad"], "test") and "s5" in facts["outliers"]
    for suffix in (".pdf", ".png", ".json", ".tsv"):
        assert (tmp_path / f"one{suffix}").read_bytes() == (tmp_path / f"two{suffix}").read_bytes()
    assert nib.load(tmp_path / "s5.nii.gz").shape == SHAPE


def test_pages_are_one_pdf_of_equal_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(contact_sheet, "HEIGHT", 1.5)
    tiles = [np.full((32, 40), 9, np.uint8)] * 25
    for name in ("one", "two"):
        pages = contact_sheet.draw(tiles, [f"s{k}" for k in range(25)], [""] * 25, [])
        style.save(pages, tmp_path / name, {"study": "test"})
    assert len(pages) > 1 and (tmp_path / "one.pdf").read_bytes() == (tmp_path / "two.pdf").read_bytes()
    assert (tmp_path / "one.pdf").read_bytes().count(b"/Type /Page ") == len(pages)
    assert b"study" in (tmp_path / "one.pdf").read_bytes()
