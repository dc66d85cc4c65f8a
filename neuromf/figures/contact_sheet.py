"""Contact sheet: one look at every scan, the odd ones first and framed, and who was set aside and why.

Each scan is a tile: its middle axial slice (left of the person on the left of the page) and a smaller sagittal one
beside the midline (front on the right), window 0 to 1.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from neuromf.figures import brains, style

COLUMNS = 11  # tiles in a row
HEIGHT = 9.6  # inches of a full page, 150 to 180 tiles
CAPTION, ODD_CAPTION = 0.09, 0.2  # inches below a row, for names, and for two lines of what is odd
LINE = 0.11  # inches of a line of text above the tiles
LISTED = 25  # of those set aside, at most; the rest is counted
ODD = style.PALETTE[3]


def tile(volume: NDArray, spacing_mm: float) -> NDArray:
    """The axial slice, and right of it the sagittal one at half size, as one image in uint8."""
    i, j, k = volume.shape
    whole = slice(0, i), slice(0, j), slice(0, k)
    axial = brains.cut(volume, "axial", whole, spacing_mm)
    sagittal = brains.cut(volume, "sagittal", whole, spacing_mm)
    sagittal = sagittal[: len(sagittal) // 2 * 2, : sagittal.shape[1] // 2 * 2]
    small = sagittal.reshape(len(sagittal) // 2, 2, -1, 2).mean(axis=(1, 3))
    image = np.zeros((max(len(axial), len(small)), axial.shape[1] + small.shape[1]), np.float32)
    image[: len(axial), : axial.shape[1]] = axial
    image[: len(small), axial.shape[1] :] = small
    return np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8)


def contact(
    tiles: Sequence[NDArray], names: Sequence[str], flags: Sequence[str], set_aside: Sequence[tuple[str, str]]
) -> list[Figure]:
    """Pages of tiles in the given order; the first begins with those set aside.

    Arguments:
        tiles: One image per scan, all of one shape.
        names: What stands below each.
        flags: What is odd about each, "" where nothing is; odd ones are framed.
        set_aside: Scan and reason of each one that could not be used.
    """
    lines = _listing(len(tiles), sum(map(bool, flags)), set_aside)
    rows = [slice(k, k + COLUMNS) for k in range(0, len(tiles), COLUMNS)]
    heights = [_row_inches(tiles[0].shape, flags[row]) for row in rows]
    chunks = _fill(heights, first=HEIGHT - LINE * (len(lines) + 0.5), others=HEIGHT - 1.5 * LINE)
    pages = []
    for number, chunk in enumerate(chunks, start=1):
        text = lines if number == 1 else [f"{lines[0].rstrip(':')}, page {number} of {len(chunks)}"]
        chosen = slice(chunk.start * COLUMNS, chunk.stop * COLUMNS)
        pages.append(_page(tiles[chosen], names[chosen], flags[chosen], text))
    return pages


def _row_inches(shape: tuple[int, int], flags: Sequence[str]) -> float:
    return style.PAGE / COLUMNS * shape[0] / shape[1] + (ODD_CAPTION if any(flags) else CAPTION)


def _fill(heights: Sequence[float], first: float, others: float) -> list[range]:
    """Rows of each page, at least one on each, as many as fit."""
    pages, left = [range(0, 0)], first
    for k, height in enumerate(heights):
        if height > left and pages[-1]:
            pages.append(range(k, k))
            left = others
        pages[-1] = range(pages[-1].start, k + 1)
        left -= height
    return pages


def _listing(n: int, odd: int, set_aside: Sequence[tuple[str, str]]) -> list[str]:
    """What stands above the tiles: how many there are, then a line for each one set aside."""
    lines = [f"{n} scans, {odd} of them odd (framed, first), {len(set_aside)} set aside" + ":" * bool(set_aside)]
    lines += [_shortened(f"{scan}: {reason}", 150) for scan, reason in set_aside[:LISTED]]
    return lines + [f"and {len(set_aside) - LISTED} more, see qc.tsv"] * (len(set_aside) > LISTED)


def _page(tiles: Sequence[NDArray], names: Sequence[str], flags: Sequence[str], lines: Sequence[str]) -> Figure:
    height, width = tiles[0].shape if len(tiles) else (1, 1)
    pixel = style.PAGE / (width * COLUMNS)  # inches
    steps = [round(_row_inches((height, width), flags[k : k + COLUMNS]) / pixel) for k in range(0, len(tiles), COLUMNS)]
    tops = np.cumsum([0, *steps])
    top = LINE * (len(lines) + 0.5)
    total = tops[-1] * pixel + top
    fig = style.new(style.PAGE, total)
    fig.set_layout_engine("none")
    for k, line in enumerate(lines):
        fig.text(0.004, 1 - LINE * (k + 0.2) / total, line, fontsize=5.5, va="top", family="sans-serif")
    if not steps:
        return fig
    canvas = np.full((tops[-1], COLUMNS * width), 255, np.uint8)
    ax = fig.add_axes((0, 0, 1, 1 - top / total))
    for k, (image, name, flag) in enumerate(zip(tiles, names, flags, strict=True)):
        y, x = tops[k // COLUMNS], k % COLUMNS * width
        canvas[y : y + height, x : x + width] = image
        _caption(ax, x, y, image.shape, name, flag)
    extent = (0, canvas.shape[1], canvas.shape[0], 0)
    ax.imshow(canvas, cmap="gray", vmin=0, vmax=255, interpolation="none", extent=extent, aspect="auto")
    ax.set_axis_off()
    return fig


def _caption(ax: Axes, x: int, y: int, shape: tuple[int, int], name: str, flag: str) -> None:
    """The name below a tile, what is odd in colour with a frame, and L and R in the first of each row."""
    height, width = shape
    words: dict[str, Any] = {"fontsize": 3.6, "family": "sans-serif", "va": "top", "linespacing": 1.05}
    ax.text(x + 1, y + height + 1, _shortened(name, 20), **words)
    if flag:
        below = "\n" + "\n".join(_shortened(part, 24) for part in flag.split("; ")[:2])
        ax.text(x + 1, y + height + 1, below, color=ODD, **words)
        ax.add_patch(Rectangle((x + 0.5, y + 0.5), width - 1, height - 1, fill=False, edgecolor=ODD, linewidth=0.9))
    if x == 0:
        for at, side in ((0.02, "L"), (0.56, "R")):
            ax.text(at * width, y + 2, side, color="white", **words)


def _shortened(text: str, most: int) -> str:
    """At most so many characters; what is too much goes out of the middle."""
    half = (most - 1) // 2
    return text if len(text) <= most else f"{text[:half]}\N{HORIZONTAL ELLIPSIS}{text[-half:]}"


def save(pages: Sequence[Figure], stem: str | Path, provenance: dict) -> None:
    """Write all pages to stem.pdf, the first, with what is odd, to stem.png, and stem.json with what made them."""
    style.save(pages[0], stem, provenance)
    if len(pages) > 1:
        facts = {"Subject": json.dumps(provenance, sort_keys=True), "CreationDate": None}
        with PdfPages(f"{stem}.pdf", metadata=facts) as pdf:
            for page in pages:
                pdf.savefig(page)
                plt.close(page)
