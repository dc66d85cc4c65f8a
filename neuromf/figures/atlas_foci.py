"""Figure F1 of the atlas: density of foci by space before and after cleaning, and fractions inside the brain mask.

The colour is the square root of the number of foci per 4 x 4 mm of the projection along x or y, relative to its
maximum. The contour is that of the brain mask.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from neuromf.atlas.cleaning import deduplicate
from neuromf.atlas.preparation import read_source
from neuromf.atlas.studies import read_studies
from neuromf.data.brain_grid import BrainGrid, brain_grid
from neuromf.data.neurosynth import SPACES
from neuromf.figures import style

BIN_MM = 4.0
LIMITS = {0: (-100, 100), 1: (-136, 104), 2: (-80, 104)}  # of x, y and z in mm
PANELS = (("before", 0), ("before", 1), ("after", 0), ("after", 1))  # state and projected axis
WIDTHS = [LIMITS[1 if axis == 0 else 0][1] - LIMITS[1 if axis == 0 else 0][0] for _, axis in PANELS]
SMALL = 7


def render(
    studies: str | Path,
    out: str | Path,
    *,
    scale: str,
    data_root: str,
    seed: int,
    **provenance: Any,  # noqa: ANN401
) -> None:
    """Write the figure as out.pdf, out.png and out.json.

    Arguments:
        studies: Folder of the cleaned studies with coordinate_log.json.
        out: Path of the files without suffix.
        scale, data_root, seed: The source, as in `neuromf.atlas.preparation.prepare_studies`.
        provenance: Further values for the metadata of the files.
    """
    log, statement = _read_log(Path(studies))
    points = foci_by_space(read_source(scale, data_root, seed), read_studies(studies))
    grid = brain_grid("2mm")
    figure = style.new(style.PAGE, 5.5)
    panels = figure.subplots(4, 4, height_ratios=[1, 1, 1, 1], width_ratios=WIDTHS)
    for row, space in enumerate(SPACES):
        for axes, (state, axis) in zip(panels[row], PANELS, strict=True):
            draw_density(axes, points[state][space], axis, grid)
            if not row:
                view = "sagittal" if axis == 0 else "coronal"
                axes.set_title(f"{'reported' if state == 'before' else 'cleaned'}, {view}", fontsize=8)
        _label_row(panels[row, 0], space, log)
    for axes in panels[3]:
        axes.remove()
    bottom = (
        figure.add_subplot(panels[0, 0].get_gridspec()[3, :2]),
        figure.add_subplot(panels[0, 0].get_gridspec()[3, 2:]),
    )
    draw_fractions(bottom[0], log["summary"])
    draw_displacement(bottom[1], pd.DataFrame(log["studies"]))
    if statement:
        figure.supxlabel(statement, fontsize=SMALL)
    style.save(figure, out, {"scale": scale, "statement": statement, "summary": log["summary"],
                             "deduplication": log["deduplication"], **provenance})  # fmt: skip


def _read_log(folder: Path) -> tuple[dict[str, Any], str]:
    import json

    log = json.loads((folder / "coordinate_log.json").read_text(encoding="utf-8"))
    return log, json.loads((folder / "scale.json").read_text(encoding="utf-8"))["statement"]


def foci_by_space(tables: Any, studies: Any) -> dict[str, dict[str, NDArray]]:  # noqa: ANN401  # tables and Studies
    """Foci (n, 3) in mm by state (before, after cleaning) and space."""
    foci, _ = deduplicate(tables.coordinates)
    label = foci["id"].map(tables.metadata.set_index("id")["space"]).to_numpy()
    cleaned = studies.table["space"].to_numpy()[studies.study_of_focus]
    raw = foci[["x", "y", "z"]].to_numpy(float)
    return {
        "before": {space: raw[label == space] for space in SPACES},
        "after": {space: studies.points[cleaned == space] for space in SPACES},
    }


def draw_density(axes: Axes, points: NDArray, axis: int, grid: BrainGrid) -> None:
    """Histogram of the projection of points along an axis, with the contour of the brain."""
    across = 1 if axis == 0 else 0
    bins = [np.arange(LIMITS[k][0], LIMITS[k][1] + BIN_MM, BIN_MM) for k in (across, 2)]
    counts, _, _ = np.histogram2d(points[:, across], points[:, 2], bins=bins)
    extent = (*LIMITS[across], *LIMITS[2])
    density = np.ma.masked_equal(
        np.sqrt(counts.T / max(counts.max(), 1)), 0
    )  # square root: sparse regions stay visible
    axes.imshow(density, origin="lower", extent=extent, cmap="magma_r", vmin=0, vmax=1)
    outline = grid.mask.any(axis)
    ticks = [grid.affine[k, k] * np.arange(grid.shape[k]) + grid.affine[k, 3] for k in (across, 2)]
    axes.contour(*ticks, outline.T, levels=[0.5], colors="black", linewidths=0.6)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_aspect("equal")
    for spine in axes.spines.values():
        spine.set_visible(False)


def _label_row(axes: Axes, space: str, log: Mapping[str, Any]) -> None:
    decisions = log["summary"].get(space, {}).get("decisions", {})
    text = "\n".join([space, *(f"{n:,} {name}" for name, n in decisions.items())])
    axes.annotate(text, (-0.06, 0.5), xycoords="axes fraction", ha="right", va="center", fontsize=SMALL)


def draw_fractions(axes: Axes, summary: Mapping[str, Any]) -> None:
    """Fraction of reported foci inside the brain mask by space, before and after the transform."""
    spaces = [space for space in SPACES if space in summary]
    for column, name, face, shift in (
        ("out_of_mask_before", "as reported", "white", -0.2),
        ("out_of_mask_after", "after the transform", "C0", 0.2),
    ):
        heights = np.array([1 - summary[space][column] for space in spaces])
        place = np.arange(len(spaces)) + shift
        axes.plot(place, heights, "o", color="C0", markerfacecolor=face, label=name, clip_on=False)
        for x, height in zip(place, heights, strict=True):
            axes.annotate(f"{height:.3f}", (x, height), (0, 5), textcoords="offset points", ha="center", fontsize=SMALL)
    axes.set_xticks(range(len(spaces)), spaces)
    axes.set_xlim(-0.6, len(spaces) - 0.4)
    axes.margins(y=0.3)
    axes.set_ylabel("in the brain", fontsize=8)
    axes.legend(fontsize=SMALL, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    style.letter(axes, "a")


def draw_displacement(axes: Axes, studies: pd.DataFrame) -> None:
    """Histogram of the displacement of transformed studies."""
    moved = studies.loc[studies["decision"] == "transformed", "displacement_rms_mm"]
    axes.hist(moved, bins=np.arange(0, 18, 0.5).tolist(), color="C0")
    axes.axvline(moved.mean(), color=style.LIMIT, linestyle="--", label=f"mean {moved.mean():.1f} mm")
    axes.set_xlabel("displacement of TAL studies, r.m.s., mm", fontsize=8)
    axes.set_ylabel("studies", fontsize=8)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=4))
    axes.legend(fontsize=SMALL)
    style.letter(axes, "b")
