"""Draw the stages of the default study and what flows between them.

python -m tools.draw_dag docs/dag.svg

Stages carry the names of their rules. A number in a circle is the phase whose gate evaluates the stage's results.
"""

import argparse
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

WIDTH, HEIGHT = 0.86, 0.46  # of a box, in cells of the grid
COLOURS = {
    "data": "#cfe3f5",
    "simulation": "#dfe7c3",
    "vae": "#f6dcc0",
    "meanflow": "#f3c6c6",
    "metrics": "#d9d0ea",
    "lesions": "#c9e6dc",
    "figures, report": "#e4e4e4",
    "benchmarks": "#f2eec2",
}
STAGES = {  # rule: (column, row, package, phases whose gates read its results)
    "simulate_participants": (0, 0, "simulation", ""),
    "cohort": (1, 0, "data", ""),
    "prepare": (2, 0, "data", ""),
    "qc": (3, 0, "data", ""),
    "autoencoder": (2, 1, "vae", ""),
    "validate": (1, 1, "vae", "0"),
    "encode": (3, 1, "vae", ""),
    "latent_statistics": (4, 1, "vae", "1"),
    "torus": (0, 2, "meanflow", "2"),
    "verify": (1, 2, "meanflow", "3"),
    "train": (4, 2, "meanflow", ""),
    "sample": (5, 2, "meanflow", ""),
    "timing": (5, 1, "benchmarks", ""),
    "reference": (6, 0, "metrics", ""),
    "evaluate": (6, 2, "metrics", "4, 5"),
    "compare_arms": (7, 1, "metrics", "6"),
    "merge_metrics": (7, 2, "metrics", ""),
    "simulate_lesions": (0, 3, "simulation", ""),
    "pairs": (1, 3, "lesions", ""),
    "pair_latents": (2, 3, "lesions", ""),
    "choose_mask_encoding": (3, 3, "lesions", ""),
    "finetune": (4, 3, "lesions", ""),
    "sample_pairs": (5, 3, "lesions", ""),
    "evaluate_pairs": (6, 3, "lesions", "7"),
    "segmentation": (7, 3, "lesions", ""),
    "figures, tables": (8, 1, "figures, report", ""),
    "report, paper": (8, 2, "figures, report", "8"),
    "export": (8, 3, "figures, report", ""),
}
FLOWS = (  # chains of stages, each stage an input of the next
    "simulate_participants > cohort > prepare > qc > autoencoder > encode > latent_statistics > train",
    "train > sample > evaluate",
    "qc > encode",
    "autoencoder > validate",
    "qc > reference > evaluate > merge_metrics > report, paper",
    "evaluate > compare_arms > figures, tables > report, paper",
    "merge_metrics > figures, tables",
    "simulate_lesions > pairs > pair_latents > choose_mask_encoding > finetune > sample_pairs > evaluate_pairs",
    "autoencoder > pair_latents",
    "train > finetune",
    "train > timing",
    "merge_metrics > export",
    "evaluate_pairs > report, paper",
)
OVERARCHING = ("sample_pairs > segmentation",)  # drawn below the box between the two
PERMISSIONS = ("torus > verify > train",)  # gates only: no data flows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="file to write; its suffix decides the format")
    args = parser.parse_args()
    plt.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "neuromf", "font.size": 8})
    figure = draw()
    figure.savefig(args.out, metadata={"Date": None} if args.out.suffix == ".svg" else None, dpi=150)


def draw() -> plt.Figure:
    """The figure: boxes on a grid, arrows from their inputs, a legend of packages."""
    figure, axes = plt.subplots(figsize=(13, 4.6), layout="constrained")
    for chains, style, bend in ((FLOWS, "-", 0.0), (PERMISSIONS, (0, (2, 2)), 0.0), (OVERARCHING, "-", 0.16)):
        for a, b in [pair for chain in chains for pair in _pairs(chain)]:
            _arrow(axes, STAGES[a][:2], STAGES[b][:2], style, bend)
    for name, (x, y, package, phases) in STAGES.items():
        _box(axes, x, y, name, COLOURS[package])
        if phases:
            axes.text(
                x + WIDTH / 2 - 0.03, y - HEIGHT / 2, phases, ha="center", va="center", fontsize=7, color="white",
                bbox={"boxstyle": "round,pad=0.25", "facecolor": "#444444", "edgecolor": "none"}, zorder=4,
            )  # fmt: skip
    handles = [plt.Rectangle((0, 0), 1, 1, facecolor=colour, edgecolor="#555555") for colour in COLOURS.values()]
    axes.legend(handles, COLOURS, loc="upper center", bbox_to_anchor=(0.5, 0.02), ncols=len(COLOURS), frameon=False)
    axes.set(xlim=(-0.5, 8.5), ylim=(3.6, -0.4))
    axes.axis("off")
    return figure


def _pairs(chain: str) -> list[tuple[str, str]]:
    stages = chain.split(" > ")
    return list(zip(stages[:-1], stages[1:], strict=True))


def _box(axes: plt.Axes, x: float, y: float, name: str, colour: str) -> None:
    corner = (x - WIDTH / 2 + 0.04, y - HEIGHT / 2 + 0.04)
    axes.add_patch(
        FancyBboxPatch(
            corner, WIDTH - 0.08, HEIGHT - 0.08, boxstyle="round,pad=0.04", facecolor=colour, edgecolor="#555555",
            linewidth=0.8, zorder=2,
        )
    )  # fmt: skip
    axes.text(x, y, name.replace("_", "_\n", 1) if len(name) > 14 else name, ha="center", va="center", zorder=3)


def _arrow(axes: plt.Axes, a: tuple[int, int], b: tuple[int, int], style: object, bend: float) -> None:
    """An arrow between two boxes: from side to side in one row, from top or bottom between rows or where it bends."""
    across, down = np.sign(np.subtract(b, a))
    if bend:
        start, end = (a[0], a[1] + HEIGHT / 2), (b[0], b[1] + HEIGHT / 2)
    elif down:
        start, end = (a[0], a[1] + down * HEIGHT / 2), (b[0], b[1] - down * HEIGHT / 2)
    else:
        start, end = (a[0] + across * WIDTH / 2, a[1]), (b[0] - across * WIDTH / 2, b[1])
    axes.add_patch(
        FancyArrowPatch(
            start, end, arrowstyle="-|>", connectionstyle=f"arc3,rad={bend}", mutation_scale=9, color="#555555",
            linestyle=style, shrinkA=0, shrinkB=0, zorder=1,
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()
