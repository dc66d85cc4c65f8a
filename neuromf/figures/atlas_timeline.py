"""Figure F7 of the atlas: maps of the years, minus their mean, and the drift with and without finite-sample bias."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from neuromf.atlas.timeline import mean_change
from neuromf.data.brain_grid import brain_grid
from neuromf.figures import atlas_projections, style

COLUMNS = 11


def render(*, timeline: Path, out: Path, **provenance: Any) -> None:
    """Write the figure as out.pdf, out.png and out.json."""
    with np.load(timeline) as found:
        values = {name: found[name] for name in found.files}
    facts = {name: str(values[name]) for name in ("scale", "statement", "manifest")}
    style.save(draw(values), out, provenance | facts)


def draw(values: dict[str, NDArray]) -> Figure:
    """Two rows of 11 axial maps above the drift."""
    changes = mean_change(values["maps"], values["n"])
    grid = next(one for one in map(brain_grid, ("6mm", "2mm")) if one.n_voxels == changes.shape[1])
    limit = max(float(np.quantile(np.abs(changes[values["n"] > 0]).max(1), 0.9)), 1e-12)
    fig = style.new(style.PAGE, 3.8)
    names: list[Any] = [[str(year) for year in part] for part in np.array_split(values["years"], 2)]
    axes = fig.subplot_mosaic([*names, ["drift"] * COLUMNS], height_ratios=[1, 1, 1.6])
    for year, n, change in zip(values["years"], values["n"], changes, strict=True):
        atlas_projections.draw(axes[str(year)], grid, change, limit, axes=(2,))
        axes[str(year)].set_title(f"{year}\n{'n ' + str(n) if n else 'none'}", fontsize=6.5, pad=1)
    ax = axes["drift"]
    for name, colour in (("raw", style.LIMIT), ("unbiased", style.PALETTE[3])):
        ax.plot(values["drift_year"], values[f"drift_{name}"], "-o", ms=3, color=colour, label=name)
    ax.axhline(0, color=style.LIMIT, lw=0.6, ls="--")
    ax.set(xlabel="year", ylabel="Fréchet distance\nto the year before")
    ax.legend(loc="upper right", ncols=2)
    fig.suptitle("Mean decoded map of the year minus the mean of all years", fontsize=8, x=0.01, ha="left")
    if statement := str(values["statement"]):
        fig.supxlabel(statement, x=0.01, ha="left", fontsize=7, style="italic")
    return fig
