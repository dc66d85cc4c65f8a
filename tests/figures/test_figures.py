"""Figures 1 and 3, slices of brains, and files of figures."""

import importlib
import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from neuromf.data.nifti import write_volume
from neuromf.data.participants import write_table
from neuromf.figures import brains, catalogue, overview, samples, style
from workflow_scripts import fig_3 as script


@pytest.fixture
def volume():
    """A box brighter at the left, the front and the top, in RAS+."""
    x = np.zeros((20, 24, 16), np.float32)
    x[4:16, 5:19, 3:13] = 0.5
    x[4:7] += 0.2 * (x[4:7] > 0)  # low first index: left
    x[:, 16:19] += 0.2 * (x[:, 16:19] > 0)  # high second index: front
    x[:, :, 11:13] += 0.1 * (x[:, :, 11:13] > 0)  # high third index: top
    return x


def test_box_has_the_brain_and_its_margin(volume):
    assert brains.box([volume], margin=1) == (slice(3, 17), slice(4, 20), slice(2, 14))


@pytest.mark.parametrize(("plane", "shape"), [("axial", (16, 14)), ("coronal", (12, 14)), ("sagittal", (12, 16))])
def test_slices_are_radiologically_named_and_upright(volume, plane, shape):
    image = brains.cut(volume, plane, brains.box([volume], margin=1), spacing_mm=4.0)
    assert image.shape == shape
    rows, columns = image.mean(1), image.mean(0)
    if plane == "sagittal":
        assert columns[-3] > columns[3]  # front on the right
    else:
        assert columns[2] > columns[-3]  # left on the left, marked L
    assert rows[2] > rows[-3]  # front or top is up


def panels(fig):
    return [ax for ax in fig.axes if ax.images]


def test_all_panels_of_figure_3_share_window_and_scale(volume):
    fig = samples.draw({"real": [volume] * 3, "generated": [volume / 2] * 4}, spacing_mm=4.0, columns=3)
    assert len(panels(fig)) == 2 * 3 * 3
    assert {image.get_clim() for ax in panels(fig) for image in ax.images} == {(0.0, 1.0)}
    shapes = [ax.images[0].get_array().shape[::-1] for ax in panels(fig)]
    inches = [ax.get_position().bounds[2:] * fig.get_size_inches() for ax in panels(fig)]
    assert len(set((np.array(inches) / shapes).round(6).ravel())) == 1  # square voxels of one size in all panels
    assert [text.get_text() for text in fig.texts] == ["real", "generated"]


def test_panels_of_figure_3_are_on_the_page_and_do_not_overlap(volume):
    fig = samples.draw(
        dict.fromkeys(("a", "b", "c"), [volume] * 2), spacing_mm=4.0, columns=2, captions={"b": ["1", "2"]}
    )
    boxes = [ax.get_position() for ax in panels(fig)]
    assert all(-1e-6 <= box.x0 and box.x1 <= 1 + 1e-6 and -1e-6 <= box.y0 and box.y1 <= 1 + 1e-6 for box in boxes)
    for k, one in enumerate(boxes):
        assert not any(one.overlaps(other.shrunk(0.99, 0.99)) for other in boxes[:k])


