"""House style of all figures, and figure files that carry their provenance.

Serif type at 10 points (ticks 8), columns of 3.5 and pages of 7.0 inches, seaborn's colour-blind palette. Figures
need no display and are saved without dates, so that equal inputs give equal bytes.
"""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from neuromf.core.files import atomic_write, write_json

matplotlib.use("Agg")
logging.getLogger("fontTools").setLevel(logging.WARNING)  # at INFO it logs every glyph of a PDF

COLUMN, PAGE = 3.5, 7.0  # widths in inches
PALETTE = sns.color_palette("colorblind")
REAL, LIMIT = "0.55", "0.35"  # greys of real data, and of bounds and reference lines

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
    "savefig.bbox": None,  # libraries that plot may have set it to tight
    "svg.hashsalt": "neuromf",
}


def new(width: float, height: float) -> Figure:
    """An empty figure in the house style, width and height in inches."""
    matplotlib.rcParams.update(RC)  # type: ignore[arg-type]  # typed as literal names
    return plt.figure(figsize=(width, height), layout="constrained")


def letter(ax: Axes, text: str, *, left: float = 34) -> None:
    """Write a bold panel letter above the top left corner of the axes, `left` points to the left of it."""
    ax.annotate(
        f"({text})", (0, 1), xytext=(-left, 5), xycoords="axes fraction", textcoords="offset points", fontweight="bold"
    )


def plain_ticks(axis: Axis, subs: Sequence[float] | None = None) -> None:
    """Plain numbers on a logarithmic axis, without minor ticks; `subs` are the ticks of each decade."""
    if subs:
        axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def save(figure: Figure | Sequence[Figure], stem: str | Path, provenance: dict) -> None:
    """Write stem.pdf, stem.png (300 dpi) and stem.json, each with its provenance, and close the figure.

    Arguments:
        figure: Figure, or pages of one: stem.pdf has all pages, stem.png the first.
        stem: Path of the files without suffix.
        provenance: Config values, run, seeds and files behind the figure, as JSON types.
    """
    stem = Path(stem)
    stem.parent.mkdir(parents=True, exist_ok=True)
    pages = [figure] if isinstance(figure, Figure) else figure
    facts = json.dumps(provenance, sort_keys=True)
    with (
        atomic_write(stem.with_name(f"{stem.name}.pdf")) as part,
        PdfPages(part, metadata={"Subject": facts, "CreationDate": None}) as pdf,
    ):
        for page in pages:
            pdf.savefig(page)
    with atomic_write(stem.with_name(f"{stem.name}.png")) as part:
        pages[0].savefig(part, format="png", dpi=300, metadata={"Description": facts, "Software": None})
    write_json(stem.with_name(f"{stem.name}.json"), provenance, indent=2)
    for page in pages:
        plt.close(page)
