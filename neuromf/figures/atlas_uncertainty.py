"""Figure F4 of the atlas: reliability of the ensemble's intervals, and mean, epistemic and aleatoric map of a study."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from neuromf.atlas.ensemble import load_ensemble
from neuromf.atlas.kernel_maps import kernel_maps
from neuromf.atlas.rates import FWHM_MM
from neuromf.atlas.studies import read_studies
from neuromf.atlas.uncertainty import predicted_maps
from neuromf.data.brain_grid import BrainGrid
from neuromf.figures import atlas_projections, style

TITLES = {"target": "reported foci", "mean": "mean", "epistemic": "epistemic s.d.", "aleatoric": "aleatoric s.d."}


def render(*, run: Path, checkpoint: Path, studies: Path, table: Path, out: Path, **provenance: Any) -> None:
    """Write the figure as out.pdf, out.png and out.json.

    Arguments:
        run: Run folder of the ensemble.
        checkpoint: Volume model.
        studies: Folder of studies.
        table: Calibration report.
    """
    report = json.loads(Path(table).read_text(encoding="utf-8"))
    ensemble, everything = load_ensemble(run, checkpoint), read_studies(studies)
    rows = everything.rows("test")
    one = everything.take(rows[[int(np.argsort(np.diff(everything.starts)[rows])[len(rows) * 3 // 4])]])
    target = kernel_maps(one, ensemble.atlas.grid, FWHM_MM, dtype=np.float32)
    maps = predicted_maps(ensemble, one, target)
    panels = {"target": target[0], "mean": maps["mean"][0], "epistemic": np.sqrt(maps["epistemic_unc"][0]),
              "aleatoric": np.sqrt(maps["aleatoric_unc"][0])}  # fmt: skip
    facts = {key: report[key] for key in ("scale", "statement", "manifest", "kind", "n")}
    style.save(draw(report, panels, ensemble.atlas.grid), out, provenance | facts)


def draw(report: dict[str, Any], panels: dict[str, NDArray], grid: BrainGrid) -> Figure:
    """Reliability on the left, maps on the right."""
    fig = style.new(style.PAGE, 3.2)
    axes = fig.subplot_mosaic([["r", name] for name in TITLES], width_ratios=[1.1, 1])
    _reliability(axes["r"], report)
    for name, title in TITLES.items():
        atlas_projections.draw(axes[name], grid, panels[name], float(np.abs(panels[name]).max()))
        axes[name].set_title(f"{title}, largest {np.abs(panels[name]).max():.2f}", fontsize=8, loc="left", pad=2)
    if report["statement"]:
        fig.supxlabel(report["statement"], x=0.01, ha="left", fontsize=7, style="italic")
    return fig


def _reliability(ax: Axes, report: dict[str, Any]) -> None:
    """Coverage of central intervals of test maps for each scaling, and near foci as predicted."""
    levels = report["levels"]
    ax.plot([0, 1], [0, 1], color=style.LIMIT, ls="--", lw=0.7)
    curves = {f"brain, scaled: {name}": values for name, values in report["coverage_scaled"].items()}
    curves["12 mm of foci, not scaled"] = report["coverage"]["test, 12 mm of foci"]
    for (name, values), colour, marker in zip(curves.items(), style.PALETTE, "os^D", strict=False):
        ax.plot(levels, values, f"-{marker}", ms=3, color=colour, label=name)
    ax.set(xlabel="central interval p", ylabel="fraction of test voxels inside", xlim=(0, 1), ylim=(0, 1))
    ax.legend(fontsize=7, loc="lower right")
