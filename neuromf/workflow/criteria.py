"""The criteria of every phase: which number of which file is judged, and on which side of its bound it must lie.

Bounds stand in the config, since a study of minutes and the paper's have different ones. A criterion about a file that
the study does not make, such as an ablation that is not active, has no row.
"""

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path

from neuromf.workflow.gates import Criterion


def _json(name: str, key: str, reduce: Callable = float) -> Callable[[dict[str, Path]], float]:
    return lambda files: float(reduce(json.loads(files[name].read_text())[key]))


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ","))


def number(cell: str) -> float:
    """A cell as a number; pandas writes NaN as an empty one."""
    return float(cell or "nan")


def mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def largest(values: list[float]) -> float:
    """The largest value, NaN where any is: `max` would overlook it."""
    return math.nan if any(map(math.isnan, values)) else max(values, default=math.nan)


def smallest(values: list[float]) -> float:
    return -largest([-value for value in values])


def over(value: float, other: float) -> float:
    return value / other if other else math.nan


def _share_encoded(files: dict[str, Path]) -> float:
    accepted = sum(row["status"] == "accepted" for row in _rows(files["qc"]))
    return json.loads(files["stats"].read_text())["encoded"] / max(accepted, 1)


def _shape_as_wanted(files: dict[str, Path]) -> float:
    stats = json.loads(files["stats"].read_text())
    return float(stats["shapes"] == [str(stats["shape"])])


def _torus(evaluations: int, column: str) -> Callable[[dict[str, Path]], float]:
    """A column of the torus summary for the main arm, the last of the table."""

    def measure(files: dict[str, Path]) -> float:
        return number([row for row in _rows(files["summary"]) if int(row["evaluations"]) == evaluations][-1][column])

    return measure


def _torus_falls(files: dict[str, Path]) -> float:
    """Largest ratio of raw losses, epoch 10 over 1 and last over 10, over the arms: below 1 where all fall.

    Of the pairs with r = t: with the conditional tangent the raw loss of the others need not fall as u becomes right.
    """
    rows, ratios = _rows(files["history"]), []
    for arm in {(row["prediction"], row["dim"]) for row in rows}:
        raw = [number(r["raw_r_equals_t"]) for r in rows if (r["prediction"], r["dim"]) == arm]
        ratios += [over(raw[9], raw[0]), over(raw[-1], raw[9])]
    return largest(ratios)


def _history(column: str, late: bool = True) -> Callable[[dict[str, Path]], float]:
    """Mean of a column over the last three rows that have it, or its first value."""

    def measure(files: dict[str, Path]) -> float:
        values = [number(row[column]) for row in _rows(files["history"]) if row[column]]
        return mean(values[-3:] if late else values[:1])

    return measure


def _last(column: str) -> Callable[[dict[str, Path]], float]:
    return lambda files: number(_rows(files["history"])[-1][column])


def _falls(files: dict[str, Path]) -> float:
    """Raw loss of the pairs that every look comes back to, at the last over that before the first step."""
    rows = [r for r in _rows(files["diagnostics"]) if r["quantity"] == "fixed_fm"]
    losses = {step: sum(number(r["value"]) for r in rows if r["step"] == step) for step in (r["step"] for r in rows)}
    return over(list(losses.values())[-1], losses["0"])


def _ratio(files: dict[str, Path]) -> float:
    """Largest raw MeanFlow over raw flow-matching loss, late in training, over the bins of t that have both."""
    bins = [name for name in _rows(files["history"])[0] if name.startswith("raw_mf_t")]
    pairs = [(_history(name)(files), _history(name.replace("_mf_", "_fm_"))(files)) for name in bins]
    return largest([over(mf, fm) for mf, fm in pairs if not math.isnan(mf + fm)])


def _metric(metric: str, evaluations: int | str, column: str = "value") -> Callable[[dict[str, Path]], float]:
    def measure(files: dict[str, Path]) -> float:
        rows = _rows(files["metrics"]) + _rows(files["reference"])
        nfe = evaluations if evaluations != "most" else max(int(r["nfe"]) for r in rows if r["nfe"].isdigit())
        found = [r for r in rows if r["metric"] == metric and r["nfe"] == str(nfe)]
        found = [r for r in found if r["features"] == found[0]["features"]]  # the primary set comes first
        if len(found) != 1:
            raise ValueError(f"{files['metrics']} holds {len(found)} rows of {metric} at {nfe} evaluations, wanted 1")
        return number(found[0][column])

    return measure