def test_figure_3_marks_left_and_right_and_has_a_bar_of_5_cm(volume):
    fig = samples.draw({"real": [volume] * 2}, spacing_mm=4.0, columns=2)
    for k, ax in enumerate(panels(fig)):
        sides = {text.get_text(): text.get_position()[0] for text in ax.texts if text.get_text() in ("L", "R")}
        assert sides == ({"L": 0.03, "R": 0.97} if k in (0, 2) else {})  # the first axial and coronal panel
        if sides:
            image = np.asarray(ax.images[0].get_array())
            assert image[:, : image.shape[1] // 2].mean() > image[:, image.shape[1] // 2 :].mean()  # left is brighter
    (bar,) = panels(fig)[4].lines
    ends = panels(fig)[4].transAxes.transform(bar.get_xydata())[:, 0]
    voxel = np.diff(panels(fig)[4].transData.transform([(0, 0), (1, 0)])[:, 0])
    assert np.diff(ends) / voxel * 4.0 == pytest.approx(50, rel=1e-6)


def test_captions_of_figure_3_are_under_their_set(volume):
    fig = samples.draw(
        dict.fromkeys(("a", "b"), [volume] * 2), spacing_mm=4.0, columns=2, captions={"b": ["0.1", "0.2"]}
    )
    found = [[text.get_text() for text in ax.texts if text.get_text().startswith("0.")] for ax in panels(fig)]
    assert found == [*[[]] * 10, ["0.1"], ["0.2"]]


@pytest.fixture
def folder(volume, tmp_path):
    """Real scans, two folders of samples from the same noise, and nearest training scans, on disk."""
    affine, rows = np.diag([4.0, 4, 4, 1]), []
    for k in range(5):
        file = tmp_path / f"real-{k}.nii.gz"
        write_volume(file, np.roll(volume, k, axis=1), affine)
        rows.append({"scan": str(k), "split": "test" if k < 3 else "train", "status": "accepted", "volume": str(file)})
    write_table(pd.DataFrame(rows), tmp_path / "qc.tsv")
    for steps in (1, 50):
        out = tmp_path / f"nfe-{steps}"
        for k in range(4):
            write_volume(out / f"{k}.nii.gz", volume * (1 - 0.1 * k), affine)
        files = [str(out / f"{k}.nii.gz") for k in range(4)]
        write_table(pd.DataFrame({"number": range(4), "seed": 7, "file": files}), out / "samples.tsv")
    files = [str(tmp_path / "nfe-1" / f"{k}.nii.gz") for k in (3, 2, 1, 0)]
    pairs = pd.DataFrame({"generated": files, "train": rows[4]["volume"], "distance": [0.4, 0.3, 0.2, 0.1], "view": 0})
    pairs.loc[3, ["train", "view"]] = rows[3]["volume"], 1
    pairs.to_csv(tmp_path / "pairs.csv", index=False)
    return tmp_path


def drawn(monkeypatch, folder, *line):
    """Arguments of the figure that the script draws, and its side file."""
    calls, draw = [], samples.draw
    monkeypatch.setattr(samples, "draw", lambda *args: calls.append(args) or draw(*args))
    config = '{"spacing_mm": 4.0, "study": "test"}'
    files = ["--qc", folder / "qc.tsv", "--pairs", folder / "pairs.csv", *line]
    script.main(list(map(str, [*files, "--config", config, "--out", folder / "fig_3"])))
    return calls[0], json.loads((folder / "fig_3.json").read_text())


def test_the_script_puts_the_nearest_training_scan_below_each_sample(folder, volume, monkeypatch):
    (sets, _, columns, captions), facts = drawn(monkeypatch, folder, "--samples", folder / "nfe-1", folder / "nfe-50")
    names = ["test participants", "generated, NFE 1", "nearest in training", "same noise, NFE 50"]
    assert list(sets) == names and columns == 3  # there are three test participants
    assert captions == {"nearest in training": ["distance 0.1", "distance 0.2", "distance 0.3"]}
    first, second = sets["nearest in training"][:2]
    np.testing.assert_allclose(first, np.roll(volume, 3, axis=1)[::-1], atol=2e-5)  # the nearest scan is mirrored
    np.testing.assert_allclose(second, np.roll(volume, 4, axis=1), atol=2e-5)
    volumes = facts["volumes"]
    assert (facts["study"], facts["spacing_mm"], volumes["n"], volumes["window"]) == ("test", 4.0, 3, [0.0, 1.0])
    assert volumes["seeds"] == {names[1]: "7", names[3]: "7"}
    assert [row["generated"] for row in volumes["nearest"]] == volumes["files"][names[1]]


def test_pairs_of_other_samples_are_refused(folder, monkeypatch):
    with pytest.raises(
        ValueError, match="no nearest training scan of .*nfe-50/0.nii.gz and 2 more; the table .* has 4"
    ):
        drawn(monkeypatch, folder, "--samples", folder / "nfe-50")


def test_figure_1_has_shapes_and_images_of_its_data(volume):
    latent = np.zeros((4, 5, 6, 4))
    fig = overview.draw(volume, volume, latent, latent, latent)
    texts = " ".join(text.get_text() for ax in fig.axes for text in ax.texts).replace(r"$\times$", "x")
    assert "20x24x16" in texts and "4x5x6x4" in texts
    assert sum(len(ax.images) for ax in fig.axes) == 2 + 4 * 4


def test_equal_data_give_equal_bytes_with_their_provenance(volume, tmp_path):
    for name in ("one", "two"):
        style.save(samples.draw({"real": volume[None]}, spacing_mm=4.0, columns=1), tmp_path / name, {"study": "test"})
    for suffix in (".pdf", ".png", ".json"):
        assert (tmp_path / f"one{suffix}").read_bytes() == (tmp_path / f"two{suffix}").read_bytes()
    assert b"study" in (tmp_path / "one.png").read_bytes()


def test_modules_of_the_catalogue_have_their_functions_and_import_no_torch():
    modules = {entry.module for entry in (*catalogue.FIGURES.values(), *catalogue.TABLES.values())}
    light = ", ".join(sorted(modules - {"neuromf.figures.privacy"}))
    code = f"import sys, {light}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    for module in map(importlib.import_module, modules):
        assert callable(module.render) and callable(getattr(module, "draw", None) or module.build)
