"""Figure 7: FLAIR with lesion masks, of participants and generated in one network evaluation."""

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from neuromf.data.participants import read_table
from neuromf.figures import brains, style
from neuromf.figures.names import GENERATED, TEST
from neuromf.metrics import table as metric_table

COLUMNS, FEWEST = 6, 5  # columns at most, and columns that the panel size leaves room for at least
NAME_X, LEFT = 0.1, 0.42  # inches from the left of the page to the names and to the panels
CURVES, ROOM = 1.5, 0.5  # inches: height of the summary panels, and of the labels above and below them
ROWS = (("axial", False), ("axial", True), ("coronal", True), ("sagittal", True))  # planes, and whether with contour

Pair = tuple[NDArray, NDArray]  # image (I, J, K) in [0, 1] and mask of 0 and 1, RAS+


class Summary(NamedTuple):
    """All lesions of a set.

    Arguments:
        profile: Lesion brightness by distance from the border, columns mm, value, low and high.
        thickening: Thickening of the bright ribbon in each lesion in mm.
    """

    profile: pd.DataFrame
    thickening: NDArray


def render(*, pairs: Path, samples: Path, lesions: Path, metrics: Path, out: Path, **config: Any) -> None:
    """Draw figure 7 from the first pairs of test participants and of samples that have a lesion.

    Arguments:
        pairs: Real pairs (tsv), columns scan, split, image and mask.
        samples: Folder of generated pairs with samples.tsv.
        lesions, metrics: One row per pair, and metrics of the pairs (csv), as of `neuromf.metrics.lesions`.
        config: spacing_mm (voxel size).
    """
    real, each = read_table(pairs), pd.read_csv(lesions).set_index("scan")
    tables = {TEST: real[real["split"] != "train"], GENERATED: read_table(samples / "samples.tsv")}
    first = {name: rows[(each["ml"] > 0)[rows["scan"]].to_numpy()].head(COLUMNS) for name, rows in tables.items()}
    columns = max(map(len, first.values()))
    captions = {name: [caption(each.loc[scan]) for scan in rows["scan"]] for name, rows in first.items()}
    volumes = {name: read_pairs(rows) for name, rows in first.items()}
    summaries = summarise(each, metric_table.read([metrics]))
    figure = draw(volumes, config["spacing_mm"], columns, captions, summaries)
    files = {name: rows[["image", "mask"]].to_dict("records") for name, rows in first.items()}
    style.save(figure, out, {**config, "volumes": {"files": files, "n": columns, "window": brains.WINDOW}})


def read_pairs(rows: pd.DataFrame) -> list[Pair]:
    """Images and binary masks of the rows of a table."""
    return [(x, mask > 0.5) for x, mask in zip(brains.read(rows["image"]), brains.read(rows["mask"]), strict=True)]


def caption(lesion: pd.Series) -> str:
    """Volume of a lesion, and its brightness above other brains at the same place."""
    brightness = lesion["lesion_brightness"]
    return f"{lesion['ml']:.1f} ml" + (f", {brightness:+.2f}" if pd.notna(brightness) else "")


def summarise(each: pd.DataFrame, metrics: pd.DataFrame) -> dict[str, Summary]:
    """Brightness profile and thickening of the lesions of each set."""
    summaries = {}
    for name, real in ((TEST, True), (GENERATED, False)):
        profile = metrics[(metrics["metric"] == "lesion_brightness_at") & ((metrics["arm"] == "real") == real)]
        mm = profile["features"].str.removesuffix(" mm").astype(float)
        thickening = each.loc[(each["arm"] == "real") == real, "thickening_mm"].dropna()
        summaries[name] = Summary(profile.assign(mm=mm), thickening.to_numpy())
    return summaries