def _over(metric: str, other: int | str) -> Callable[[dict[str, Path]], float]:
    """A metric of one-step samples over the same metric elsewhere."""
    return lambda files: over(_metric(metric, 1)(files), _metric(metric, other)(files))


def _over_base(files: dict[str, Path]) -> float:
    """Frechet distance of one-step samples over that of the Gaussian they start from; NaN for a run without one."""
    has_one = any(row["nfe"] == "base" for row in _rows(files["metrics"]))
    return _over("frechet", "base")(files) if has_one else math.nan


def _worst_region(files: dict[str, Path]) -> float:
    """Largest Wasserstein distance over the regions, in standard deviations of real people."""
    rows = [
        r for r in _rows(files["metrics"]) if r["metric"].startswith("wasserstein_") and r["metric"].endswith("_sd")
    ]
    return largest([number(r["value"]) for r in rows if r["nfe"] == "1"]) if rows else math.nan


def _seconds(files: dict[str, Path]) -> float:
    """Seconds per volume at one evaluation and batch 1: network and decoder together."""
    rows = [
        r
        for r in _rows(files["timing"])
        if r["batch"] == "1" and (r["part"] == "decoder" or number(r["evaluations"]) == 1)
    ]
    return sum(number(r["seconds_per_volume"]) for r in rows) if len(rows) == 2 else math.nan


# --- ablations ---------------------------------------------------------------------------------------


def _share_measured(files: dict[str, Path]) -> float:
    """Share of the members of all ablations that have metrics; a member without has one row, of no metric."""
    tables = [_rows(path) for name, path in files.items() if name not in ("metrics", "reference", "questions")]
    known = {(r["ablation"], r["arm"], r["seed"]): r["metric"] != "" for rows in tables for r in rows}
    return mean([float(there) for there in known.values()])


def _one_step(path: Path) -> dict[str, float]:
    """Mean Frechet distance over seeds at one evaluation, by arm, in the first feature set."""
    rows = [r for r in _rows(path) if r["metric"] == "frechet" and r["nfe"] == "1"]
    rows = [r for r in rows if r["features"] == rows[0]["features"]]
    arms = dict.fromkeys(r["arm"] for r in rows)
    return {arm: mean([number(r["value"]) for r in rows if r["arm"] == arm]) for arm in arms}


def _difference(ablation: str) -> Callable[[dict[str, Path]], float]:
    """Corrected p-value of the difference between the two arms of an ablation."""
    return lambda files: smallest(
        [number(r["p_holm"]) for r in _rows(files["questions"])
         if (r["ablation"], r["question"]) == (ablation, "difference")]
    )  # fmt: skip


def _over_best(files: dict[str, Path]) -> float:
    """Frechet distance at one evaluation over the smallest at any number of them."""
    rows = [r for r in _rows(files["metrics"]) if r["metric"] == "frechet" and r["nfe"].isdigit()]
    values = {r["nfe"]: number(r["value"]) for r in rows if r["features"] == rows[0]["features"]}
    return over(values["1"], smallest(list(values.values())))


def _strategy_dice(files: dict[str, Path]) -> float:
    """Dice of training and validation masks there and back, by the strategy that was taken."""
    found = json.loads(files["strategy"].read_text())
    return float(found["dice"][found["strategy"]])


def _tuning_falls(files: dict[str, Path]) -> float:
    """Raw training loss of the last epoch of a fine-tuning over that of its first; the line before it has none."""
    losses = [number(r["raw_fm"]) for r in _rows(files["history"]) if r["raw_fm"]]
    return over(losses[-1], losses[0])


def _held_falls(files: dict[str, Path]) -> float:
    """Smallest held-out raw loss of a fine-tuning over that before it; no number where no pair was held out."""
    held = [number(r.get("held", "")) for r in _rows(files["history"])]
    return over(smallest(held[1:]), held[0])


