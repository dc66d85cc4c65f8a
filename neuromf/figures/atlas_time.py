"""Figure F7 of the atlas: mean decoded map of each year, and the drift of latents between years without bias."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from numpy.typing import NDArray

from neuromf.atlas.guards import common_scale, statement
from neuromf.atlas.inference import Atlas, load_atlas
from neuromf.atlas.rates import decoded
from neuromf.atlas.studies import Studies, read_studies
from neuromf.atlas.temporal import YEARS
from neuromf.figures import style

COLUMNS = 11
PREFERRED = ("volume", "pca")  # latent space of the drift, the first one that is measured
SMALL = 7
FORECASTERS = {"persistence": "persistence", "linear": "linear drift", "smoothing": "smoothing", "gru": "GRU"}


def render(studies: Path, checkpoint: Path, result: Path, out: Path, **facts: Any) -> None:
    """Write the figure as out.pdf, out.png and out.json.

    Arguments:
        studies: Folder of studies.
        checkpoint: Checkpoint of the volume model.
        result: JSON file of `neuromf.atlas.analyses.write_analyses`.
        out: Path of the files without suffix.
        facts: Further provenance.
    """
    everything, atlas = read_studies(studies), load_atlas(checkpoint)
    found = json.loads(Path(result).read_text(encoding="utf-8"))
    scale = common_scale({"studies": everything.scale, "analyses": found["scale"]})
    space = next((name for name in PREFERRED if name in found["time"]), next(iter(found["time"])))
    years, maps = yearly_maps(atlas, everything)
    figure: Any = style.new(style.PAGE, 4.6)
    strip, lower = figure.subfigures(2, 1, height_ratios=[2.3, 2.3])
    draw_strip(strip, years, maps, atlas)
    left, right = lower.subplots(1, 2, width_ratios=[1.6, 1])
    draw_drift(left, found["time"][space]["drift"])
    draw_forecasts(right, found["time"][space]["verdicts"])
    if text := statement(scale):
        lower.supxlabel(text, fontsize=SMALL)
    time = {name: found["time"][space][name] for name in ("drift", "verdicts")}
    style.save(figure, out, {"scale": scale, "statement": statement(scale), "space": space, **time, **facts})


def yearly_maps(atlas: Atlas, studies: Studies) -> tuple[list[int], NDArray[np.float64]]:
    """Years with studies, and the map decoded from the mean latent of each, relative to that of all years, (n, V)."""
    mu, _ = atlas.latents(studies)
    when = studies.table["year"].to_numpy()
    years = [year for year in YEARS if (when == year).any()]
    means = np.stack([mu[when == year].mean(0) for year in years] + [mu.mean(0)])
    maps = decoded(atlas, atlas.grid, torch.from_numpy(means.astype(np.float32)), None)
    return years, maps[:-1] / maps[:-1].mean(1, keepdims=True) - maps[-1] / maps[-1].mean()


def draw_strip(figure: Any, years: Sequence[int], maps: NDArray, atlas: Atlas) -> None:  # noqa: ANN401  # a subfigure
    """Axial extreme values of the change of each year's map."""
    panels = figure.subplots(2, COLUMNS, squeeze=False, gridspec_kw={"wspace": 0.02, "hspace": 0.05}).ravel()
    outline, limit = atlas.grid.mask.any(2), float(np.abs(maps).max())
    for axes, year, values in zip(panels, years, maps, strict=False):
        volume = atlas.grid.volume(values)
        place = np.abs(volume).argmax(2)[..., None]
        flat = np.where(outline, np.take_along_axis(volume, place, 2)[..., 0], np.nan)
        image = axes.imshow(flat.T, origin="lower", cmap="RdBu_r", vmin=-limit, vmax=limit)
        axes.contour(outline.T, levels=[0.5], colors="0.5", linewidths=0.5)
        axes.set_title(year, fontsize=SMALL, pad=1)
    for axes in panels:
        axes.set_axis_off()
    bar = figure.colorbar(image, ax=panels.tolist(), shrink=0.7, pad=0.01, aspect=18)
    bar.set_label("change of density,\nmean 1", fontsize=SMALL)
    bar.ax.tick_params(labelsize=SMALL)
    panels[0].annotate("(a)", (-0.1, 1.2), xycoords="axes fraction", fontweight="bold")


def draw_drift(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    """Frechet distance of each year to the one before: raw, floor of two halves of a year, and without bias."""
    known = [row for row in rows if "unbiased" in row]
    years = [row["year"] for row in known]
    for name, label, colour in (("raw", "raw", "0.6"), ("floor", "two halves of one year", "C0"),
                                ("unbiased", "without bias", "C1")):  # fmt: skip
        axes.plot(years, [row[name] for row in known], marker=".", color=colour, label=label)
    axes.axhline(0, color=style.LIMIT, linestyle="--", linewidth=0.8)
    axes.set(xlabel="year", ylabel="Frechet distance\nto the year before")
    axes.legend(fontsize=SMALL)
    style.letter(axes, "b", left=45)


def draw_forecasts(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    """Difference of each forecaster to persistence, with its interval over years."""
    compared = [row for row in rows if row["forecaster"] != "persistence"]
    values = np.array([row["difference"] for row in compared])
    error = np.abs(np.array([[row["low"], row["high"]] for row in compared]).T - values)
    axes.errorbar(values, range(len(compared)), xerr=error, fmt="D", color="C1", elinewidth=1, capsize=3)
    axes.axvline(0, color=style.LIMIT, linestyle="--", linewidth=0.8)
    axes.set_yticks(range(len(compared)), [FORECASTERS[row["forecaster"]] for row in compared], fontsize=SMALL)
    axes.set_ylim(len(compared) - 0.5, -0.5)
    axes.set_xlabel("distance minus persistence", fontsize=8)
    style.letter(axes, "c", left=60)