def draw(
    sets: Mapping[str, Sequence[Pair]],
    spacing_mm: float,
    columns: int = COLUMNS,
    captions: Mapping[str, Sequence[str]] | None = None,
    summaries: Mapping[str, Summary] | None = None,
) -> Figure:
    """One block per set, one pair per column: an axial slice, the same with the contour of the mask, the other planes.

    Slices go through the largest slices of the lesion, or through the middle of the brain if the mask is empty. All
    panels share window, scale and crop; the first ones mark left and right and have a bar of 5 cm.

    Arguments:
        sets: Pairs by display name; a set of fewer than `columns` leaves panels empty.
        spacing_mm: Voxel size.
        captions: Texts under the columns of a set.
        summaries: All lesions of each set, in two panels below; None for no panels.
    """
    sets = {name: list(pairs[:columns]) for name, pairs in sets.items()}
    crop = brains.box([image for pairs in sets.values() for image, _ in pairs])
    across, along, up = (s.stop - s.start for s in crop)
    width, high = max(across, along), {"axial": along, "coronal": up, "sagittal": up}
    inch = ((style.PAGE - LEFT) / max(columns, FEWEST) - brains.GAP) / width
    below = (CURVES + 2 * ROOM) * bool(summaries)
    fig, blocks = brains.blocks(
        list(sets), [inch * high[plane] for plane, _ in ROWS], columns, inch * width, name_x=NAME_X, left=LEFT,
        captions=captions or {}, below=below,
    )  # fmt: skip
    for name, rows in blocks.items():
        for row, (plane, contour) in zip(rows, ROWS, strict=True):
            for ax, pair in zip_longest(row, sets[name]):
                _panel(ax, pair, plane, crop, width, contour=contour)
            if plane != "sagittal":
                brains.sides(row[0])
        brains.scale_bar(rows[0][0], width * spacing_mm, top=True)
    if summaries:
        height = fig.get_figheight()
        _summary_panels(fig, summaries, ROOM / height, CURVES / height)
    return fig


def _panel(ax: Axes, pair: Pair | None, plane: str, crop: brains.Crop, width: int, *, contour: bool) -> None:
    """Draw one slice, and the contour of the mask if asked for and not empty; nothing without a pair."""
    if pair is None:
        ax.set_axis_off()
        return
    voxel = lesion_voxel(pair[1], crop)
    image, mask = (brains.pad(brains.cut_at(x, plane, crop, voxel), width) for x in (pair[0], pair[1] * 1.0))
    brains.show(ax, image)
    if contour and mask.any():
        ax.contour(mask, levels=[0.5], colors=[style.PALETTE[1]], linewidths=0.7)


def lesion_voxel(mask: NDArray, crop: brains.Crop) -> brains.Voxel:
    """Voxel where the three slices with most of the lesion meet; the middle of the crop if the mask is empty."""
    if not mask.any():
        return brains.centre(crop)
    i, j, k = (int(mask.sum(axis=tuple(a for a in range(3) if a != axis)).argmax()) for axis in range(3))
    return i, j, k


def _summary_panels(fig: Figure, summaries: Mapping[str, Summary], bottom: float, height: float) -> None:
    """Draw brightness by distance from the border, and the thickening of every lesion."""
    profiles, thickening = (fig.add_axes((left, bottom, wide, height)) for left, wide in ((0.1, 0.42), (0.64, 0.34)))
    for k, ((name, (profile, mm)), colour) in enumerate(
        zip(summaries.items(), (style.REAL, style.PALETTE[0]), strict=False)
    ):
        profiles.plot(profile["mm"], profile["value"], color=colour, marker="so"[k], ms=3, label=name)
        profiles.fill_between(profile["mm"], profile["low"], profile["high"], color=colour, alpha=0.3, lw=0)
        thickening.plot(mm, k + np.linspace(-0.25, 0.25, len(mm)), "so"[k], ms=3, color=colour, alpha=0.7)
        if len(mm):
            thickening.plot([mm.mean()] * 2, [k - 0.4, k + 0.4], color="black")
    profiles.axhline(0, color=style.LIMIT, lw=0.7, ls=":")
    profiles.set(xlabel="distance from the border (mm; inside < 0)", ylabel="lesion brightness")
    profiles.legend(loc="upper right")
    thickening.set(xlabel="ribbon thicker by (mm)", ylim=(len(summaries) - 0.5, -0.5))
    thickening.set_yticks(range(len(summaries)), [name.split(",")[0].replace(" ", "\n") for name in summaries])
    for ax, text in ((profiles, "a"), (thickening, "b")):
        ax.axvline(0, color=style.LIMIT, lw=0.7, ls=":")
        style.letter(ax, text)
