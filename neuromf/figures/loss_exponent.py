"""Figure 5: the exponent p of the loss, by distance, by similarity, and by both."""

from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from neuromf.figures import arms, names, style
from neuromf.metrics.ablations import Metric
from neuromf.metrics.table import read_rows, select_set

MEAN, FRONT = style.PALETTE[0], style.PALETTE[2]
DIAMOND = {"marker": "D", "mfc": "none", "mec": style.PALETTE[3], "mew": 1.3, "ms": 8, "ls": "none"}


def render(*, table: Path, questions: Path, out: Path, **config: Any) -> None:
    """Draw figure 5 from the metrics of all arms and their test results (csv), as of `neuromf.metrics.ablations`.

    Arguments:
        config: distance and similarity (metric and features), reference_arm (the arm with the settings of the study).
    """
    rows, tests = read_rows(table), read_rows(questions)
    front = tests[(tests["question"] == "pareto_front") & (tests["ablation"] == rows["ablation"].iloc[0])]
    metrics = Metric(**config["distance"]), Metric(**config["similarity"])
    style.save(draw(rows, front, *metrics, config["reference_arm"]), out, config)


def draw(
    table: pd.DataFrame, front: pd.DataFrame, distance: Metric, similarity: Metric, reference_arm: str, nfe: int = 1
) -> Figure:
    """Distance and similarity against the exponent (points of seeds, line of means), and one against the other.

    Arguments:
        table: Rows of the ablation, columns arm (the exponent, such as 1.5), seed, set, nfe, metric, features, value.
        front: One row per arm with columns a (arm), mean_a (distance), mean_b (similarity) and verdict, which is
            "Pareto-optimal" if no other arm is better in both.
        distance, similarity: Metrics of the first two panels.
        reference_arm: Arm with the settings of the study, drawn with a diamond.
        nfe: Network evaluations of the volumes that are compared.
    """
    fig = style.new(style.PAGE, 2.7)
    axes = fig.subplots(1, 3)
    for ax, (metric, features, *_) in zip(axes, (distance, similarity), strict=False):
        _sweep(ax, select_set(arms.of_samples(table, metric, features), nfe), reference_arm)
        arms.draw_test(ax, table, metric, features, label=names.TEST)
        ax.set(xlabel="exponent $p$", ylabel=arms.label(metric, features))
    _front(axes[2], front, reference_arm)
    arms.draw_test(axes[2], table, *similarity[:2], label=names.TEST)
    axes[2].set(xlabel=arms.label(distance.metric), ylabel=arms.label(*similarity[:2]))
    for ax, margin, letter in zip(axes, (0.05, 0.05, 0.15), "abc", strict=True):
        ax.margins(margin, 0.1)
        style.letter(ax, letter)
    handles = {name: handle for ax in axes[::2] for handle, name in zip(*ax.get_legend_handles_labels(), strict=True)}
    fig.legend(handles.values(), handles, loc="outside upper center", ncols=6, columnspacing=1.2, borderaxespad=0.2)
    arms.name_missing(fig, table)
    return fig


def exponent(arm: str) -> float:
    """Exponent in the name of an arm.

    Raises:
        ValueError: If the name is not a number.
    """
    try:
        return float(arm.removeprefix("p"))
    except ValueError:
        raise ValueError(f"arms of the exponent must be named by it, such as 1.5; got {arm}") from None


def _sweep(ax: Axes, rows: pd.DataFrame, reference_arm: str) -> None:
    """Draw the values of seeds and their means against the exponent, with a diamond at the reference arm."""
    rows = rows.assign(p=rows["arm"].map(exponent))
    means, _ = arms.over_seeds(rows, "p")
    ax.plot(rows["p"], rows["value"], "o", mfc="none", mec="0.4", mew=0.7, ms=3.5, label="one seed")
    ax.plot(means.index, means, color=MEAN, marker="_", ms=8, label="mean")
    if reference_arm in set(rows["arm"]):
        ax.plot(exponent(reference_arm), means[exponent(reference_arm)], **DIAMOND, label="config of the study")
    ticks = spaced(means.index)
    ax.set_xticks(ticks, [f"{p:g}" for p in ticks])
    ax.set_xticks(means.index, minor=True)


def spaced(numbers: pd.Index, fraction: float = 0.17) -> list[float]:
    """The numbers that lie at least a fraction of the range after the one before."""
    ticks: list[float] = []
    least = fraction * (max(numbers, default=0) - min(numbers, default=0))
    for number in sorted(numbers):
        if not ticks or number - ticks[-1] >= least:
            ticks.append(number)
    return ticks


def _front(ax: Axes, front: pd.DataFrame, reference_arm: str) -> None:
    """Draw mean similarity against mean distance: points on the Pareto front are filled and joined, others open."""
    best = front["verdict"] == "Pareto-optimal"
    edge = front[best].sort_values("mean_a")
    ax.plot(edge["mean_a"], edge["mean_b"], color=FRONT, marker="s", ms=5, label="Pareto front")
    ax.plot(front["mean_a"][~best], front["mean_b"][~best], "s", mfc="white", mec=FRONT, ms=5, label="dominated")
    ax.plot(*front.loc[front["a"] == reference_arm, ["mean_a", "mean_b"]].to_numpy().T, **DIAMOND)
    place: dict[str, Any] = {"xytext": (6, -4), "textcoords": "offset points", "size": 7, "va": "top"}
    for row in front.itertuples():
        ax.annotate(f"{exponent(row.a):g}", (row.mean_a, row.mean_b), **place)
