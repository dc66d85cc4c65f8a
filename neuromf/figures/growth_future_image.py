"""Figure F5: the decoded image of a patient's last visit beside the truth, and Dice of forecast and last scan.

The headline plate has forecasts of the volume (F4) above and these images below.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import NDArray

from neuromf.figures import growth_forecast, style

COLUMNS = {  # arrays of images.npz: title, and mask that is drawn beside that of the truth
    "last": ("visit before", "last_mask"),
    "truth": ("truth", ""),
    "line": ("line,\ndecoded", "line"),
    "ODE": ("ODE,\ndecoded", "ODE"),
    "last_image": ("visit before,\ndecoded", "last_image"),
}
KINDS = {
    "last mask": "last mask",
    "last image": "last image,\ndecoded",
    "line": "line,\ndecoded",
    "ODE": "ODE,\ndecoded",
}
TRUE, PREDICTED = style.PALETTE[9], style.PALETTE[1]
N_PATIENTS, SMALL = 3, 7
QUANTILES = (0.15, 0.5, 0.9)  # of the growth of the mass


def render(*, table: Path, examples: Path, verdict: Path, out: Path, simulated: str = "", **config: Any) -> None:
    """Draw figure F5.

    Arguments:
        table: Rows of `neuromf.growth.image_forecast.compare_masks`.
        examples: npz of `neuromf.growth.image_forecast.slices`.
        verdict: JSON of `neuromf.growth.image_forecast.verdict`.
        out: Path of the files without suffix.
        simulated: Statement at the foot.
        config: Further values for the metadata of the files.
    """
    found = json.loads(verdict.read_text())
    figure: Any = style.new(style.PAGE, 4.3)
    left, right = figure.subfigures(1, 2, width_ratios=[3.1, 1])
    with np.load(examples) as arrays:
        images(left, arrays, N_PATIENTS)
    dice(right.subplots(), pd.read_csv(table))
    _foot(figure, simulated)
    style.save(figure, out, config | {"simulated": simulated, "verdict": found})


def render_headline(
    *, folders: Sequence[Path], table: Path, examples: Path, verdict: Path, out: Path, simulated: str = "",
    **config: Any,
) -> None:  # fmt: skip
    """Draw the headline plate: figure F4 above, images of two patients and Dice below.

    Arguments:
        folders: See `neuromf.figures.growth_forecast.render`.
        table, examples, verdict, out, simulated, config: See `render`.
    """
    found = json.loads(verdict.read_text())
    scores, verdicts, forecasts, volumes = growth_forecast.read(folders)
    figure: Any = style.new(style.PAGE, 8.6)
    upper, lower = figure.subfigures(2, 1, height_ratios=[5.6, 2.9])
    growth_forecast.panels(upper, forecasts, volumes, scores)
    left, right = lower.subfigures(1, 2, width_ratios=[3.1, 1])
    with np.load(examples) as arrays:
        axes = images(left, arrays, N_PATIENTS - 1)
    style.letter(axes[0, 0], "f", left=20)
    panel = right.subplots()
    dice(panel, pd.read_csv(table))
    style.letter(panel, "g", left=30)
    _foot(figure, simulated)
    style.save(figure, out, config | {"simulated": simulated, "verdicts": verdicts, "verdict": found})


def choose(arrays: Mapping[str, NDArray], n: int) -> list[int]:
    """Patients whose mass, in the slice, grows by the smallest, middle and largest quantile; the last n of them."""
    growth = arrays["truth_mask"].sum((1, 2)) - arrays["last_mask"].sum((1, 2)).astype(int)
    order = np.argsort(growth, kind="stable")
    places = np.unique(np.round(np.array(QUANTILES) * (len(order) - 1)).astype(int))
    return [int(order[k]) for k in places][-n:]


def images(figure: Any, arrays: Mapping[str, NDArray], n: int) -> NDArray:  # noqa: ANN401  # a (sub)figure
    """One row per patient: t1c of the visit before, of the truth and of forecasts, with contours of the mass."""
    columns = [name for name in COLUMNS if name in arrays]
    chosen = choose(arrays, n)
    axes = figure.subplots(len(chosen), len(columns), squeeze=False)
    for row, patient in zip(axes, chosen, strict=True):
        low, high = (float(np.percentile(arrays["truth"][patient], q)) for q in (1, 99.7))
        for ax, name in zip(row, columns, strict=True):
            ax.imshow(
                arrays[name][patient].T, cmap="gray", vmin=low, vmax=high, origin="lower", interpolation="nearest"
            )
            _contours(ax, arrays, name, patient)
            ax.set_axis_off()
    for ax, name in zip(axes[0], columns, strict=True):
        ax.set_title(COLUMNS[name][0], fontsize=SMALL)
    handles = [axes[0, 0].plot([], [], color=colour)[0] for colour in (TRUE, PREDICTED)]
    figure.legend(handles, ["true mass at the last visit", "mass in this image"], loc="outside lower center", ncols=2,
                  fontsize=SMALL)  # fmt: skip
    return axes


def _contours(ax: Axes, arrays: Mapping[str, NDArray], name: str, patient: int) -> None:
    """Contours of the true mass, and of the mass in the image: a mask, or what is above the threshold."""
    own = COLUMNS[name][1]
    masks = {TRUE: arrays["truth_mask"][patient]}
    if own:
        masks[PREDICTED] = arrays[own][patient] if own == "last_mask" else arrays[own][patient] > arrays["threshold"]
    for colour, mask in masks.items():
        if mask.any():
            ax.contour(mask.T.astype(float), [0.5], colors=[colour], linewidths=0.9)


def dice(ax: Axes, table: pd.DataFrame) -> None:
    """Dice with the true mass of every patient by kind, and means."""
    wide = table.pivot(index="patient", columns="kind", values="dice")
    kinds = [kind for kind in KINDS if kind in wide]
    random = np.random.default_rng(0)
    for k, kind in enumerate(kinds):
        colour = style.REAL if kind == "last mask" else style.PALETTE[0]
        ax.plot(k + random.uniform(-0.15, 0.15, len(wide)), wide[kind], "o", color=colour, ms=2.5, alpha=0.6)
        ax.plot([k - 0.3, k + 0.3], [wide[kind].mean()] * 2, color="0.1", lw=1.5)
    ax.set_xticks(range(len(kinds)), [KINDS[kind] for kind in kinds], fontsize=6, rotation=90)
    ax.set_ylim(-0.03, 1.03)
    ax.set_ylabel("Dice with the true mass", fontsize=8)
    ax.tick_params(axis="y", labelsize=SMALL)


def _foot(figure: Any, simulated: str) -> None:  # noqa: ANN401
    if simulated:
        figure.supxlabel(simulated, x=0.01, ha="left", fontsize=SMALL, style="italic")
