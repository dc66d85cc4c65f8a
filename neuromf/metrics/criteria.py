"""Measured values of the gates' criteria, read from the tables and JSON files of the stages, with their source.

Criteria are described in `neuromf/config/criteria.yaml` and `docs/criteria.md`. Values are read from files, not written
by the stages: an edited criterion makes its gate stale, and no training.
"""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd

Files = dict[str, Path]
Rows = Iterator[tuple[str, float, str]]  # id, value, name of the file that holds it


def measure(phase: int | str, files: Files) -> list[dict]:
    """Rows with id, value and source for every criterion of a phase whose files are given."""
    return [
        {"id": name, "value": float(value), "source": str(files[file])} for name, value, file in PHASES[phase](files)
    ]


def ratio(value: float, other: float) -> float:
    """value / other; NaN if other is 0."""
    return value / other if other else math.nan


def largest(values: list[float]) -> float:
    """The largest value; NaN if any value is NaN or there is none."""
    return math.nan if not values or any(map(math.isnan, values)) else max(values)


def smallest(values: list[float]) -> float:
    return -largest([-value for value in values])


def read_json(path: Path) -> dict:
    return json.loads(path.read_text())


def reconstruction(files: Files) -> Rows:
    report = read_json(files["validation"])
    yield "P0-T4", report["ssim"], "validation"
    yield "P0-T5", report["psnr"], "validation"


def latents(files: Files) -> Rows:
    stats, qc = read_json(files["stats"]), pd.read_csv(files["qc"], sep="\t")
    yield "P1-T1", stats["encoded"] / max((qc["status"] == "accepted").sum(), 1), "stats"
    yield "P1-T2", stats["shapes"] == [str(stats["shape"])], "stats"
    yield "P1-T3", largest([abs(mean) for mean in stats["mean"]]), "stats"
    yield "P1-T4", smallest(stats["std"]), "stats"
    yield "P1-T4b", largest(stats["std"]), "stats"
    yield "P1-T5", stats["finite"], "stats"
    ssim = stats["reconstruction_ssim"]
    yield "P1-T7", sum(ssim) / len(ssim) if ssim else math.nan, "stats"


def toy(files: Files) -> Rows:
    history, summary = pd.read_csv(files["history"]), pd.read_csv(files["summary"])
    yield "P2-T4", torus_ratio(history), "history"
    one, five = (summary[summary["nfe"] == nfe].iloc[-1] for nfe in (1, 5))  # the last arm is the main one
    yield "P2-T5", one["mean_distance"], "summary"
    yield "P2-T6", smallest([one["ks_p_a"], one["ks_p_b"]]), "summary"
    yield "P2-T7", ratio(five["mean_distance"], one["mean_distance"]), "summary"


def torus_ratio(history: pd.DataFrame) -> float:
    """Largest ratio of raw losses, epoch 10 to 1 and last to 10, over arms.

    Only pairs with r = t count: with the conditional tangent the raw loss of other pairs need not fall as u improves.
    """
    ratios = []
    for _, arm in history.groupby(["prediction", "dim"]):
        raw = arm["raw_r_equals_t"].tolist()
        ratios += [ratio(raw[9], raw[0]), ratio(raw[-1], raw[9])]
    return largest(ratios)


def training(files: Files) -> Rows:
    history, diagnostics = pd.read_csv(files["history"]), pd.read_csv(files["diagnostics"])
    yield "P4-T1", history["step"].iloc[-1], "history"
    fixed = diagnostics[diagnostics["quantity"] == "fixed_fm"].groupby("step", sort=False)["value"].sum()
    yield "P4-T2", ratio(fixed.iloc[-1], fixed[0]), "diagnostics"
    yield "P4-T2b", meanflow_ratio(history), "history"
    yield "P4-T3", history["raw_mf"].iloc[-1], "history"
    yield from one_step(files)


def meanflow_ratio(history: pd.DataFrame) -> float:
    """Largest ratio of raw MeanFlow to flow-matching loss over bins of t, from means of the last three values."""
    means = {name: history[name].dropna().tail(3).mean() for name in history if name.startswith("raw_")}
    bins = [name for name in means if name.startswith("raw_mf_t")]
    ratios = [(means[name], means[name.replace("_mf_", "_fm_")]) for name in bins]
    return largest([ratio(mf, fm) for mf, fm in ratios if not math.isnan(mf + fm)])


