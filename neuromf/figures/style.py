"""One look for every figure of the study, and files that say what made them.

Serif type at 10 points (ticks 8), columns of 3.5 and pages of 7.0 inches, seaborn's colour-blind palette. Figures
are built on Figure objects without a window, and saved without dates, so that equal inputs give equal bytes.
"""

import json
import logging
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from neuromf.core.files import atomic_write

matplotlib.use("Agg")


COLUMN, PAGE = 3.5, 7.0  # widths in inches

logging.getLogger("fontTools").setLevel(logging.WARNING)  # else every glyph of a PDF is a line in the log

PALETTE = sns.color_palette("colorblind")
REAL, LIMIT = "0.55", "0.35"  # greys: of data that are not ours to colour, and of lines that bound

RC = {
    "font.family": "serif",
    "font.size": 10,
    "axes.labelsize": 10,
    "axes.titlesize": 10,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "legend.handlelength": 1.6,
    "mathtext.fontset": "dejavuserif",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "lines.linewidth": 1.3,
    "lines.markersize": 4,
    "axes.prop_cycle": plt.cycler(color=PALETTE),
    "figure.constrained_layout.use": True,
    "pdf.fonttype": 42,
    "svg.hashsalt": "neuromf",
}


def use() -> None:
    """Set the house style for every figure made from here on."""
    matplotlib.rcParams.update(RC)  # type: ignore[arg-type]  # its names are not spelt out here


def new(width: float, height: float) -> Figure:
    """An empty figure in the house style, width and height in inches."""
    use()
    return plt.figure(figsize=(width, height), layout="constrained")


def letter(ax: Axes, text: str, *, left: float = 34) -> None:
    """Panel letter in bold above the top left corner of the axes, as many points to its left as told."""
    ax.annotate(
        f"({text})", (0, 1), xytext=(-left, 5), xycoords="axes fraction", textcoords="offset points", fontweight="bold"
    )


def save(fig: Figure, stem: str | Path, provenance: dict) -> None:
    """Write stem.pdf, stem.png (300 dpi) and stem.json, each with what made the figure, and close it.

    Arguments:
        fig: The figure.
        stem: Path of the files without their suffix.
        provenance: Config, code digest, run ids and the like, in the words of JSON.
    """
    stem = Path(stem)
    stem.parent.mkdir(parents=True, exist_ok=True)
    facts = json.dumps(provenance, sort_keys=True)
    pdf = {"metadata": {"Subject": facts, "CreationDate": None}}
    png = {"metadata": {"Description": facts, "Software": None}, "dpi": 300}
    for form, how in (("pdf", pdf), ("png", png)):
        with atomic_write(stem.with_name(f"{stem.name}.{form}")) as part:
            fig.savefig(part, format=form, **how)
    with atomic_write(stem.with_name(f"{stem.name}.json")) as part:
        part.write_text(json.dumps(provenance, sort_keys=True, indent=2) + "\n")
    plt.close(fig)
