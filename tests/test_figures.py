"""Figures: right slices, one window, the same bytes from the same numbers, no torch."""

import subprocess
import sys

import numpy as np
import pytest

from neuromf.figures import brains, style
from neuromf.figures.fig_1 import fig_1
from neuromf.figures.fig_3 import fig_3


@pytest.fixture
def volume():
    """A box brighter at the left, the front and the top, in RAS+."""
    x = np.zeros((20, 24, 16), np.float32)
    x[4:16, 5:19, 3:13] = 0.5
    x[4:7] += 0.2 * (x[4:7] > 0)  # low first index: the left of the person
    x[:, 16:19] += 0.2 * (x[:, 16:19] > 0)  # high second index: the front
    x[:, :, 11:13] += 0.1 * (x[:, :, 11:13] > 0)  # high third index: the top
    return x


def test_the_box_holds_the_brain_with_its_margin(volume):
    assert brains.box([volume], margin=1) == (slice(3, 17), slice(4, 20), slice(2, 14))


@pytest.mark.parametrize(("plane", "shape"), [("axial", (16, 14)), ("coronal", (12, 14)), ("sagittal", (12, 16))])
def test_slices_have_left_on_the_left_front_and_top_up(volume, plane, shape):
    image = brains.cut(volume, plane, brains.box([volume], margin=1), spacing_mm=4.0)
    assert image.shape == shape
    rows, columns = image.mean(1), image.mean(0)
    if plane == "sagittal":
        assert columns[-3] > columns[3]  # the front on the right
    else:
        assert columns[2] > columns[-3]  # L marks the left of the person, on the left of the page
    assert rows[2] > rows[-3]  # the front, or the top, is up


def test_every_panel_of_figure_3_has_one_window_and_every_set_its_rows(volume):
    fig = fig_3({"real": np.stack([volume] * 3), "generated": np.stack([volume] * 3)}, spacing_mm=4.0, columns=3)
    images = [image for block in fig.subfigs for ax in block.axes for image in ax.images]
    assert len(images) == 2 * 3 * 3
    assert {image.get_clim() for image in images} == {(0.0, 1.0)}


def test_figure_1_shows_what_it_is_given(volume):
    latent = np.zeros((4, 5, 6, 4))
    fig = fig_1(volume, latent, latent, latent, volume, {"volume_shape": "20x24x16", "latent_shape": "4x5x6x4"})
    texts = " ".join(text.get_text() for ax in fig.axes for text in ax.texts)
    assert "20x24x16" in texts and "4x5x6x4" in texts
    assert sum(len(ax.images) for ax in fig.axes) == 2 + 4 * 4


def test_equal_numbers_give_equal_bytes_and_say_what_made_them(volume, tmp_path):
    for name in ("one", "two"):
        style.save(fig_3({"real": volume[None]}, spacing_mm=4.0, columns=1), tmp_path / name, {"study": "test"})
    for suffix in (".pdf", ".png", ".json"):
        assert (tmp_path / f"one{suffix}").read_bytes() == (tmp_path / f"two{suffix}").read_bytes()
    assert b"study" in (tmp_path / "one.png").read_bytes()


def test_figures_import_no_torch():
    names = ", ".join(f"neuromf.figures.fig_{n}" for n in (1, 2, 3))
    code = f"import sys, {names}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
