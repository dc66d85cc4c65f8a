"""Figure 7 and table 4."""

import json

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb

from neuromf.figures import brains, style
from neuromf.figures.lesions import ROWS, Summary, draw, lesion_voxel
from neuromf.report.tables.lesions import METRICS, build
from neuromf.report.tables.style import save

BOX = (slice(2, 18), slice(2, 22), slice(2, 14))


@pytest.fixture
def pair():
    """A brain with a lesion at the left, front and top."""
    image, mask = np.zeros((2, 20, 24, 16), np.float32)
    image[4:16, 4:20, 4:12] = 0.5
    mask[5:8, 15:18, 9:11] = 1
    return image, mask


def panels(fig):
    return [ax for ax in fig.axes if ax.images]


def test_slices_go_through_the_lesion_or_the_middle_of_the_brain(pair):
    image, mask = pair
    voxel = lesion_voxel(mask, BOX)
    assert mask[voxel] == 1 and lesion_voxel(mask * 0, BOX) == (10, 12, 8)
    for plane in brains.PLANES:
        assert brains.cut_at(mask, plane, BOX, voxel).any()
    axial = brains.cut_at(mask, "axial", BOX, voxel)
    rows, columns = np.argwhere(axial).mean(0)
    assert columns < axial.shape[1] / 2 and rows < axial.shape[0] / 2  # left on the left, front up


def test_all_panels_share_the_window_and_contours_are_drawn_for_masks(pair):
    image, mask = pair
    fig = draw({"real": [pair] * 2, "generated": [pair, (image, mask * 0)]}, spacing_mm=4.0, columns=2)
    assert len(panels(fig)) == 2 * len(ROWS) * 2
    assert {image.get_clim() for ax in panels(fig) for image in ax.images} == {(0.0, 1.0)}
    contours = [bool(ax.collections) for ax in panels(fig)]
    assert contours == [False, False, True, True, True, True, True, True, False, False, *[True, False] * 3]
    colour = panels(fig)[2].collections[0].get_edgecolor()[0][:3]
    assert tuple(colour) == pytest.approx(to_rgb(style.PALETTE[1]))
    assert [text.get_text() for text in fig.texts] == ["real", "generated"]
    ends = [ax.get_position().bounds for ax in fig.axes]
    assert all(x >= 0 and y >= -1e-6 and x + w <= 1 and y + h <= 1 + 1e-6 for x, y, w, h in ends)


def test_sides_captions_and_bar_are_written(pair):
    fig = draw({"real": [pair] * 2}, spacing_mm=4.0, columns=2, captions={"real": ["3.0 ml, +0.20", "no lesion"]})
    texts = [text.get_text() for ax in fig.axes for text in ax.texts]
    assert texts.count("L") == texts.count("R") == 3 and "5 cm" in texts
    assert [text.get_text() for ax in panels(fig)[-2:] for text in ax.texts] == ["3.0 ml, +0.20", "no lesion"]


def test_panels_below_the_pairs_summarise_all_lesions_of_a_set(pair):
    profile = pd.DataFrame({"mm": [-1.25, 1.25], "value": [0.2, 0.0], "low": [0.1, -0.1], "high": [0.3, 0.1]})
    sets = {"real, test": Summary(profile, np.array([1.0, 3.0])), "generated": Summary(profile / 2, np.array([]))}
    fig = draw(dict.fromkeys(sets, [pair]), spacing_mm=4.0, columns=1, summaries=sets)
    curves, thickening = fig.axes[-2:]
    assert [line.get_ydata().tolist() for line in curves.lines[:2]] == [[0.2, 0.0], [0.1, 0.0]]
    assert thickening.lines[1].get_xdata() == pytest.approx([2.0, 2.0])  # the mean
    assert [text.get_text() for text in thickening.get_yticklabels()] == ["real", "generated"]
    ends = [ax.get_position().bounds for ax in fig.axes]
    assert all(x >= 0 and y >= -1e-6 and x + w <= 1 and y + h <= 1 + 1e-6 for x, y, w, h in ends)


SETTINGS = {
    "joint": {"run": "joint", "mask_encoding": "level", "p": "1.5, 2", "targets": "both", "trainable": 0.18},
    "same": {"run": "joint", "mask_encoding": "level", "p": "1.5, 2", "targets": "both", "trainable": 0.18},
    "uniform": {"run": "uniform", "mask_encoding": "level", "p": "2, 2", "targets": "both", "trainable": 0.18},
}


@pytest.fixture
def metrics():
    """Rows of two runs and, twice, of real pairs, as in their files."""
    names = ["kid", *METRICS]
    rows = [
        {"arm": arm, "metric": metric, "features": "encoder-512" if metric == "kid" else "", "n": n, "value": k + start,
         "low": k + start - 0.5, "high": k + start + 0.5}
        for run, start in (("joint", 1.0), ("uniform", 2.0)) for arm, n, start in (("real", 14, 0.0), (run, 32, start))
        for k, metric in enumerate(names)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_table_4_has_a_row_for_every_arm_and_one_for_real_pairs(metrics, tmp_path):
    table, columns, notes = build(metrics, SETTINGS)
    assert table["name"].tolist() == ["joint", "same", "uniform", "test pairs"]
    assert table["kid encoder-512"].tolist() == [1, 1, 2, 0] and table["n"].tolist() == [32, 32, 32, 14]
    assert table["dice"].tolist()[:3] == [7, 7, 8] and table["dice_low"].iloc[0] == 6.5
    save(table, columns, notes, tmp_path / "table_4", {"study": "tiny"})
    text = (tmp_path / "table_4.tex").read_text()
    assert r"\textit{Generated, 1 network evaluation}" in text and "18.0" in text
    assert json.loads((tmp_path / "table_4.json").read_text())["rows"] == 4
    (line,) = (line for line in text.splitlines() if line.startswith("test pairs"))
    assert line.startswith("test pairs &  &  &  &  & 14 &")


def test_arms_without_metrics_and_duplicate_metrics_are_refused(metrics):
    with pytest.raises(ValueError, match="no metrics of run uniform; the tables have joint, real"):
        build(metrics[metrics["arm"] != "uniform"], SETTINGS)
    twice = pd.concat([metrics, metrics.tail(1).assign(value=9.0)])
    with pytest.raises(ValueError, match="place_wasserstein has 2 rows, expected one"):
        build(twice, SETTINGS)
