"""Figure 3: real and generated brains in three planes."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from neuromf.figures import brains, style


def fig_3(sets: Mapping[str, NDArray], spacing_mm: float, columns: int = 8) -> Figure:
    """One block of three rows (axial, coronal, sagittal) per set, one brain per column, one window for all.

    Arguments:
        sets: Volumes (N, I, J, K) in [0, 1], RAS+, by what stands beside them; N at least `columns`.
        spacing_mm: Voxel size, for the scale bar of 5 cm.
    """
    shown = {name: volumes[:columns] for name, volumes in sets.items()}
    crop = brains.box([volume for volumes in shown.values() for volume in volumes])
    sizes = [s.stop - s.start for s in crop]
    heights = [sizes[1], sizes[2], sizes[2]]  # of an axial, coronal and sagittal row, in voxels
    inch = (style.PAGE - 0.35) / columns / max(sizes[0], sizes[1] * 0.9)
    fig = style.new(style.PAGE, len(shown) * (sum(heights) * inch + 0.12))
    blocks = fig.subfigures(len(shown), 1, hspace=0.03)
    for block, (name, volumes) in zip(np.atleast_1d(blocks), shown.items(), strict=True):
        axes = block.subplots(
            3, columns, squeeze=False, gridspec_kw={"height_ratios": heights, "wspace": 0.02, "hspace": 0.02}
        )
        block.supylabel(name, fontsize=10)
        for row, plane in zip(axes, brains.PLANES, strict=True):
            for column, (ax, volume) in enumerate(zip(row, volumes, strict=True)):
                brains.show(ax, brains.cut(volume, plane, crop, spacing_mm), mark=plane != "sagittal" and column == 0)
        bar = 50 / spacing_mm / sizes[1]
        axes[2, 0].plot([0.05, 0.05 + bar], [0.04, 0.04], transform=axes[2, 0].transAxes, color="white", lw=1.2)
    return fig
