"""Figure 3: real and generated brains in three planes, and the training heads nearest to the generated ones."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from numpy.typing import NDArray

from neuromf.figures import brains, style

WINDOW = (0.0, 1.0)  # intensities shown from black to white, in every panel
LEFT, BETWEEN, CAPTION = 0.26, 0.09, 0.15  # inches: of the names, between sets, of a caption
BAR_MM = 50


def fig_3(
    sets: Mapping[str, Sequence[NDArray]],
    spacing_mm: float,
    columns: int = 8,
    captions: Mapping[str, Sequence[str]] | None = None,
) -> Figure:
    """One block of three rows (axial, coronal, sagittal) per set, one brain per column, one window and scale for all.

    The first panels of a block say where left and right are, and have a bar of 5 cm.

    Arguments:
        sets: Volumes (I, J, K) in [0, 1], RAS+, by what stands beside them; at least `columns` each.
        spacing_mm: Voxel size.
        captions: What stands under the columns of a set, for those that have it.
    """
    shown, captions = {name: list(volumes[:columns]) for name, volumes in sets.items()}, captions or {}
    crop = brains.box([volume for volumes in shown.values() for volume in volumes])
    across, along, up = (s.stop - s.start for s in crop)
    wide = max(across, along)  # voxels of a panel: axial and coronal slices are padded to the width of sagittal ones
    inch = ((style.PAGE - LEFT) / columns - brains.GAP) / wide
    rows = [(plane, inch * high) for plane, high in zip(brains.PLANES, (along, up, up), strict=True)]
    block = sum(high + brains.GAP for _, high in rows) + BETWEEN
    height = len(shown) * block - BETWEEN + CAPTION * len(captions.keys() & shown.keys())
    fig = style.new(style.PAGE, height)
    fig.set_layout_engine("none")
    top = height
    for name, volumes in shown.items():
        axes = brains.panels(fig, top, [high for _, high in rows], columns, inch * wide, LEFT)
        for (plane, _), line in zip(rows, axes, strict=True):
            for ax, volume in zip(line, volumes, strict=True):
                brains.show(ax, brains.padded(brains.cut(volume, plane, crop, spacing_mm), wide), window=WINDOW)
            if plane != "sagittal":
                brains.sides(line[0])
        brains.bar(axes[2][0], BAR_MM / spacing_mm / wide, f"{BAR_MM / 10:g} cm" if top == height else "", at=0.05)
        fig.text(0.06 / style.PAGE, (top - (block - BETWEEN) / 2) / height, name, rotation=90, va="center", fontsize=9)
        for ax, text in zip(axes[2], captions.get(name, ()), strict=False):
            ax.text(0.5, -0.04, text, transform=ax.transAxes, ha="center", va="top", fontsize=6)
        top -= block + CAPTION * (name in captions)
    return fig
