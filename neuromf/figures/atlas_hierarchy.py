"""Figure F6 of the atlas: the tree of topics in the top latents, with maps of its highest nodes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from neuromf.atlas.hierarchy import Tree
from neuromf.data.brain_grid import BrainGrid, brain_grid
from neuromf.figures import atlas_projections, style

N_MAPS = 6
CIRCLE = {"boxstyle": "circle", "facecolor": style.PALETTE[0], "edgecolor": "none", "pad": 0.2}


def render(*, gate: Path, tree: Path, out: Path, **provenance: Any) -> None:
    """Write the figure as out.pdf, out.png and out.json.

    Arguments:
        gate: JSON file of the stage gate.
        tree: File with children, heights, words and maps of nodes.
    """
    verdict = json.loads(Path(gate).read_text(encoding="utf-8"))
    with np.load(tree) as found:
        nodes, words, maps = Tree(found["children"], found["heights"]), found["words"].tolist(), found["maps"]
    grid = next(one for one in map(brain_grid, ("6mm", "2mm")) if one.n_voxels == maps.shape[1])
    facts = {key: verdict[key] for key in ("scale", "statement", "manifest", "verdict", "criteria")}
    style.save(draw(nodes, words, maps, grid, verdict), out, provenance | facts)


def draw(tree: Tree, words: list[str], maps: NDArray, grid: BrainGrid, verdict: dict[str, Any]) -> Figure:
    """Tree on the left with numbered nodes, their maps minus the root's on the right."""
    fig = style.new(style.PAGE, max(4.0, 0.13 * len(words) + 0.6))
    numbered = highest_nodes(tree)
    axes = fig.subplot_mosaic([["t", k] for k in range(len(numbered))], width_ratios=[1.5, 1])
    _tree(axes["t"], tree, words, numbered)
    changes = [maps[node] - maps[-1] for node in numbered]
    for k, (node, change) in enumerate(zip(numbered, changes, strict=True)):
        limit = max(float(np.abs(change).max()), 1e-12)
        atlas_projections.draw(axes[k], grid, change, limit)
        leaves = tree.leaves(node)
        some = ", ".join(words[leaf].split()[0] for leaf in leaves[:3])
        title = f"{k + 1}: {len(leaves)} topics, {some}; largest {limit:.3f}"
        axes[k].set_title(title, fontsize=7, loc="left", pad=2)
    fig.suptitle(
        f"Map of a node minus that of the root. Stage gate: {verdict['verdict']}", fontsize=8, x=0.99, ha="right"
    )
    if verdict["statement"]:
        fig.supxlabel(verdict["statement"], x=0.01, ha="left", fontsize=7, style="italic")
    return fig


def highest_nodes(tree: Tree) -> list[int]:
    """Separate groups of two or more topics: the highest merge is split until there are N_MAPS of them."""
    n = len(tree.children) + 1
    halves = {n + k: [child for child in pair if child >= n] for k, pair in enumerate(tree.children.tolist())}
    groups = [2 * n - 2]
    while len(groups) < N_MAPS and (divisible := [node for node in groups if halves[node]]):
        groups.remove(max(divisible))
        groups += halves[max(divisible)]
    return sorted(groups, key=lambda node: tree.leaves(2 * n - 2).index(tree.leaves(node)[0]))


def positions(tree: Tree) -> dict[int, tuple[float, float]]:
    """Height and row of each node."""
    n = len(tree.children) + 1
    rows = {leaf: float(k) for k, leaf in enumerate(tree.leaves(2 * n - 2))}
    found = {leaf: (0.0, rows[leaf]) for leaf in range(n)}
    for k, (a, b) in enumerate(tree.children.tolist()):
        found[n + k] = (float(tree.heights[k]), (found[a][1] + found[b][1]) / 2)
    return found


def _tree(ax: Axes, tree: Tree, words: list[str], numbered: list[int]) -> None:
    at, n = positions(tree), len(words)
    for k, children in enumerate(tree.children.tolist()):
        x, _ = at[n + k]
        for child in children:
            ax.plot([x, x, at[child][0]], [at[n + k][1], at[child][1], at[child][1]], color="0.55", lw=0.8)
    for k, node in enumerate(numbered):
        ax.annotate(str(k + 1), at[node], fontsize=7, ha="center", va="center", color="white", bbox=CIRCLE)
    for leaf in range(n):
        ax.annotate(words[leaf], at[leaf], xytext=(3, 0), textcoords="offset points", fontsize=6, va="center")
    ax.set_xlim(max(tree.heights) * 1.05, -0.9 * max(tree.heights))
    ax.set_ylim(n, -1)
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)
    ax.set_xticks([tick for tick in ax.get_xticks() if 0 <= tick <= max(tree.heights)])
    ax.set_xlabel("distance in the top latents", fontsize=8, x=0.25)