class Metrics:
    """Metrics of the main run, and those of the reference."""

    def __init__(self, files: Files) -> None:
        table = pd.concat([pd.read_csv(files[name], dtype={"features": str}) for name in ("metrics", "reference")])
        self.table = table.assign(features=table["features"].fillna(""))

    def rows(self, metric: str, group: str = "samples") -> pd.DataFrame:
        """Rows of a metric and set, in the first feature set."""
        rows = self.table[(self.table["metric"] == metric) & (self.table["set"] == group)]
        return rows[rows["features"] == rows["features"].iloc[0]] if len(rows) else rows

    def has(self, metric: str, group: str) -> bool:
        """Whether the metric of a set was measured."""
        return len(self.rows(metric, group)) > 0

    def value(self, metric: str, group: str = "samples", column: str = "value") -> float:
        """The metric of one-step samples, or of another set.

        Raises:
            ValueError: If there is not exactly one.
        """
        rows = self.rows(metric, group)
        rows = rows[rows["nfe"] == 1] if group == "samples" else rows
        if len(rows) != 1:
            raise ValueError(f"the metrics hold {len(rows)} rows of {metric} of {group}, expected 1")
        return float(rows[column].iloc[0])

    def relative(self, metric: str, other: str, group: str = "samples") -> float:
        """The metric of a set, relative to that of another set."""
        return ratio(self.value(metric, group), self.value(metric, other))


def one_step(files: Files) -> Rows:
    metrics = Metrics(files)
    yield "P4-T4", metrics.relative("frechet", "mean", "early"), "metrics"
    has_prior = metrics.has("frechet", "prior")  # u-predictions have none
    yield "P4-T4b", metrics.relative("frechet", "prior") if has_prior else math.nan, "metrics"
    yield "P4-T5", metrics.relative("tissue_contrast", "test"), "metrics"
    yield "P4-T5b", metrics.relative("symmetry", "test"), "metrics"
    yield "P4-T5c", metrics.relative("ventricle_ml", "test"), "metrics"
    yield "P4-T6", metrics.value("frechet_over_online", column="low"), "metrics"
    yield "P4-T7", metrics.value("latent_std_error"), "metrics"


def samples(files: Files) -> Rows:
    metrics = Metrics(files)
    yield "P5-T1", metrics.value("valid_fraction"), "metrics"
    yield "P5-T2", metrics.relative("frechet", "blurred"), "metrics"
    yield "P5-T3", metrics.value("nearest_ms_ssim"), "metrics"
    yield "P5-T4", metrics.value("segmented"), "metrics"
    yield "P5-T5", worst_region(metrics.table), "metrics"
    yield "P5-T6", seconds_per_volume(pd.read_csv(files["timing"])), "timing"
    yield "P5-T7", metrics.value("privacy_alarm"), "metrics"
    for name, metric in (("", "precision"), ("b", "density"), ("c", "coverage"), ("d", "recall")):
        measured = metrics.has(metric, "reconstruction")  # small sets have no nearest neighbours
        yield f"P5-T8{name}", metrics.relative(metric, "reconstruction") if measured else math.nan, "metrics"
    yield "P5-T8e", abs(metrics.value("pair_ms_ssim") - metrics.value("pair_ms_ssim", "test")), "metrics"
    if metrics.has("c2st_logistic_reconstruction", "samples"):
        aucs = [metrics.value(f"c2st_{name}_reconstruction") for name in ("logistic", "svm")]
        yield "P5-T9", largest(aucs), "metrics"
    posterior = pd.read_csv(files["posterior"]).set_index("t")["high"]
    yield "P5-T10", largest(posterior[list(NETWORK_TIMES)].tolist()), "posterior"
    has_prior = metrics.has("precision", "prior")
    gain = metrics.value("precision") - metrics.value("precision", "prior") if has_prior else math.nan
    yield "P5-T10b", gain, "metrics"


NETWORK_TIMES = (0.3, 0.5, 0.7)  # at which the network must be better than its prior


def worst_region(table: pd.DataFrame) -> float:
    """Largest Wasserstein distance over regions of one-step samples, in standard deviations of test participants."""
    regional = table["metric"].str.fullmatch("wasserstein_.*_sd") & (table["set"] == "samples") & (table["nfe"] == 1)
    return largest(table.loc[regional, "value"].tolist())


