"""Figure F3: which part of the latent predicts which factor of the tumour, and what moving along the volume changes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from neuromf.figures import style

LABELS = {"exp1": "Exp1: ELBO", "exp2": "Exp2: DIP-VAE-II", "exp3": "Exp3: supervised parts"}
FACTORS = {"log_volume_mass": "ln V", "centroid_x": "x", "centroid_y": "y", "centroid_z": "z", "sphericity": "spher."}
SHOWN = (0, 2, 3, 4, 6)  # steps whose slices are drawn
SMALL = 7


def render(*, tables: Sequence[Path], out: Path, simulated: str = "", **config: Any) -> None:
    """Draw matrix, slices and volumes of every experiment (npz of `disentanglement_study.evaluate`).

    Arguments:
        tables: One npz per experiment, named {experiment}.npz.
        out: Path of the files without suffix.
        simulated: Statement at the foot.
        config: Further values for the metadata of the files.
    """
    figure = style.new(style.PAGE, 1.75 * len(tables) + 0.5)
    widths = [2.3, *[0.85] * len(SHOWN), 0.3, 1.5]  # the last but one is empty: room for tick labels
    axes = figure.subplots(len(tables), len(widths), squeeze=False, width_ratios=widths)
    for number, (row, path) in enumerate(zip(axes, tables, strict=True)):
        with np.load(path) as arrays:
            image = _matrix(row[0], arrays)
            row[-2].set_axis_off()
            _slices(row[1:-2], arrays, title=number == 0)
            _volumes(row[-1], arrays, title=number == 0, last=number == len(tables) - 1)
        row[0].set_title(LABELS.get(path.stem, path.stem), fontsize=9, loc="left")
    bar = figure.colorbar(image, ax=axes[:, 0], location="bottom", shrink=0.8, aspect=25)
    bar.set_label("$R^2$ on test patients", fontsize=8)
    bar.ax.tick_params(labelsize=SMALL)
    if simulated:
        figure.supxlabel(simulated, x=0.01, ha="left", fontsize=SMALL, style="italic")
    style.save(figure, out, config | {"simulated": simulated})


def _matrix(ax: Axes, arrays: Mapping[str, NDArray]) -> Any:  # noqa: ANN401  # an image of matplotlib
    """Heat map of R^2, parts by factors; negative values are drawn as 0. Ranges of unnamed parts are in brackets."""
    matrix = arrays["matrix"]
    image = ax.imshow(np.clip(matrix, 0, 1), vmin=0, vmax=1, cmap="viridis", aspect="auto")
    for (i, j), value in np.ndenumerate(matrix):
        text = f"{value:.2f}" if value > -1 else "<-1"
        ax.text(j, i, text, ha="center", va="center", fontsize=6, color="w" if value < 0.6 else "k")
    names = [f"({name})" if not arrays["named"] and name != "all" else str(name) for name in arrays["parts"]]
    ax.set_yticks(range(len(names)), names, fontsize=SMALL)
    ax.set_xticks(range(matrix.shape[1]), [FACTORS[str(name)] for name in arrays["factors"]], fontsize=SMALL)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return image


def _slices(panels: Sequence[Axes], arrays: Mapping[str, NDArray], *, title: bool) -> None:
    """Decoded t1c along the direction of the volume, one axial slice."""
    white = np.percentile(arrays["slices"], 99.8)
    black = np.percentile(arrays["slices"], 2)
    for ax, k in zip(panels, SHOWN, strict=True):
        ax.imshow(arrays["slices"][k].T, cmap="gray", vmin=black, vmax=white, origin="lower", interpolation="bilinear")
        ax.set_axis_off()
        if title:
            ax.set_title(f"{arrays['steps'][k]:+.0f} s.d." if arrays["steps"][k] else "0 s.d.", fontsize=SMALL)


def _volumes(ax: Axes, arrays: Mapping[str, NDArray], *, title: bool, last: bool) -> None:
    """Measured volume of the bright mass against the step, one line per test patient."""
    ax.plot(arrays["steps"], arrays["volumes"].T / 1000, color=style.PALETTE[0], lw=0.8, alpha=0.7)
    ax.tick_params(labelsize=6)
    if title:
        ax.set_title("bright mass (ml)", fontsize=SMALL)
    if last:
        ax.set_xlabel("step (s.d.)", fontsize=SMALL)
