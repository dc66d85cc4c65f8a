"""Dashboard of a training of the growth system, from its table of epochs alone."""

from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from neuromf.figures import style
from neuromf.vae.collapse import AU_FRACTION, BYPASS, KL_NATS

# Panels: y-axis label, column and legend of each curve, bound of a healthy latent.
PANELS: tuple[tuple[str, dict[str, str], float | None], ...] = (
    ("loss per sample", {"train_epoch/loss": "training", "val_epoch/loss": "validation"}, None),
    ("reconstruction per sample", {"train_epoch/recon": "training", "val_epoch/recon": "validation"}, None),
    ("KL (nats)", {"train_epoch/kl_raw": "training", "val_epoch/kl_raw": "validation",
                   "train_epoch/kl_constrained": "constrained"}, KL_NATS),
    ("weights", {"sched/beta": r"$\beta$", "sched/lambda_od": r"$\lambda_{od}$", "sched/lambda_d": r"$\lambda_d$",
                 "sched/beta_tc": r"$\beta_{tc}$"}, None),
    ("active units / d", {"diag/au_frac": "active"}, AU_FRACTION),
    ("MSE", {"diag/recon_mu_mse": r"decode($\mu$)", "diag/recon_z0_mse": "decode(0)"}, None),
    ("bypass ratio", {"diag/bypass_ratio": "bypass"}, BYPASS),
    ("posterior", {"diag/mu_var_mean": r"Var($\mu$)", "diag/z_std": "s.d.", "diag/logvar_mean": "log-variance"}, None),
    ("covariance penalty", {"train_epoch/cov_penalty_od": "off-diagonal", "train_epoch/cov_penalty_d": "variances"},
     None),
    ("SSIM", {f"val_epoch/ssim_{name}": name for name in ("t1c", "t1n", "t2f", "t2w")}, None),
    (r"probe $R^2$", {"diag/probe_log_volume": "ln V", "diag/probe_centroid": "centroid"}, None),
    ("gradient norm", {"opt/grad_norm": "before clipping"}, None),
)  # fmt: skip
LOWEST_R2 = -1.0


def render(*, metrics: Path, out: Path, **config: Any) -> None:
    """Draw the dashboard of a table of epochs (csv); `out` has no suffix."""
    style.save(draw(pd.read_csv(metrics)), out, config)


def draw(table: pd.DataFrame) -> Figure:
    """Losses, KL, schedules, active units, bypass, posterior, penalties, similarity and probes by epoch.

    Arguments:
        table: One row per epoch, columns epoch and the log keys of `neuromf.growth.module`; missing ones are skipped.
    """
    fig = style.new(style.PAGE, 7.6)
    for ax, letter, (label, curves, bound) in zip(fig.subplots(4, 3).flat, "abcdefghijkl", PANELS, strict=True):
        _panel(ax, table, curves)
        ax.set_ylabel(label, fontsize=8)
        if label.startswith("probe") and ax.lines:
            ax.set_ylim(bottom=max(LOWEST_R2, ax.get_ylim()[0]))
        if bound is not None and ax.lines:
            ax.axhline(bound, color=style.LIMIT, ls="--", lw=0.8)
        ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        style.letter(ax, letter, left=30)
    for ax in fig.axes[-3:]:
        ax.set_xlabel("epoch", fontsize=9)
    return fig


def _panel(ax: Axes, table: pd.DataFrame, curves: dict[str, str]) -> None:
    """Draw the columns that the table has, through epochs with a value."""
    for column, label in curves.items():
        if column in table and table[column].notna().any():
            rows = table[table[column].notna()]
            ax.plot(rows["epoch"], rows[column], label=label, lw=1, marker="." if len(rows) < 6 else None)
    if ax.lines:
        ax.legend(fontsize=6)
    else:
        ax.text(0.5, 0.5, "not logged", transform=ax.transAxes, ha="center", color=style.LIMIT, fontsize=8)