def seconds_per_volume(timing: pd.DataFrame) -> float:
    """Seconds per one-step volume at batch 1, network and decoder together; NaN if one is missing."""
    single = timing[timing["batch"] == 1]
    parts = single[(single["part"] == "decoder") | (single["nfe"] == 1)]
    return parts["seconds_per_volume"].sum() if len(parts) == 2 else math.nan


def ablations(files: Files) -> Rows:
    tables = {name: path for name, path in files.items() if name not in ("metrics", "reference", "questions")}
    rows = pd.concat([pd.read_csv(path, dtype={"arm": str}) for path in tables.values()])
    evaluated = rows.groupby(["ablation", "arm", "seed"])["metric"].last().notna()
    yield "P6-T1", evaluated.mean(), "questions"
    if "prediction" in files:
        found = pd.read_csv(files["questions"])
        p = found.loc[(found["ablation"] == "prediction") & (found["question"] == "difference"), "p_holm"]
        yield "P6-T2", smallest(p.tolist()), "prediction"
    if "lp" in files:
        yield "P6-T3", len(one_step_distances(files["lp"])), "lp"
    distances = Metrics(files).rows("frechet").set_index("nfe")["value"]
    yield "P6-T4", ratio(distances[1], smallest(distances.tolist())), "metrics"
    if "rectified" in files:
        arms = one_step_distances(files["rectified"])
        yield "P6-T5", ratio(arms["rectified"], arms["meanflow"]), "rectified"


def one_step_distances(path: Path) -> pd.Series:
    """Mean Fréchet distance of one-step samples over seeds, by arm, in the first feature set."""
    rows = pd.read_csv(path, dtype={"arm": str})
    rows = rows[(rows["metric"] == "frechet") & (rows["set"] == "samples") & (rows["nfe"] == 1)]
    return rows[rows["features"] == rows["features"].iloc[0]].groupby("arm")["value"].mean()


def lesions(files: Files) -> Rows:
    decision, history = read_json(files["strategy"]), pd.read_csv(files["history"])
    yield "P7-T1", decision["dice"][decision["mask_encoding"]], "strategy"
    raw = history["raw_fm"].dropna()
    yield "P7-T4", ratio(raw.iloc[-1], raw.iloc[0]), "history"
    validation = history["validation"].tolist() if "validation" in history else [math.nan] * 2
    yield "P7-T4b", ratio(smallest(validation[1:]), validation[0]), "history"
    generated, real = pair_metrics(files["metrics"])
    yield "P7-T5", generated("lesion_brightness", "low"), "metrics"
    yield "P7-T5b", ratio(generated("lesion_brightness"), real("lesion_brightness")), "metrics"
    yield "P7-T5c", generated("thickening_mm", "low"), "metrics"
    yield "P7-T6", generated("dice"), "metrics"
    yield "P7-T6b", generated("volume_wasserstein"), "metrics"
    if "uniform" in files:
        yield "P7-T7", generated("dice") - pair_metrics(files["uniform"])[0]("dice"), "uniform"


def pair_metrics(path: Path) -> tuple[Callable[..., float], Callable[..., float]]:
    """Lookups metric, column -> value in a table of pairs: of the generated arm, and of real pairs."""
    table = pd.read_csv(path)

    def lookup(real: bool) -> Callable[..., float]:
        rows = table[(table["arm"] == "real") == real].drop_duplicates("metric").set_index("metric")
        return lambda metric, column="value": float(rows[column].get(metric, math.nan))

    return lookup(False), lookup(True)


def paper(files: Files) -> Rows:
    """Number of side files that name their study."""
    yield "P8-T1", sum(bool(read_json(path).get("study")) for path in files.values()), next(iter(files))


def growth(files: Files) -> Rows:
    """Latent of an experiment of the growth system: use by the decoder, and what it holds of the tumour."""
    history, scores = pd.read_csv(files["history"]), read_json(files["scores"])
    columns = {"G-T1": "diag/au_frac", "G-T2": "val_epoch/kl_raw", "G-T3": "diag/bypass_ratio"}
    for name, column in columns.items():
        yield name, history[column].dropna().iloc[-1], "history"
    yield "G-T4", scores["r2_vol"] - scores["r2_bright_voxels"], "scores"
    yield "G-T5", scores["traversal_spearman"], "scores"
    yield "G-T6", scores["ode_readiness"], "scores"


PHASES: dict[int | str, Callable[[Files], Rows]] = {
    0: reconstruction, 1: latents, 2: toy, 4: training, 5: samples, 6: ablations, 7: lesions, 8: paper,
    "growth": growth,
}  # fmt: skip
