"""Table 1, the main comparison: the run of the study, its baselines, floors and ceilings, and published models."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from neuromf.figures import names as display
from neuromf.metrics.table import nfe_values, read_rows, select_set
from neuromf.report.tables.style import Column, measured, save

OURS, FLOORS, CEILINGS = "Generated here", "Floors: real scans", "Ceilings: degraded real scans"
OTHERS, PUBLISHED = "Other sets", "Published by others"
MEASURED, TIMED = {OURS, FLOORS, CEILINGS, OTHERS}, {OURS, PUBLISHED}  # groups with our metrics, groups with a cost
SETS = {  # group and name of each set
    "prior": (OURS, "Gaussian prior alone, without the network"),
    "train_halves": (FLOORS, "one half of the training participants"),
    "test": (FLOORS, display.TEST),
    "reconstruction": (FLOORS, "reconstructions of test scans"),
    "blurred": (CEILINGS, "blurred"),
    "more-blurred": (CEILINGS, "more blurred"),
    "noisy": (CEILINGS, "noisy"),
    "noisier": (CEILINGS, "noisier"),
    "shuffled": (CEILINGS, "blocks shuffled"),
    "mean": (CEILINGS, "mean of the test scans, repeated"),
}
OMITTED = r"samples|online|early|ema-.*|controls"  # samples have their own rows; other weights of a run; verdicts
DIVERSITY = ("pair_ms_ssim", "")
SECONDS = {"network_s": "network", "decoder_s": "decoder", "total_s": "both"}
NOTES = [
    "Parentheses: 95 % intervals, the spread of the bootstrap distribution, centred on the value.",
    "MS-SSIM of pairs is the similarity between volumes of one set: the value of the test participants is the target.",
    "Published values have other data, sizes, features and numbers of volumes, and cannot be compared with other rows.",
]

MOTFM = (
    "table 2 of MOTFM, arXiv 2503.00266, as quoted in the documents of github.com/MarioPasc/neuromf: 3D brain MRI, "
    "features of R3D-18"
)
EARLIER = "documents of github.com/MarioPasc/neuromf: brain MRI, 192 x 192 x 192, features of R3D-18"
BRAIN_LDM = (
    "README of brain_image_synthesis_latent_diffusion_model in the MONAI model zoo: T1, UK Biobank, 160 x 224 x 160, "
    "conditioned on age, sex and volumes; it does not name the features"
)
NVIDIA = (
    "README of github.com/NVIDIA-Medtech/NV-Generate-CTMR: seconds at 256 x 256 x 128 on an A100 80 GB; FID of CT, "
    "autoPET 2023, 512 x 512 x 512, RadImageNet features of slices in three planes; none is published for brain MRI"
)
LITERATURE: list[dict[str, Any]] = [  # numbers as text, with their published digits
    *(
        {"name": "MOTFM", "nfe": n, "published": fid, "source": MOTFM}
        for n, fid in ((1, "32.10"), (10, "9.27"), (50, "7.93"))
    ),
    *(
        {"name": "earlier neuromf", "nfe": n, "published": fid, "source": EARLIER}
        for n, fid in ((1, "73.85"), (10, "7.34"), (50, "6.14"))
    ),
    {"name": "BrainLDM", "nfe": 1000, "published": "0.0076", "ms_ssim": "0.6555", "source": BRAIN_LDM},
    {"name": "MAISI, CT", "nfe": 1000, "published": "6.083", "total_s": "58", "source": NVIDIA},
    {"name": "MAISI-v2, CT", "nfe": 30, "published": "5.124", "total_s": "3", "source": NVIDIA},
    {"name": "NV-Generate-MR-Brain v1", "nfe": 30, "total_s": "3", "source": NVIDIA},
]

Key = tuple[str, str]  # a metric and its feature set


def render(*, metrics: Path, timing: Path, out: Path, **config: Any) -> None:
    """Write table 1 from the metrics of all runs and the seconds of generation (csv).

    Arguments:
        config: run, column_metrics and names, see `build`.
    """
    options = {name: config[name] for name in ("run", "column_metrics", "names")}
    save(*build(read_rows(metrics), pd.read_csv(timing), **options), out, config)


def build(
    metrics: pd.DataFrame,
    timing: pd.DataFrame,
    run: str,
    *,
    column_metrics: Sequence[str] = ("frechet",),
    names: Mapping[str, str] | None = None,
) -> tuple[pd.DataFrame, list[Column], list[str]]:
    """Runs at every number of network evaluations, floors, ceilings, and published models.

    Arguments:
        metrics: Columns run, set, nfe, metric, features, n, value, low and high. Sets besides samples are those of
            `run` and those without a run.
        timing: Columns run, part, nfe, batch, n, seconds_per_volume, device and precision, as of
            `neuromf.benchmarks.timing`.
        run: Run of the study, in the first rows.
        column_metrics: Metrics of the columns; each of their feature sets is a column.
        names: Display names of the other runs in the table; None for all runs under their own names.

    Returns:
        The table, its columns, and its notes.

    Raises:
        ValueError: If the run has none of the metrics, or a metric has several rows.
    """
    metrics = metrics.fillna({"features": "", "run": ""})
    keys = _keys(metrics[metrics["run"] == run], run, column_metrics)
    others = sorted(set(metrics["run"]) - {"", run}) if names is None else [name for name in names if name != run]
    printed = display.ARMS | dict(names or {})
    rows = []
    for name in [run, *others]:
        part = metrics[metrics["run"] == name]
        for nfe in nfe_values(part):
            about = {"group": OURS, "name": printed.get(name, name), "nfe": nfe}
            rows.append({**about, **_cells(part, nfe, keys), **_seconds(timing[timing["run"] == name], nfe)})
    rows += _sets(metrics[metrics["run"].isin([run, ""])], keys) + [{"group": PUBLISHED, **row} for row in LITERATURE]
    table = pd.DataFrame(rows)
    marks = {source: chr(ord("a") + k) for k, source in enumerate(table["source"].dropna().unique())}
    table = table.assign(quoted=table["group"] == PUBLISHED, mark=table["source"].map(marks))
    notes = [*NOTES, *_timing_notes(timing), *(f"{mark}: {source}." for source, mark in marks.items())]
    return table.fillna({"mark": "", "source": ""}), _columns(keys), notes


def _keys(rows: pd.DataFrame, run: str, column_metrics: Sequence[str]) -> list[Key]:
    """Metrics and feature sets of the columns."""
    keys = [
        (metric, kind) for metric in column_metrics for kind in rows.loc[rows["metric"] == metric, "features"].unique()
    ]
    if not keys:
        known = ", ".join(sorted(set(rows["metric"] + " " + rows["features"]))) or "no metrics"
        raise ValueError(f"no {' or '.join(column_metrics)} of run {run}; it has {known}; name one of those")
    return keys


def _sets(rows: pd.DataFrame, keys: Sequence[Key]) -> list[dict]:
    """Rows of all sets but samples: those with a display name in its order, then the others."""
    present = [name for name in rows["set"].unique() if not re.fullmatch(OMITTED, name)]
    table = []
    for name in [name for name in SETS if name in present] + [name for name in present if name not in SETS]:
        group, label = SETS.get(name, (OTHERS, name))
        nfe = {"nfe": 0} if group == OURS else {}
        table.append({"group": group, "name": label, **_cells(rows, name, keys), **nfe})
    return table


def _cells(rows: pd.DataFrame, which: str | int, keys: Sequence[Key]) -> dict[str, Any]:
    """Cells of one set: number of volumes (of the first metric), each metric, and the diversity, with intervals."""
    rows = select_set(rows, which)
    cells: dict[str, Any] = {}
    for key in [*keys, DIVERSITY]:
        cells |= measured(rows, *key, _key(key))
    return {"n": cells.get(f"{_key(keys[0])}_n"), **cells}


def _key(key: Key) -> str:
    """Column of a metric."""
    return "ms_ssim" if key == DIVERSITY else " ".join(key).strip()


def _seconds(timing: pd.DataFrame, nfe: int) -> dict[str, float]:
    """Seconds per volume of network, decoder and both at batch size 1, NaN if not timed; {} without any timing."""
    if timing.empty:
        return {}
    one = timing[timing["batch"] == 1]
    network = one[(one["part"] == "network") & (one["nfe"] == nfe)]
    parts = [rows["seconds_per_volume"].mean() for rows in (network, one[one["part"] == "decoder"])]
    return dict(zip(SECONDS, (*parts, sum(parts)), strict=True))


def _timing_notes(timing: pd.DataFrame) -> list[str]:
    """Device and number of calls of the timing."""
    one = timing[timing["batch"] == 1]
    where = " and on ".join(sorted(set(one["device"] + ", " + one["precision"])))
    calls = f"{one['n'].min():.0f} to {one['n'].max():.0f}"
    return [f"Seconds per volume at batch size 1: medians of {calls} calls on {where}."] if len(one) else []


def _columns(keys: Sequence[Key]) -> list[Column]:
    headers = [(key, *display.header(key[0])) for key in keys]
    return [
        Column("name", "", kind="text"),
        Column("nfe", "NFE", kind="whole", groups=TIMED),
        Column("n", "volumes", kind="whole", groups=MEASURED),
        *(Column(_key(key), header, key[1], factor=factor, groups=MEASURED) for key, header, factor in headers),
        Column("ms_ssim", "MS-SSIM", "of pairs"),
        *(Column(key, header, "s / volume", groups=TIMED) for key, header in SECONDS.items()),
        Column("published", "FID", "as published", kind="text", groups={PUBLISHED}),
    ]
