"""Contact sheet: one tile per scan, outliers first and framed, with a list of excluded scans and reasons.

A tile is the middle axial slice (left of the participant on the left) beside a smaller sagittal slice (front on the
right), with intensities from 0 to 1.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from neuromf.data.participants import read_table, write_table
from neuromf.figures import brains, style
from neuromf.metrics.images.outliers import coarse, correlation_with_median, find_outliers

COLUMNS = 11  # tiles per row
HEIGHT = 9.6  # inches of a full page, 150 to 180 tiles
CAPTION, FLAG_CAPTION = 0.09, 0.2  # inches below a row: for names, and for two lines of flags
LINE = 0.11  # inches of a line of text above the tiles
LISTED = 25  # excluded scans that are listed at most
FLAG = style.PALETTE[3]


def render(*, qc: Path, table: Path, out: Path, **config: Any) -> None:
    """Draw all accepted scans, and write their outlier scores to `table` (tsv).

    Arguments:
        config: spacing_mm (voxel size).
    """
    scans = read_table(qc)
    accepted, excluded = scans[scans["status"] == "accepted"], scans[scans["status"] != "accepted"]
    tiles, coarse_volumes = {}, []
    for scan, file in zip(accepted["scan"], accepted["volume"], strict=True):
        (volume,) = brains.read([file])  # one at a time: a cohort does not fit in memory
        tiles[scan] = tile(volume, config["spacing_mm"])
        coarse_volumes.append(coarse(volume))
    scores = find_outliers(accepted, correlation_with_median(coarse_volumes))
    write_table(scores.round(4), table)
    names, flags = scores["scan"].tolist(), scores["flag"].tolist()
    pages = draw([tiles[name] for name in names], names, flags, excluded[["scan", "reason"]].to_numpy().tolist())
    outliers = [name for name, flag in zip(names, flags, strict=True) if flag]
    record = {"scans": len(names), "outliers": outliers, "excluded": excluded["scan"].tolist()}
    style.save(pages, out, config | record)


def tile(volume: NDArray, spacing_mm: float) -> NDArray:
    """The axial slice, and right of it the sagittal slice at half size, as one image in uint8."""
    i, j, k = volume.shape
    crop = slice(0, i), slice(0, j), slice(0, k)
    axial = brains.cut(volume, "axial", crop, spacing_mm)
    sagittal = brains.cut(volume, "sagittal", crop, spacing_mm)
    sagittal = sagittal[: len(sagittal) // 2 * 2, : sagittal.shape[1] // 2 * 2]
    small = sagittal.reshape(len(sagittal) // 2, 2, -1, 2).mean(axis=(1, 3))
    image = np.zeros((max(len(axial), len(small)), axial.shape[1] + small.shape[1]), np.float32)
    image[: len(axial), : axial.shape[1]] = axial
    image[: len(small), axial.shape[1] :] = small
    return np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8)


def draw(
    tiles: Sequence[NDArray], names: Sequence[str], flags: Sequence[str], excluded: Sequence[Sequence[str]]
) -> list[Figure]:
    """Pages of tiles in the given order, with a list of excluded scans on the first page.

    Arguments:
        tiles: One image per scan, all of one shape.
        names: Name below each tile.
        flags: Outlying measures of each scan, joined by "; ", and "" if none; tiles with flags are framed.
        excluded: Scan and reason of each excluded scan.
    """
    lines = _summary(len(tiles), sum(map(bool, flags)), excluded)
    rows = [slice(k, k + COLUMNS) for k in range(0, len(tiles), COLUMNS)]
    heights = [_row_inches(tiles[0].shape, flags[row]) for row in rows]
    chunks = _paginate(heights, first=HEIGHT - LINE * (len(lines) + 0.5), others=HEIGHT - 1.5 * LINE)
    pages = []
    for number, chunk in enumerate(chunks, start=1):
        text = lines if number == 1 else [f"{lines[0].rstrip(':')}, page {number} of {len(chunks)}"]
        part = slice(chunk.start * COLUMNS, chunk.stop * COLUMNS)
        pages.append(_page(tiles[part], names[part], flags[part], text))
    return pages


def _row_inches(shape: tuple[int, int], flags: Sequence[str]) -> float:
    return style.PAGE / COLUMNS * shape[0] / shape[1] + (FLAG_CAPTION if any(flags) else CAPTION)


def _paginate(heights: Sequence[float], first: float, others: float) -> list[range]:
    """Rows of each page, at least one each, for pages of these heights."""
    pages, left = [range(0, 0)], first
    for k, height in enumerate(heights):
        if height > left and pages[-1]:
            pages.append(range(k, k))
            left = others
        pages[-1] = range(pages[-1].start, k + 1)
        left -= height
    return pages


def _summary(n: int, outliers: int, excluded: Sequence[Sequence[str]]) -> list[str]:
    """Lines above the tiles: numbers of scans, then one line per excluded scan."""
    lines = [f"{n} scans, {outliers} outliers (framed, first), {len(excluded)} excluded" + ":" * bool(excluded)]
    lines += [_shorten(f"{scan}: {reason}", 150) for scan, reason in excluded[:LISTED]]
    return lines + [f"and {len(excluded) - LISTED} more, see qc.tsv"] * (len(excluded) > LISTED)


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
    """Write the name below a tile, flags in colour with a frame, and L and R in the first tile of each row."""
    height, width = shape
    font: dict[str, Any] = {"fontsize": 3.6, "family": "sans-serif", "va": "top", "linespacing": 1.05}
    ax.text(x + 1, y + height + 1, _shorten(name, 20), **font)
    if flag:
        text = "\n" + "\n".join(_shorten(part, 24) for part in flag.split("; ")[:2])
        ax.text(x + 1, y + height + 1, text, color=FLAG, **font)
        ax.add_patch(Rectangle((x + 0.5, y + 0.5), width - 1, height - 1, fill=False, edgecolor=FLAG, linewidth=0.9))
    if x == 0:
        for at, side in ((0.02, "L"), (0.56, "R")):
            ax.text(at * width, y + 2, side, color="white", **font)


def _shorten(text: str, most: int) -> str:
    """Text of at most this many characters, shortened in the middle."""
    half = (most - 1) // 2
    return text if len(text) <= most else f"{text[:half]}\N{HORIZONTAL ELLIPSIS}{text[-half:]}"
