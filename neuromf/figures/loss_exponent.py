"""Figure 5: the exponent of the loss, by distance, by similarity, and by both."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from neuromf.figures import style
from neuromf.figures.evaluations import drawn, label, name_missing, over_seeds

MEAN, FRONT = style.PALETTE[0], style.PALETTE[2]
DIAMOND = {"marker": "D", "mfc": "none", "mec": style.PALETTE[3], "mew": 1.3, "ms": 8, "ls": "none"}


def fig_5(
    table: pd.DataFrame,
    front: pd.DataFrame,
    *,
    distance: tuple[str, str],
    similarity: tuple[str, str],
    base: str,
    evaluations: int = 1,
) -> Figure:
    """Distance and similarity against the exponent p, points of seeds and line of means, and one against the other.

    Arguments:
        table: Rows of the sweep, columns arm (the exponent in digits), seed, nfe (text), metric, features and value.
        front: One row per arm, columns a (the arm), mean_a (distance), mean_b (similarity) and verdict, which is
            "on the front" where no other arm beats it.
        distance: The distance that is drawn, metric and features.
        similarity: What is drawn beside it.
        base: The arm of the study's own config, which is marked.
        evaluations: Network evaluations of the volumes that are compared.
    """
    fig = style.new(style.PAGE, 2.7)
    axes = fig.subplots(1, 3)
    for ax, (metric, features), name in zip(axes, (distance, similarity), "ab", strict=False):
        rows = drawn(table, metric, features)
        sweep(ax, rows[rows["evaluations"] == evaluations], base)
        reference(ax, table, metric, features)
        ax.set(xlabel="exponent $p$", ylabel=label(metric, features))
        style.letter(ax, name)
    against(axes[2], front, base)
    reference(axes[2], table, *similarity)
    axes[2].set(xlabel=label(distance[0]), ylabel=label(*similarity))
    style.letter(axes[2], "c")
    for ax, room in zip(axes, (0.05, 0.05, 0.15), strict=True):
        ax.margins(room, 0.1)
    handles = {name: handle for ax in axes[::2] for handle, name in zip(*ax.get_legend_handles_labels(), strict=True)}
    fig.legend(handles.values(), handles, loc="outside upper center", ncols=6, columnspacing=1.2, borderaxespad=0.2)
    name_missing(fig, table)
    return fig


def exponent(arm: str) -> float:
    """The number that an arm of the sweep is named by.

    Raises:
        ValueError: If it is none.
    """
    try:
        return float(arm.removeprefix("p"))
    except ValueError:
        raise ValueError(f"arms of the sweep must be named by their exponent, such as 1.5; got {arm}") from None


def sweep(ax: Axes, rows: pd.DataFrame, base: str) -> None:
    """Values of seeds and their means against the exponent; the base has a diamond."""
    rows = rows.assign(p=rows["arm"].map(exponent))
    means, _ = over_seeds(rows, "p")
    ax.plot(rows["p"], rows["value"], "o", mfc="none", mec="0.4", mew=0.7, ms=3.5, label="one seed")
    ax.plot(means.index, means, color=MEAN, marker="_", ms=8, label="mean")
    if base in set(rows["arm"]):
        ax.plot(exponent(base), means[exponent(base)], **DIAMOND, label="config of the study")
    ax.set_xticks(apart(means.index), [f"{p:g}" for p in apart(means.index)])
    ax.set_xticks(means.index, minor=True)


def apart(numbers: pd.Index, share: float = 0.17) -> list[float]:
    """Of these numbers, those that have room for a tick of their own, as a share of their range."""
    kept: list[float] = []
    room = share * (max(numbers, default=0) - min(numbers, default=0))
    for number in sorted(numbers):
        if not kept or number - kept[-1] >= room:
            kept.append(number)
    return kept


def against(ax: Axes, front: pd.DataFrame, base: str) -> None:
    """Mean similarity against mean distance, one point per exponent: filled and joined on the front, open behind it."""
    best = front["verdict"] == "on the front"
    edge = front[best].sort_values("mean_a")
    ax.plot(edge["mean_a"], edge["mean_b"], color=FRONT, marker="s", ms=5, label="Pareto front")
    ax.plot(front["mean_a"][~best], front["mean_b"][~best], "s", mfc="white", mec=FRONT, ms=5, label="beaten")
    ax.plot(*front.loc[front["a"] == base, ["mean_a", "mean_b"]].to_numpy().T, **DIAMOND)
    for row in front.itertuples():
        ax.annotate(
            f"{exponent(row.a):g}",
            (row.mean_a, row.mean_b),
            xytext=(6, -4),
            textcoords="offset points",
            size=7,
            va="top",
        )


def reference(ax: Axes, table: pd.DataFrame, metric: str, features: str) -> None:
    """The same number of people who were not trained on, where it was measured."""
    real = table[(table["nfe"] == "real") & (table["metric"] == metric) & (table["features"] == features)]
    if len(real):
        ax.axhline(real["value"].mean(), color=style.LIMIT, ls=":", lw=1.2, label="real people, held out")
