"""Figure F5 of the atlas: foci of five studies with their reconstruction by the point model, and its distances.

Projections along x (sagittal), y (coronal) and z (axial) with the contour of the brain mask; coordinates in mm.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from neuromf.atlas.guards import statement
from neuromf.atlas.point_examples import Example, examples
from neuromf.data.brain_grid import BrainGrid, brain_grid
from neuromf.figures import style

PLANES = ((1, 2), (0, 2), (0, 1))  # horizontal and vertical axis of the projections along x, y and z
METHODS = {
    "model": "point model",
    "pca": "PCA of ordered sets",
    "codebook": "codebook",
    "own_centroids": "own centroids",
}
SMALL = 7


def render(run: Path, studies: Path, table: Path, out: Path, *, split: str = "test", n: int = 5, seed: int = 0) -> None:
    """Write the figure as out.pdf, out.png and out.json.

    Arguments:
        run: Run folder or checkpoint of the point model.
        studies: Folder of studies.
        table: JSON file of `neuromf.atlas.point_evaluation.evaluate_points`.
        out: Path of the files without suffix.
    """
    found, scale, _ = examples(run, studies, split=split, n=n, seed=seed)
    result = json.loads(Path(table).read_text(encoding="utf-8"))
    grid = brain_grid("2mm")
    figure: Any = style.new(style.PAGE, 1.25 * n + 1.9)
    brains, bars = figure.subfigures(2, 1, height_ratios=[1.25 * n, 1.9])
    panels = brains.subplots(n, 3, squeeze=False)
    for axes, one in zip(panels, found, strict=True):
        for panel, plane in zip(axes, PLANES, strict=True):
            draw_projection(panel, one, plane, grid)
        label = f"{one.year}\n{one.n_foci} foci\n{one.chamfer_mm / 2:.1f} mm"
        axes[0].annotate(label, (-0.05, 0.5), xycoords="axes fraction", ha="right", va="center", fontsize=SMALL)
    panels[0, 0].legend(loc="upper left", bbox_to_anchor=(-0.75, 1.25), fontsize=SMALL, ncols=1, handletextpad=0.1)
    left, right = bars.subplots(1, 2)
    draw_reconstruction(left, result["reconstruction"])
    draw_generation(right, result["generation"])
    if text := statement(scale):
        bars.supxlabel(text, fontsize=SMALL)
    style.save(figure, out, {"scale": scale, "statement": statement(scale), "split": split, "seed": seed, **result})


def draw_projection(axes: Axes, one: Example, plane: tuple[int, int], grid: BrainGrid) -> None:
    """Foci and decoded points of one study on the contour of the brain."""
    (dropped,) = {0, 1, 2} - set(plane)
    ticks = [grid.affine[k, k] * np.arange(grid.shape[k]) + grid.affine[k, 3] for k in plane]
    axes.contour(*ticks, grid.mask.any(dropped).T, levels=[0.5], colors="0.6", linewidths=0.6)
    (x, y), (x_again, y_again) = one.original[:, plane].T, one.reconstructed[:, plane].T
    axes.scatter(x, y, s=9, c="C1", linewidths=0, label="foci")
    axes.scatter(
        x_again,
        y_again,
        s=7,
        marker="D",
        facecolors="none",
        edgecolors="C0",
        linewidths=0.7,
        label="decoded",
    )
    axes.set_aspect("equal")
    axes.set_axis_off()
    if plane == (0, 1) or plane == (0, 2):
        axes.text(0.02, 0.02, "L", transform=axes.transAxes, fontsize=SMALL)


def draw_reconstruction(axes: Axes, rows: list[dict[str, Any]]) -> None:
    """Bars of the mean distance to the nearest point, by method."""
    shown = [row for row in rows if row["method"] in METHODS]
    names = [f"{METHODS[row['method']]} ({row['numbers']})" for row in shown]
    bars = axes.barh(names, [row["chamfer_mm"] / 2 for row in shown], color=["C0", *["0.6"] * (len(shown) - 1)])
    axes.bar_label(bars, fmt="%.1f", fontsize=SMALL, padding=2)
    axes.invert_yaxis()
    axes.set_xlabel("distance to the nearest point, mm", fontsize=8)
    axes.margins(x=0.15)
    style.letter(axes, "a", left=90)


def draw_generation(axes: Axes, rows: list[dict[str, Any]]) -> None:
    """Accuracies of the nearest-neighbour two-sample test, of real and of generated sets."""
    names = {"model": "point model", "global_kde": "global density", "train": "training studies"}
    shown = [row for row in rows if row["count"] == "foci"]
    place = np.arange(len(shown))
    for k, (column, label) in enumerate((("accuracy_real", "real sets"), ("accuracy_generated", "generated sets"))):
        axes.barh(place + 0.36 * (k - 0.5), [row[column] for row in shown], 0.34, color=("0.6", "C0")[k], label=label)
    axes.axvline(0.5, color=style.LIMIT, linestyle="--", linewidth=0.8)
    axes.set_yticks(place, [names[row["sets"]] for row in shown])
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel("nearest set is of the same kind", fontsize=8)
    axes.legend(fontsize=SMALL, loc="lower center", bbox_to_anchor=(0.5, 0.98), ncols=2)
    style.letter(axes, "b", left=75)
