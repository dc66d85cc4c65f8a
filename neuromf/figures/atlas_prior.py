"""Figure F8 of the atlas: latents and maps from N(0, I) and from the one-step prior, with their paired difference.

The bridge to the other systems: the flow that generates brains in one network evaluation generates latents of the
literature.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import PowerNorm

from neuromf.data.brain_grid import brain_grid
from neuromf.figures import style

SETS = {"real": ("validation studies", "0.55", "s"), "normal": ("N(0, I)", "C0", "o"),
        "gaussian": ("Gaussian of latents", "C2", "^"), "one_step": ("one-step prior", "C1", "D")}  # fmt: skip
MEASURES = ("precision", "recall", "density", "coverage")
SMALL = 7


def render(result: Path, out: Path, **facts: Any) -> None:
    """Write the figure as out.pdf, out.png and out.json.

    Arguments:
        result: JSON file of `neuromf.atlas.prior_evaluation.evaluate_prior`.
        out: Path of the files without suffix.
        facts: Further provenance.
    """
    found = json.loads(Path(result).read_text(encoding="utf-8"))
    figure: Any = style.new(style.PAGE, 5.4)
    top, bottom = figure.subfigures(2, 1, height_ratios=[3.0, 2.4])
    left, right = top.subfigures(1, 2, width_ratios=[1.15, 1])
    draw_latents(left.subplots(), found["drawn"])
    draw_pictures(right, found["pictures"])
    panels = bottom.subplots(1, 4, width_ratios=[1.2, 1.2, 0.55, 1])
    draw_overlap(panels[0], found["latents"], "latents")
    draw_overlap(panels[1], found["maps"], "maps")
    panels[0].legend(loc="lower left", fontsize=SMALL - 0.5, handletextpad=0.1, borderaxespad=0.1)
    draw_bits(panels[2], found["bits"])
    draw_frechet(panels[3], found["flow"])
    for panel, text, gap in zip(panels, "cdef", (34, 30, 34, 30), strict=True):
        style.letter(panel, text, left=gap)
    if found["statement"]:
        bottom.supxlabel(found["statement"], fontsize=SMALL)
    kept = {name: found[name] for name in ("scale", "statement", "seed", "bits", "maps", "latents", "flow")}
    style.save(figure, out, {**kept, **facts})


def draw_latents(axes: Axes, drawn: Mapping[str, Any]) -> None:
    """Test latents, N(0, I) and one-step latents on two principal axes, with sampling paths from noise to latent."""
    for name, size in (("test", 7), ("normal", 5), ("one_step", 5)):
        label, colour, marker = SETS["real" if name == "test" else name]
        label = "test studies" if name == "test" else label
        x, y = np.array(drawn[name]).T
        axes.scatter(x, y, s=size, marker=marker, color=colour, alpha=0.55, linewidths=0, label=label)
    paths = np.array(drawn["paths"]).transpose(1, 0, 2)
    for path in paths:
        pieces = np.stack([path[:-1], path[1:]], 1)
        axes.add_collection(
            LineCollection(list(pieces), array=np.linspace(1, 0, len(pieces)), cmap="copper", linewidths=0.9)
        )
        axes.annotate("", path[-1], path[-2], arrowprops={"arrowstyle": "->", "lw": 0.7, "color": "0.1"})
    axes.set(xlabel="latent axis 1", ylabel="latent axis 2")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.16), ncols=3, handletextpad=0.1, columnspacing=0.8)
    style.letter(axes, "a")


def draw_pictures(figure: Any, pictures: Mapping[str, Any]) -> None:  # noqa: ANN401  # a subfigure
    """Maps of the same noise through both priors, seen from above."""
    outline = brain_grid("6mm").mask.any(2)
    names = ("normal", "one_step")
    panels = figure.subplots(2, len(pictures["normal"]), squeeze=False)
    for row, name in zip(panels, names, strict=True):
        for axes, values in zip(row, pictures[name], strict=True):
            image = np.where(outline, np.array(values), np.nan)
            axes.imshow(image.T, origin="lower", cmap="magma", norm=PowerNorm(0.6, 0, 1))
            axes.contour(outline.T, levels=[0.5], colors="0.4", linewidths=0.6)
            axes.set_axis_off()
        row[0].annotate(SETS[name][0], (-0.08, 0.5), xycoords="axes fraction", rotation=90, ha="right", va="center",
                        fontsize=8, color=SETS[name][1])  # fmt: skip
    panels[0, 0].annotate("(b)", (-0.25, 1.02), xycoords="axes fraction", fontweight="bold")
    figure.suptitle("same noise, one network evaluation", fontsize=8)


def draw_overlap(axes: Axes, table: Mapping[str, Any], title: str) -> None:
    """Precision, recall, density and coverage of each set against test studies, with 95 % intervals."""
    drawn = {name: look for name, look in SETS.items() if name in table}
    for k, (name, (label, colour, marker)) in enumerate(drawn.items()):
        rows = [table[name][measure] for measure in MEASURES]
        place = np.arange(len(MEASURES)) + 0.2 * (k - 1.5)
        values = np.array([row["value"] for row in rows])
        error = np.abs(np.array([[row["low"], row["high"]] for row in rows]).T - values)
        axes.errorbar(place, values, error, fmt=marker, color=colour, markersize=3.5, elinewidth=0.9, label=label)
    axes.set_xticks(range(len(MEASURES)), MEASURES, rotation=35, ha="right", fontsize=SMALL)
    axes.set_ylim(bottom=0)
    axes.set_title(f"{title}, n = {table['n']}", fontsize=8)


def draw_bits(axes: Axes, bits: Mapping[str, Any]) -> None:
    """Paired difference in bits per focus, one-step prior against N(0, I)."""
    row = bits["difference"]
    error = [[row["value"] - row["low"]], [row["high"] - row["value"]]]
    axes.axhline(0, color=style.LIMIT, linestyle="--", linewidth=0.8)
    axes.errorbar([0], [row["value"]], error, fmt="D", color=SETS["one_step"][1], elinewidth=1.1, capsize=3)
    axes.set_xticks([0], ["one-step\n- N(0, I)"], fontsize=SMALL)
    axes.set_xlim(-1, 1)
    axes.set_title("bits per focus", fontsize=8)
    axes.ticklabel_format(axis="y", style="plain", useOffset=False)


def draw_frechet(axes: Axes, flow: Mapping[str, Any]) -> None:
    """Frechet distance to test latents of N(0, I) and of the prior by network evaluations; dashed: other studies."""
    rows = {"N(0, I)": ("normal", "C0"), "Gaussian": ("gaussian", "C2"), "1 step": ("nfe_1", "C1"),
            "2 steps": ("nfe_2", "C1"), "4 steps": ("nfe_4", "C1")}  # fmt: skip
    values = [flow["frechet"][name] for name, _ in rows.values()]
    axes.bar(list(rows), values, color=[colour for _, colour in rows.values()], width=0.7)
    axes.axhline(flow["frechet"]["real"], color=style.LIMIT, linestyle="--", linewidth=0.8)
    axes.set_xticks(range(len(rows)), list(rows), rotation=35, ha="right", fontsize=SMALL)
    axes.set_title("Frechet distance", fontsize=8)
