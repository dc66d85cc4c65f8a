"""Table 1, the main comparison: the run of the study, its baseline, floors and ceilings, and what others published.

Runs, sets and feature sets are those that the metrics hold. Quoted numbers keep the digits they were published with,
and stand in a column of their own where they are something else than ours.
"""

import re
from collections.abc import Sequence

import pandas as pd

from neuromf.metrics.table import nfe_values, select_set
from neuromf.report.tables.style import Column

OURS, FLOORS, CEILINGS = "Generated here", "Floors: real people", "Ceilings: real people made worse"
REST, QUOTED = "Other sets", "Quoted from the literature"
MEASURED, MADE = {OURS, FLOORS, CEILINGS, REST}, {OURS, QUOTED}  # groups with our metrics, groups that cost something
SETS = {
    "prior": (OURS, "Gaussian prior alone, without the network"),
    "train_halves": (FLOORS, "half of the training people, from the rest"),
    "test": (FLOORS, "held-out people"),
    "reconstruction": (FLOORS, "the same after the autoencoder"),
    "blurred": (CEILINGS, "blurred"),
    "more-blurred": (CEILINGS, "more blurred"),
    "noisy": (CEILINGS, "noisy"),
    "noisier": (CEILINGS, "noisier"),
    "shuffled": (CEILINGS, "blocks shuffled"),
    "mean": (CEILINGS, "their mean, repeated"),
}
LEFT_OUT = r"samples|online|early|ema-.*|controls"  # other weights of a run, no models of their own; verdicts on metrics
NAMES = {"meanflow": "MeanFlow"}
HEADS = {  # of metrics, and their factor in print
    "frechet": ("Fréchet distance", 1),
    "kid": ("KID", 1),
    "mmd2": ("MMD squared x 1000", 1000),
    "sliced_wasserstein": ("sliced Wasserstein", 1),
}
DIVERSITY = ("pair_ms_ssim", "")
SECONDS = {"network_s": "network", "decoder_s": "decoder", "total_s": "both"}
NOTES = [
    "In parentheses 95 % intervals: how far bootstrap redraws of volumes spread, laid around the value.",
    "MS-SSIM between pairs of one set says how alike its volumes are: that of held-out people is right.",
    "Quoted rows are of other data, sizes, features and numbers of volumes, and not comparable with any other row.",
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
LITERATURE = [  # numbers as text, with the digits they were published with
    *[
        {"name": "MOTFM", "evaluations": n, "published": fid, "source": MOTFM}
        for n, fid in ((1, "32.10"), (10, "9.27"), (50, "7.93"))
    ],
    *[
        {"name": "earlier neuromf", "evaluations": n, "published": fid, "source": EARLIER}
        for n, fid in ((1, "73.85"), (10, "7.34"), (50, "6.14"))
    ],
    {"name": "BrainLDM", "evaluations": 1000, "published": "0.0076", "ms_ssim": "0.6555", "source": BRAIN_LDM},
    {"name": "MAISI, CT", "evaluations": 1000, "published": "6.083", "total_s": "58", "source": NVIDIA},
    {"name": "MAISI-v2, CT", "evaluations": 30, "published": "5.124", "total_s": "3", "source": NVIDIA},
    {"name": "NV-Generate-MR-Brain v1", "evaluations": 30, "total_s": "3", "source": NVIDIA},
]

Key = tuple[str, str]  # a metric and its feature set


def table_1(
    metrics: pd.DataFrame,
    timing: pd.DataFrame,
    run: str,
    *,
    shown: Sequence[str] = ("frechet",),
    features: Sequence[str] | None = None,
    timed: Sequence[str] | None = None,
    names: dict[str, str] | None = None,
) -> tuple[pd.DataFrame, list[Column], list[str]]:
    """Runs at every number of evaluations, floors, ceilings, and what others published.

    Arguments:
        metrics: Columns run, set, nfe, metric, features, n, value, low
            and high. Sets beside the generated ones are those of `run`, and those of no run.
        timing: Columns run, part, evaluations, batch, n, seconds_per_volume, device, precision; see neuromf/timing.py.
        run: The run that the study is about, which comes first.
        shown: Metrics that become columns, in this order, one column for each of their feature sets.
        features: Feature sets that are shown; None for all.
        timed: Runs that cost what was timed, since their networks are alike; None for those that were timed.
        names: Runs beside it, and what they are called in print; None for all, by their own names.

    Returns:
        The table, its columns, and its notes.

    Raises:
        ValueError: If none of the metrics was measured on the run, or a value stands there twice.
    """
    metrics = metrics.fillna({"features": "", "run": ""})
    keys = _keys(metrics[metrics["run"] == run], run, shown, features)
    others = sorted(set(metrics["run"]) - {"", run}) if names is None else [name for name in names if name != run]
    alike, names = set(timing["run"] if timed is None else timed), NAMES | (names or {})
    rows = []
    for name in [run, *others]:
        part = metrics[metrics["run"] == name]
        for n in nfe_values(part):
            cost = _seconds(timing, n) if name in alike else {}
            about = {"group": OURS, "name": names.get(name, name), "evaluations": n}
            rows.append({**about, **_cells(part, n, keys), **cost})
    rows += _sets(metrics[metrics["run"].isin([run, ""])], keys) + [{"group": QUOTED, **row} for row in LITERATURE]
    table = pd.DataFrame(rows)
    marks = {source: chr(ord("a") + k) for k, source in enumerate(table["source"].dropna().unique())}
    table = table.assign(quoted=table["group"] == QUOTED, mark=table["source"].map(marks))
    notes = [*NOTES, *_timing_notes(timing), *(f"{mark}: {source}." for source, mark in marks.items())]
    return table.fillna({"mark": "", "source": ""}), _columns(keys), notes


def _keys(ours: pd.DataFrame, run: str, shown: Sequence[str], features: Sequence[str] | None) -> list[Key]:
    """Metrics and feature sets that become columns."""
    there = {metric: ours.loc[ours["metric"] == metric, "features"].unique() for metric in shown}
    keys = [(metric, kind) for metric, kinds in there.items() for kind in kinds if features is None or kind in features]
    if not keys:
        found = ", ".join(sorted(set(ours["metric"] + " " + ours["features"]))) or "nothing of it"
        wanted = " or ".join(shown) + (f" with {' or '.join(features)}" if features else "")
        raise ValueError(f"no {wanted} of run {run} in the metrics, which hold {found}; show one of those")
    return keys


def _sets(ours: pd.DataFrame, keys: Sequence[Key]) -> list[dict]:
    """Rows of the sets beside the generated ones: the known in their order, then those not heard of here."""
    there = [name for name in ours["set"].unique() if not re.fullmatch(LEFT_OUT, name)]
    rows = []
    for name in [name for name in SETS if name in there] + [name for name in there if name not in SETS]:
        group, label = SETS.get(name, (REST, name))
        rows.append({"group": group, "name": label, **_cells(ours, name, keys)})
        if group == OURS:
            rows[-1]["evaluations"] = 0
    return rows


def _cells(rows: pd.DataFrame, which: str | int, keys: Sequence[Key]) -> dict:
    """Cells of one set: its number of volumes (of the first metric), each metric and the diversity, with intervals."""
    cells: dict[str, float] = {}
    for key in [*keys, DIVERSITY]:
        found = select_set(rows[(rows["metric"] == key[0]) & (rows["features"] == key[1])], which)
        if len(found) > 1:
            raise ValueError(
                f"{len(found)} rows of {' '.join(key)} for {which} of one run, wanted one: join metrics again"
            )
        for row in found[["value", "low", "high", "n"]].to_dict("records"):
            cells |= {_key(key): row["value"], **{f"{_key(key)}_{end}": row[end] for end in ("low", "high", "n")}}
    return {"n": cells.get(f"{_key(keys[0])}_n"), **cells}


def _key(key: Key) -> str:
    """Name of the column of a metric."""
    return "ms_ssim" if key == DIVERSITY else " ".join(key).strip()


def _seconds(timing: pd.DataFrame, evaluations: int) -> dict[str, float]:
    """Seconds per volume of the network, the decoder and both, one volume at a time; NaN where they were not timed."""
    one = timing[timing["batch"] == 1]
    network = one[(one["part"] == "network") & (one["evaluations"] == evaluations)]
    parts = [rows["seconds_per_volume"].mean() for rows in (network, one[one["part"] == "decoder"])]
    return dict(zip(SECONDS, (*parts, sum(parts)), strict=True))


def _timing_notes(timing: pd.DataFrame) -> list[str]:
    """On what the seconds were measured; nothing where there are none."""
    one = timing[timing["batch"] == 1]
    where = " and on ".join(sorted(set(one["device"] + ", " + one["precision"])))
    calls = f"{one['n'].min():.0f} to {one['n'].max():.0f}"
    return [f"Seconds per volume, one volume at a time: medians of {calls} calls on {where}."] if len(one) else []


def _columns(keys: Sequence[Key]) -> list[Column]:
    heads = [(key, *HEADS.get(key[0], (key[0].replace("_", " "), 1))) for key in keys]
    return [
        Column("name", "", kind="text"),
        Column("evaluations", "evaluations", kind="whole", groups=MADE),
        Column("n", "volumes", kind="whole", groups=MEASURED),
        *(Column(_key(key), head, key[1], factor=factor, groups=MEASURED) for key, head, factor in heads),
        Column("ms_ssim", "MS-SSIM", "of pairs"),
        *(Column(key, head, "s / volume", groups=MADE) for key, head in SECONDS.items()),
        Column("published", "FID", "as published", kind="text", groups={QUOTED}),
    ]