def _pair(name: str, metric: str, cell: str = "value", arm: str = "") -> Callable[[dict[str, Path]], float]:
    """A cell of a metric of pairs: of an arm, or of the one that is not real."""

    def measure(files: dict[str, Path]) -> float:
        rows = [r for r in _rows(files[name]) if r["metric"] == metric and (r["arm"] == "real") == (arm == "real")]
        return number(rows[0][cell]) if rows else math.nan

    return measure


def _made(files: dict[str, Path]) -> float:
    """How many side files name the study that they are of."""
    return float(sum(bool(json.loads(path.read_text()).get("study")) for path in files.values()))


CRITERIA: dict[int, dict[str, Criterion]] = {
    0: {
        "P0-T4": Criterion("round-trip SSIM of held-out volumes", "above", _json("validation", "ssim"), "validation",
                           cure="train the autoencoder longer (vae.steps) or use the published weights"),
        "P0-T5": Criterion("round-trip PSNR of held-out volumes, dB", "above",
                           _json("validation", "psnr"), "validation",
                           cure="train the autoencoder longer (vae.steps) or use the published weights"),
    },
    1: {
        "P1-T1": Criterion("share of accepted scans that were encoded", "above", _share_encoded, "stats"),
        "P1-T2": Criterion("stored latents all of one right shape", "above", _shape_as_wanted, "stats"),
        "P1-T3": Criterion("largest channel mean of training latents, absolute", "below",
                           _json("stats", "mean", lambda m: largest([abs(x) for x in m])), "stats"),
        "P1-T4": Criterion("smallest channel standard deviation", "above", _json("stats", "std", smallest), "stats"),
        "P1-T4b": Criterion("largest channel standard deviation", "below", _json("stats", "std", largest), "stats"),
        "P1-T5": Criterion("no NaN or Inf in any latent", "above", _json("stats", "finite"), "stats"),
        "P1-T7": Criterion("SSIM of decoded stored latents", "above", _json("stats", "roundtrip_ssim", mean), "stats"),
    },
    2: {
        "P2-T4": Criterion("raw loss of epochs 10 over 1, and last over 10, worst arm", "below",
                           _torus_falls, "history"),
        "P2-T5": Criterion("distance of one-step samples to the torus", "below", _torus(1, "mean_distance"), "summary"),
        "P2-T6": Criterion("smaller KS p-value of the two angles", "above",
                           lambda f: smallest([_torus(1, "ks_p_a")(f), _torus(1, "ks_p_b")(f)]), "summary"),
        "P2-T7": Criterion("distance at 5 evaluations over that at 1", "below",
                           lambda f: over(_torus(5, "mean_distance")(f), _torus(1, "mean_distance")(f)), "summary",
                           "informational"),
    },
    4: {
        "P4-T1": Criterion("optimiser steps taken", "above",
                           lambda f: float(_rows(f["history"])[-1]["step"]), "history"),
        "P4-T2": Criterion("raw loss of the same pairs, trained over untrained network", "below",
                           _falls, "diagnostics"),
        "P4-T2b": Criterion("raw MeanFlow over flow-matching loss at equal t, worst bin", "below", _ratio, "history"),
        "P4-T3": Criterion("final raw loss is a number", "below", _last("raw_mf"), "history"),
        "P4-T4": Criterion("early one-step samples: Frechet distance over that of the mean head", "below",
                           lambda f: over(_metric("frechet", "early")(f), _metric("frechet", "mean-head")(f)),
                           "metrics"),
        "P4-T4b": Criterion("Frechet distance of one-step samples over that of the base, without the network", "below",
                            _over_base, "metrics", "informational"),
        "P4-T5": Criterion("white-grey contrast of one-step samples over that of real heads", "above",
                           _over("tissue_contrast", "real"), "metrics"),
        "P4-T5b": Criterion("left-right symmetry of one-step samples over that of real heads", "above",
                            _over("symmetry", "real"), "metrics"),
        "P4-T5c": Criterion("ventricle volume of one-step samples over that of real heads", "above",
                            _over("ventricle_ml", "real"), "metrics"),
        "P4-T6": Criterion("Frechet distance of EMA over online weights, lower end of its paired interval", "below",
                           _metric("frechet_over_online", 1, "low"), "metrics"),
        "P4-T7": Criterion("largest departure of a channel's one-step deviation from the training latents'", "below",
                           _metric("latent_std_error", 1), "metrics", "informational"),
    },
    5: {
        "P5-T1": Criterion("share of the volumes asked for that were made and read", "above",
                           _metric("readable", 1), "metrics"),
        "P5-T2": Criterion("Frechet distance of one-step samples over that of blurred real people", "below",
                           _over("frechet", "blurred"), "metrics",
                           cure="train longer, or look at what the dashboard says of one-step samples"),
        "P5-T3": Criterion("MS-SSIM of one-step samples to the nearest training head", "above",
                           _metric("nearest_ms_ssim", 1), "metrics"),
        "P5-T4": Criterion("share of one-step samples that can be segmented", "above",
                           _metric("segmented", 1), "metrics", "informational"),
        "P5-T5": Criterion("Wasserstein distance of the worst region, in standard deviations of real people", "below",
                           _worst_region, "metrics", "informational"),
        "P5-T6": Criterion("seconds per volume at one evaluation, network and decoder", "below", _seconds, "timing"),
        "P5-T7": Criterion("copies of training heads or membership beyond chance", "below",
                           _metric("nearest_alarm", 1), "metrics", "informational"),
    },
    6: {
        "P6-T1": Criterion("share of the runs that ablations ask for which were made and measured", "above",
                           _share_measured, "questions", cure="snakemake again: what failed is tried once more"),
        "P6-T2": Criterion("p of data against velocity prediction, corrected; no number below three seeds", "below",
                           _difference("prediction"), "prediction", "informational"),
        "P6-T3": Criterion("exponents of the loss that were measured", "above",
                           lambda f: float(len(_one_step(f["lp"]))), "lp", "informational"),
        "P6-T4": Criterion("Frechet distance at 1 evaluation over that at the best number of them", "below",
                           _over_best, "metrics", "informational"),
        "P6-T5": Criterion("Frechet distance of Rectified Flow at 1 evaluation over that of MeanFlow", "above",
                           lambda f: over(*(_one_step(f["rectified"])[arm] for arm in ("rectified", "meanflow"))),
                           "rectified", "informational"),
    },
    7: {
        "P7-T1": Criterion("Dice of masks there and back, by the strategy that was taken", "above",
                           _strategy_dice, "strategy", cure="use a finer grid (volumes.spacing_mm)"),
        "P7-T4": Criterion("raw loss in the last epoch of fine-tuning over that in the first", "below",
                           _tuning_falls, "history", cure="lower fcd.finetune.lr, or tune more epochs"),
        "P7-T4b": Criterion("best held-out raw loss of fine-tuning over that before it", "below",
                            _held_falls, "history", "informational"),
        "P7-T5": Criterion("generated images brighter in their masks than others there, lower end of the interval",
                           "above", _pair("metrics", "excess", "low"), "metrics",
                           cure="look at figure 7, then tune more epochs"),
        "P7-T5b": Criterion("that brightness over that of real held-out pairs", "above",
                            lambda f: over(_pair("metrics", "excess")(f), _pair("metrics", "excess", arm="real")(f)),
                            "metrics", "informational"),
        "P7-T5c": Criterion("mean thickening of generated cortex in the mask, mm (brighter counts, too), lower end",
                            "above", _pair("metrics", "thickening_mm", "low"), "metrics", "informational"),
        "P7-T6": Criterion("Dice of generated masks and the nearest real one", "above",
                           _pair("metrics", "dice"), "metrics", "informational"),
        "P7-T6b": Criterion("Wasserstein distance of lesion volumes, log10 ml", "below",
                            _pair("metrics", "volume_wasserstein"), "metrics", "informational"),
        "P7-T7": Criterion("Dice with exponents by channel less that with 2 for all; a null result is one", "above",
                           lambda f: _pair("metrics", "dice")(f) - _pair("uniform", "dice")(f), "uniform",
                           "informational"),
    },
    8: {
        "P8-T1": Criterion("figures and tables of the paper that were made, and say what made them", "above",
                           _made, "fig_1", cure="active ablations and fcd.source decide which a study has"),
    },
}  # fmt: skip
