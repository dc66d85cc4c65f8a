"""Figure F4: forecasts of the volume with 95 % bands, and skill and interval score of the models.

Bands are those of the protocol all_from_first: every later visit from the first.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from neuromf.figures import style

SHOWN = {"M1": "LOCF", "M3": "LME", "M4r": "reduced NLME", "M11": "ODE, effects"}
COLOURS = dict(zip(SHOWN, ("0.45", style.PALETTE[1], style.PALETTE[2], style.PALETTE[0]), strict=True))
N_PATIENTS, FEWEST_VISITS = 3, 5
MODELS_LEFT_OUT = ("M0",)  # its skill is far below 0
PANELS = (("skill", "skill over LOCF"), ("is95", "95 % interval score of ln V"))
ML = 1000.0  # mm^3


def render(*, folders: Sequence[Path], out: Path, simulated: str = "", **config: Any) -> None:
    """Draw the ladders of cohorts, the first one with trajectories; one folder of a study per cohort."""
    scores, verdicts, forecasts, volumes = read(folders)
    figure = draw(forecasts, volumes, scores, simulated)
    style.save(figure, out, config | {"simulated": simulated, "verdicts": verdicts})


def read(folders: Sequence[Path]) -> tuple[dict[str, pd.DataFrame], dict[str, Any], pd.DataFrame, pd.DataFrame]:
    """Scores and verdicts by cohort, and forecasts and measured volumes of the first one."""
    scores = {folder.name: pd.read_csv(folder / "scores.csv") for folder in folders}
    verdicts = {folder.name: json.loads((folder / "study.json").read_text())["verdicts"] for folder in folders}
    volumes = pd.read_csv(folders[0] / "volumes.tsv", sep="\t")
    return scores, verdicts, pd.read_csv(folders[0] / "forecasts.csv"), volumes


def draw(
    forecasts: pd.DataFrame, volumes: pd.DataFrame, scores: dict[str, pd.DataFrame], simulated: str = ""
) -> Figure:
    """The panels of `panels` with a statement at the foot."""
    fig = style.new(style.PAGE, 5.8)
    panels(fig, forecasts, volumes, scores)
    if simulated:
        fig.supxlabel(simulated, x=0.01, ha="left", fontsize=7, style="italic")
    return fig


def panels(
    fig: Any,  # noqa: ANN401  # a figure or subfigure
    forecasts: pd.DataFrame,
    volumes: pd.DataFrame,
    scores: dict[str, pd.DataFrame],
) -> None:
    """Top: patients with most visits; bottom: skill over LOCF and interval score, by model and cohort.

    Arguments:
        fig: Figure or subfigure.
        forecasts: Rows of `neuromf.growth.ladder.forecast_cases`.
        volumes: Measured volumes, columns patient_id, t_months, V_mm3 and V_true_mm3.
        scores: Rows of `neuromf.growth.ladder.score_models` by cohort.
    """
    upper, lower = fig.subfigures(2, 1, height_ratios=[1, 1.35])
    chosen = choose_patients(forecasts)
    top = upper.subplots(1, len(chosen))
    for ax, patient, letter in zip(top, chosen, "abc", strict=False):
        _trajectory(ax, forecasts[forecasts["patient"] == patient], volumes[volumes["patient_id"] == patient])
        style.letter(ax, letter, left=20)
    top[0].set_ylabel("volume (ml)", fontsize=9)
    handles, labels = top[0].get_legend_handles_labels()
    upper.legend(handles, labels, loc="outside upper center", ncols=len(labels), columnspacing=1.0)
    bottom = lower.subplots(1, 2, sharey=True)
    for ax, letter, (name, label) in zip(bottom, "de", PANELS, strict=True):
        _bars(ax, scores, name, label)
        style.letter(ax, letter, left=10)
    bottom[0].invert_yaxis()
    lower.legend(*bottom[0].get_legend_handles_labels(), loc="outside upper right", ncols=len(scores))


def choose_patients(forecasts: pd.DataFrame) -> list[str]:
    """Test patients with at least five visits: those whose growth is at the 20th, 50th and 80th percentile."""
    part = forecasts[(forecasts["protocol"] == "all_from_first") & (forecasts["model"] == "M1")]
    last = part.groupby("patient").last()
    many = last[part.groupby("patient").size() >= FEWEST_VISITS - 1]
    pool = many if len(many) >= N_PATIENTS else last
    growth = (pool["actual"] - pool["mean"]).sort_values(kind="stable")
    places = np.unique(np.round(np.array([0.2, 0.5, 0.8]) * (len(growth) - 1)).astype(int))
    return [str(growth.index[k]) for k in places]


def _trajectory(ax: Axes, forecasts: pd.DataFrame, volumes: pd.DataFrame) -> None:
    part = forecasts[forecasts["protocol"] == "all_from_first"]
    first = volumes.iloc[0]
    for model, title in SHOWN.items():
        own = part[part["model"] == model].sort_values("t")
        if own.empty:
            continue
        t = np.concatenate([[0.0], own["t"]]) / 12
        mean, low, high = (
            np.concatenate([[first["V_mm3"]], np.expm1(own[name])]) / ML for name in ("mean", "lo95", "hi95")
        )
        ax.fill_between(t, np.maximum(low, 0), high, color=COLOURS[model], alpha=0.13, lw=0)
        ax.plot(t, mean, color=COLOURS[model], label=title)
    years = volumes["t_months"] / 12
    ax.plot(years, volumes["V_true_mm3"] / ML, color="0.1", lw=0.8, ls=":", label="truth")
    ax.plot(years, volumes["V_mm3"] / ML, "o", color="0.1", ms=3.5, label="measured")
    top = max(volumes["V_mm3"].max(), np.expm1(part[part["model"] == "M11"]["hi95"]).max() if len(part) else 0)
    ax.set_ylim(0, 1.15 * (top if np.isfinite(top) else volumes["V_mm3"].max()) / ML)
    ax.set_xlabel("years from first visit", fontsize=9)


def _bars(ax: Axes, scores: dict[str, pd.DataFrame], column: str, label: str) -> None:
    """One bar per model and cohort, last visit from the rest."""
    rows = {name: table[(table["protocol"] == "last_from_rest") & (table["horizon"] == "all")] for name, table in
            scores.items()}  # fmt: skip
    titles = [title for model, title in zip(*(next(iter(rows.values()))[c] for c in ("model", "title")), strict=True)
              if model not in MODELS_LEFT_OUT]  # fmt: skip
    height = 0.8 / len(rows)
    for k, (cohort, table) in enumerate(rows.items()):
        values = table.set_index("title")[column].reindex(titles)
        places = np.arange(len(titles)) + (k - (len(rows) - 1) / 2) * height
        ax.barh(places, values, height=height, color=style.PALETTE[k], label=f"{cohort} growth")
    ax.set_yticks(range(len(titles)), titles)
    ax.axvline(0, color=style.LIMIT, lw=0.8)
    ax.set_xlabel(label, fontsize=9)
