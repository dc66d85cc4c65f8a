"""Gates: a phase is open if every critical criterion passes, and a failed criterion comes with advice."""

import json
from pathlib import Path

import pandas as pd
import pytest

from neuromf.metrics.criteria import measure
from neuromf.workflow import gates
from neuromf.workflow.criteria import read_criteria
from workflow_scripts import gate as gate_script
from workflow_scripts import verify

PHASES = (0, 1, 2, 4, 5, 6, 7, 8)
BOUNDS = {
    "P0-T4": 0.9, "P0-T5": 30.0,
    "P1-T1": 1.0, "P1-T2": 1.0, "P1-T3": 0.5, "P1-T4": 0.5, "P1-T4b": 2.0, "P1-T5": 1.0, "P1-T7": 0.89,
    "P2-T4": 1.0, "P2-T5": 0.1, "P2-T6": 0.01, "P2-T7": 1.0,
    "P4-T1": 100, "P4-T2": 1.0, "P4-T2b": 2.0, "P4-T3": 10.0, "P4-T4": 1.0, "P4-T4b": 1.0, "P4-T5": 0.7,
    "P4-T5b": 0.9, "P4-T5c": 0.5, "P4-T6": 1.0, "P4-T7": 0.1,
    "P5-T1": 1.0, "P5-T2": 1.0, "P5-T3": 0.7, "P5-T4": 1.0, "P5-T5": 1.0, "P5-T6": 2.0, "P5-T7": 0.5,
    "P5-T8": 0.7, "P5-T8b": 0.6, "P5-T8c": 0.6, "P5-T8d": 0.7, "P5-T8e": 0.01, "P5-T9": 0.75,
    "P5-T10": 1.0, "P5-T10b": 0.1,
    "P6-T1": 1.0, "P6-T2": 0.05, "P6-T3": 3, "P6-T4": 2.0, "P6-T5": 2.0,
    "P7-T1": 0.85, "P7-T4": 1.0, "P7-T4b": 1.0, "P7-T5": 0.0, "P7-T5b": 0.5, "P7-T5c": 0.0,
    "P7-T6": 0.3, "P7-T6b": 0.3, "P7-T7": 0.0,
    "P8-T1": 2,
}  # fmt: skip


def stats(**changes):
    return {
        "encoded": 3, "shape": [4, 16, 20, 16], "shapes": ["[4, 16, 20, 16]"], "finite": True,
        "mean": [0.1, -0.3, 0.2, 0.0], "std": [0.6, 1.9, 1.0, 1.0], "reconstruction_ssim": [0.89, 0.95],
    } | changes  # fmt: skip


def torus_history(last=0.2, tenth=0.5):
    """Two arms whose raw loss begins at 1: the first falls steeply, the second as asked."""
    rows = []
    for dim, (at_10, at_end) in ((4, (0.3, 0.1)), (16, (tenth, last))):
        raw = [1.0, *[0.9] * 8, at_10, at_10, at_end]
        rows += [{"prediction": "x", "dim": dim, "epoch": k, "raw_r_equals_t": v} for k, v in enumerate(raw, start=1)]
    return pd.DataFrame(rows)


def torus_summary(**main):
    """The last arm is the one that counts; the first would fail everything."""
    good = {"mean_distance": 0.05, "ks_p_a": 0.5, "ks_p_b": 0.02} | main
    rows = [{"dim": 4, "nfe": n, "mean_distance": 9.0, "ks_p_a": 0.0, "ks_p_b": 0.0} for n in (1, 5)]
    rows += [{"dim": 16, "nfe": 1, **good}, {"dim": 16, "nfe": 5, **good, "mean_distance": 0.04}]
    return pd.DataFrame(rows)


def flow_history(**changes):
    rows = [{"step": 50 * k, "raw_fm": 1.0, "raw_mf": 2.0 if k == 1 else 1.0} for k in range(1, 5)]
    table = pd.DataFrame(rows)
    for low in ("0-0.25", "0.75-1"):
        table[f"raw_fm_t{low}"], table[f"raw_mf_t{low}"] = 1.0, 1.5
    for name, values in changes.items():
        table[name] = values
    return table


def metrics(**changes):
    """Rows of metrics.csv from names such as frechet_1 (one-step samples) and frechet_prior (another set)."""
    values = {
        "frechet_1": 1.8, "frechet_2": 5.0, "frechet_10": 1.0, "frechet_over_online_1": 0.9,
        "frechet_early": 7.0, "frechet_mean": 9.0, "frechet_prior": 2.0,
        "tissue_contrast_1": 1.5, "tissue_contrast_test": 2.0, "symmetry_1": 0.93, "symmetry_test": 0.95,
        "ventricle_ml_1": 12.0, "ventricle_ml_test": 20.0, "latent_std_error_1": 0.08,
        "frechet_blurred": 3.0, "valid_fraction_1": 1.0, "nearest_ms_ssim_1": 0.8, "segmented_1": 1.0,
        "wasserstein_brain_sd_1": 0.4, "wasserstein_csf_sd_1": 0.9, "wasserstein_csf_sd_10": 2.0,
        "privacy_alarm_1": 0.0, "pair_ms_ssim_1": 0.8, "pair_ms_ssim_test": 0.805, "precision_prior": 0.2,
        "c2st_logistic_reconstruction_1": 0.6, "c2st_svm_reconstruction_1": 0.7,
        **{f"{name}_{group}": value for name in ("precision", "density", "coverage", "recall")
           for group, value in (("1", 0.6), ("reconstruction", 0.8))},
    } | changes  # fmt: skip
    rows = [(*name.rsplit("_", 1), value) for name, value in values.items()]
    table = pd.DataFrame(rows, columns=["metric", "set", "value"]).assign(features="encoder")
    nfe = pd.to_numeric(table["set"], errors="coerce").astype("Int64")
    return table.assign(nfe=nfe, set=table["set"].where(nfe.isna(), "samples"), low=table["value"])


def without(table, metric, group):
    """Rows without a metric of a set, as in studies too small for it, or without a prior."""
    return table[(table["metric"] != metric) | (table["set"] != group)]


REFERENCE = {"test", "mean", "blurred", "reconstruction"}  # sets of reference.csv


def timing(decoder=0.6):
    rows = [("network", 1, 1, 0.2), ("network", 1, 4, 0.1), ("network", 50, 1, 9.0), ("decoder", None, 1, decoder)]
    return pd.DataFrame(rows, columns=["part", "nfe", "batch", "seconds_per_volume"])


def posterior(worst=0.9):
    """Posterior errors of network over prior; the ends of t are not judged."""
    rows = [(0.15, 1.5), (0.3, 0.8), (0.5, worst), (0.7, 0.85), (0.9, 1.5)]
    return pd.DataFrame(rows, columns=["t", "high"])


def arms(ablation, *names, step=1.0, absent=None):
    """Rows of an ablation: each arm's distance at one evaluation is larger by `step` than that of the one before."""
    rows = [(ablation, arm, "0", "samples", "1", "frechet", "encoder", 1.0 + k * step) for k, arm in enumerate(names)]
    rows += [(ablation, names[0], "0", "samples", "10", "frechet", "encoder", 9.0)]
    rows += [(ablation, absent, "0", "", "", "", "", None)]
    columns = ["ablation", "arm", "seed", "set", "nfe", "metric", "features", "value"]
    return pd.DataFrame(rows[: len(rows) - (absent is None)], columns=columns)


def asked(p=0.01):
    rows = [("prediction", "difference", p), ("prediction", "equivalence", 0.9), ("lp", "variance", 0.9)]
    return pd.DataFrame(rows, columns=["ablation", "question", "p_holm"])


def pairs(dice=0.5, low=0.1, thicker=0.1):
    """Rows of generated pairs and of real ones, which come first and would fail or pass what is not about them."""
    values = {"lesion_brightness": 0.2, "thickening_mm": 0.8, "dice": dice, "volume_wasserstein": 0.2}
    rows = [("real", name, 0.3 if name == "lesion_brightness" else 9.0, -1.0) for name in values]
    rows += [("joint", name, value, thicker if name == "thickening_mm" else low) for name, value in values.items()]
    return pd.DataFrame(rows, columns=["arm", "metric", "value", "low"])


def tuning(*losses):
    """A history whose first row holds the validation loss before training."""
    validation = [2.0, *[1.0] * len(losses)]
    return pd.DataFrame({"step": range(0, 9 * len(validation), 9), "validation": validation, "raw_fm": [None, *losses]})


def looks(ratio):
    """Diagnostics in which the loss of the same pairs went from 2 and 4, by t, to that times the ratio."""
    rows = [(step, t, value * factor) for step, factor in ((0, 1.0), (10, ratio)) for t, value in enumerate((2.0, 4.0))]
    pairs = pd.DataFrame(rows, columns=["step", "t", "value"]).assign(quantity="fixed_fm")
    return pd.concat([pairs, pairs.tail(1).assign(quantity="endpoint", value=9.0)])


@pytest.fixture
def measured(tmp_path):
    """Writes the files of a phase, all of them passing but for what is changed, and names them."""

    def make(phase, **changes):
        contents = {
            0: {"validation.json": {"ssim": 0.93, "psnr": 31.0}},
            1: {"stats.json": stats(), "qc.tsv": pd.DataFrame({"status": ["accepted"] * 3 + ["quarantined"]})},
            2: {"history.csv": torus_history(), "summary.csv": torus_summary()},
            4: {
                "history.csv": flow_history(), "diagnostics.csv": looks(0.9),
                "metrics.csv": metrics(), "reference.csv": None,
            },
            5: {
                "metrics.csv": metrics(), "reference.csv": None, "timing.csv": timing(), "posterior.csv": posterior(),
            },
            6: {
                "metrics.csv": metrics(), "reference.csv": None, "questions.csv": asked(),
                "rectified.csv": arms("rectified", "meanflow", "rectified"),
                "prediction.csv": arms("prediction", "x", "u"), "lp.csv": arms("lp", "2.0", "1.0", "1.5"),
            },
            7: {
                "strategy.json": {"mask_encoding": "level", "dice": {"vae": 0.1, "level": 0.9}},
                "history.csv": tuning(2.0, 3.0, 1.5), "metrics.csv": pairs(), "uniform.csv": pairs(dice=0.4),
            },
            8: {"fig_1.json": {"study": "tiny"}, "table_4.json": {"study": "tiny"}},
        }[phase]  # fmt: skip
        if phase in (4, 5, 6):
            table = changes.get("metrics", contents["metrics.csv"])
            reference = table["set"].isin(REFERENCE)
            contents["reference.csv"], changes["metrics"] = table[reference], table[~reference]
        for file, content in contents.items():
            content = changes.get(file.split(".")[0], content)
            if isinstance(content, pd.DataFrame):
                content.to_csv(tmp_path / file, index=False, sep="\t" if file.endswith("tsv") else ",")
            else:
                (tmp_path / file).write_text(json.dumps(content))
        return {file.split(".")[0]: str(tmp_path / file) for file in contents}

    return make


CRITERIA = {name: one for name, one in read_criteria(BOUNDS, []).items() if name.startswith("P")}  # growth has its own


def gate_of(phase, files, informational=(), previous=None):
    measured = measure(phase, {name: Path(file) for name, file in files.items()})
    return evaluate(phase, measured, read_criteria(BOUNDS, list(informational)), previous)


def evaluate(phase, measured, criteria=CRITERIA, previous=None):
    return gates.evaluate_gate(measured, criteria, phase=phase, study="tiny study", previous=previous)


def row(gate, name):
    (found,) = (row for row in gate["rows"] if row["id"] == name)
    return row_without(found, "what", "source", "next")


def row_without(row, *names):
    return {name: value for name, value in row.items() if name not in names}


def message(error):
    return str(error.value)


# --- open and blocked --------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", PHASES)
def test_a_phase_whose_rows_all_pass_is_open(measured, phase):
    gate = gate_of(phase, measured(phase))
    assert (gate["phase"], gate["status"], gate["study"], gate["blocked_by"]) == (phase, "OPEN", "tiny study", [])
    assert {row["id"] for row in gate["rows"]} == {name for name in CRITERIA if name.startswith(f"P{phase}-")}
    for row in gate["rows"]:
        assert row["passed"] and row["what"] and row["bound"][:2] in (">=", "<=") and "next" not in row
        assert row["source"] in measured(phase).values()


def test_every_criterion_of_every_phase_has_a_bound_here():
    assert BOUNDS.keys() == CRITERIA.keys()


def test_an_unknown_id_is_refused_by_name():
    with pytest.raises(SystemExit, match=r"name \['P9-T1', 'P9-T2'\]; the ids are those of criteria.yaml"):
        read_criteria({"P9-T1": 1.0}, ["P9-T2"])


FAULTS = {
    "P0-T4": (0, {"validation": {"ssim": 0.899, "psnr": 31.0}}, 0.899),
    "P0-T5": (0, {"validation": {"ssim": 0.93, "psnr": 29.0}}, 29.0),
    "P1-T1": (1, {"stats": stats(encoded=2)}, 0.66667),
    "P1-T2": (1, {"stats": stats(shapes=["[4, 16, 16, 16]", "[4, 16, 20, 16]"])}, 0.0),
    "P1-T3": (1, {"stats": stats(mean=[0.1, -0.6, 0.2, 0.0])}, 0.6),
    "P1-T4": (1, {"stats": stats(std=[0.4, 1.0, 1.0, 1.0])}, 0.4),
    "P1-T4b": (1, {"stats": stats(std=[0.6, 2.1, 1.0, 1.0])}, 2.1),
    "P1-T5": (1, {"stats": stats(finite=False)}, 0.0),
    "P1-T7": (1, {"stats": stats(reconstruction_ssim=[0.8, 0.9])}, 0.85),
    "P2-T5": (2, {"summary": torus_summary(mean_distance=0.11)}, 0.11),
    "P2-T6": (2, {"summary": torus_summary(ks_p_b=0.005)}, 0.005),
    "P4-T1": (4, {"history": flow_history(step=[10, 20, 30, 40])}, 40.0),
    "P4-T2": (4, {"diagnostics": looks(1.2)}, 1.2),
    "P4-T2b": (4, {"history": flow_history(**{"raw_mf_t0.75-1": 2.5})}, 2.5),
    "P4-T3": (4, {"history": flow_history(raw_mf=[20.0, 12.0, 12.0, 12.0])}, 12.0),
    "P4-T4": (4, {"metrics": metrics(frechet_early=10.8)}, 1.2),
    "P4-T5": (4, {"metrics": metrics(tissue_contrast_1=1.2)}, 0.6),
    "P4-T5b": (4, {"metrics": metrics(symmetry_1=0.76)}, 0.8),
    "P4-T5c": (4, {"metrics": metrics(ventricle_ml_1=8.0)}, 0.4),
    "P4-T6": (4, {"metrics": metrics(frechet_over_online_1=1.02)}, 1.02),
    "P5-T1": (5, {"metrics": metrics(valid_fraction_1=0.975)}, 0.975),
    "P5-T2": (5, {"metrics": metrics(frechet_blurred=1.5)}, 1.2),
    "P5-T3": (5, {"metrics": metrics(nearest_ms_ssim_1=0.6)}, 0.6),
    "P5-T6": (5, {"timing": timing(decoder=2.0)}, 2.2),
    "P5-T8": (5, {"metrics": metrics(precision_1=0.48)}, 0.6),
    "P5-T8b": (5, {"metrics": metrics(density_1=0.4)}, 0.5),
    "P5-T8c": (5, {"metrics": metrics(coverage_1=0.4)}, 0.5),
    "P5-T8d": (5, {"metrics": metrics(recall_1=0.4)}, 0.5),
    "P5-T8e": (5, {"metrics": metrics(pair_ms_ssim_1=0.825)}, 0.02),
    "P5-T9": (5, {"metrics": metrics(c2st_svm_reconstruction_1=0.9)}, 0.9),
    "P5-T10": (5, {"posterior": posterior(1.1)}, 1.1),
    "P5-T10b": (5, {"metrics": metrics(precision_prior=0.55)}, 0.05),
    "P6-T1": (6, {"lp": arms("lp", "2.0", "1.0", absent="1.5")}, 0.85714),
    "P7-T1": (7, {"strategy": {"mask_encoding": "vae", "dice": {"vae": 0.6, "level": 0.9}}}, 0.6),
    "P7-T4": (7, {"history": tuning(2.0, 1.0, 2.5)}, 1.25),
    "P7-T5": (7, {"metrics": pairs(low=-0.02)}, -0.02),
    "P8-T1": (8, {"table_4": {"rows": 3}}, 1.0),
}


@pytest.mark.parametrize("name", FAULTS)
def test_one_critical_row_that_fails_blocks_and_is_named(measured, name):
    phase, changes, value = FAULTS[name]
    gate = gate_of(phase, measured(phase, **changes))
    side = ">=" if CRITERIA[name].side == "above" else "<="
    assert (gate["status"], gate["blocked_by"]) == ("BLOCKED", [name])
    assert row(gate, name) == {
        "id": name, "measured": value, "bound": f"{side} {BOUNDS[name]:g}", "kind": "critical", "passed": False,
    }  # fmt: skip


@pytest.mark.parametrize(("prior", "measured_"), [(1.5, 1.2), (None, "nan")])
def test_the_gain_of_the_network_over_its_prior_is_reported_and_blocks_nothing(measured, prior, measured_):
    table = metrics(**{"frechet_prior": prior or 1.0})
    gate = gate_of(4, measured(4, metrics=table if prior else table[table["set"] != "prior"]))
    assert gate["status"] == "OPEN"
    assert row(gate, "P4-T4b") == {
        "id": "P4-T4b", "measured": measured_, "bound": "<= 1", "kind": "informational", "passed": False,
    }  # fmt: skip


@pytest.mark.parametrize(("last", "tenth", "worst"), [(0.2, 1.25, 1.25), (0.75, 0.5, 1.5)])
def test_P2_T4_each_arm_must_fall_by_epoch_10_and_after_it(measured, last, tenth, worst):
    gate = gate_of(2, measured(2, history=torus_history(last=last, tenth=tenth)))
    assert gate["blocked_by"] == ["P2-T4"] and row(gate, "P2-T4")["measured"] == worst


def test_every_critical_criterion_was_made_to_fail():
    critical = {name for name, criterion in CRITERIA.items() if criterion.kind == "critical"}
    assert critical == FAULTS.keys() | {"P2-T4"}


def test_a_value_on_its_bound_passes(measured):
    gate = gate_of(0, measured(0, validation={"ssim": 0.9, "psnr": 30.0}))
    assert gate["status"] == "OPEN"


@pytest.mark.parametrize(
    ("phase", "name", "changes"),
    [
        (2, "P2-T7", {"summary": torus_summary(mean_distance=0.03)}),
        (4, "P4-T7", {"metrics": metrics(latent_std_error_1=0.3)}),
        (5, "P5-T4", {"metrics": metrics(segmented_1=0.9)}),
        (5, "P5-T5", {"metrics": metrics(wasserstein_csf_sd_1=1.1)}),
        (5, "P5-T7", {"metrics": metrics(privacy_alarm_1=1.0)}),
        (6, "P6-T2", {"questions": asked(0.06)}),
        (6, "P6-T2", {"questions": asked(float("nan"))}),
        (6, "P6-T3", {"lp": arms("lp", "2.0", "1.0")}),
        (6, "P6-T4", {"metrics": metrics(frechet_10=0.75)}),
        (6, "P6-T5", {"rectified": arms("rectified", "meanflow", "rectified", step=0.9)}),
        (7, "P7-T5c", {"metrics": pairs(thicker=-0.1)}),
    ],
)
def test_an_informational_row_is_reported_and_does_not_block(measured, phase, name, changes):
    gate = gate_of(phase, measured(phase, **changes))
    assert gate["status"] == "OPEN" and gate["blocked_by"] == []
    assert row(gate, name)["kind"] == "informational" and not row(gate, name)["passed"]


def test_a_study_may_only_report_a_critical_row(measured):
    files = measured(0, validation={"ssim": 0.5, "psnr": 31.0})
    gate = gate_of(0, files, informational=["P0-T4"])
    assert gate["status"] == "OPEN" and row(gate, "P0-T4")["kind"] == "informational"
    assert not row(gate, "P0-T4")["passed"] and row(gate, "P0-T5")["kind"] == "critical"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_value_that_is_not_finite_fails_on_either_side(measured, value):
    gate = gate_of(0, measured(0, validation={"ssim": value, "psnr": 31.0}))
    assert gate["blocked_by"] == ["P0-T4"] and row(gate, "P0-T4")["measured"] == str(value)
    json.dumps(gate, allow_nan=False)
    gate = gate_of(1, measured(1, stats=stats(mean=[value, 0.1, 0.1, 0.1])))
    assert gate["blocked_by"] == ["P1-T3"]


@pytest.mark.parametrize(
    ("phase", "name", "changes"),
    [
        (1, "P1-T3", {"stats": stats(mean=[0.1, float("nan"), 0.1, 0.1])}),
        (1, "P1-T4", {"stats": stats(std=[0.6, float("nan"), 1.0, 1.0])}),
        (2, "P2-T5", {"summary": torus_summary(mean_distance=float("nan"))}),
        (4, "P4-T3", {"history": flow_history(raw_mf=[2.0, None, None, None])}),
        (4, "P4-T5", {"metrics": metrics(tissue_contrast_1=float("nan"))}),
        (5, "P5-T8", {"metrics": without(metrics(), "precision", "reconstruction")}),
        (5, "P5-T10b", {"metrics": without(metrics(), "precision", "prior")}),
        (4, "P4-T5c", {"metrics": metrics(ventricle_ml_test=0.0)}),
    ],
)
def test_a_value_that_is_not_finite_fails_its_row(measured, phase, name, changes):
    assert name in gate_of(phase, measured(phase, **changes))["blocked_by"]


def test_a_blocked_phase_blocks_the_next_and_an_open_one_does_not(measured):
    for ssim, blocked in ((0.95, []), (0.5, ["phase 0"])):
        previous = gate_of(0, measured(0, validation={"ssim": ssim, "psnr": 31.0}))
        gate = gate_of(1, measured(1), previous=previous)
        assert gate["blocked_by"] == blocked and gate["status"] == ("BLOCKED" if blocked else "OPEN")


def test_a_criterion_without_its_file_has_no_row(measured):
    files = measured(6)
    gate = gate_of(6, {name: file for name, file in files.items() if name not in ("lp", "prediction")})
    assert [r["id"] for r in gate["rows"]] == ["P6-T1", "P6-T4", "P6-T5"]


# --- phase 3: tests ----------------------------------------------------------------------------------


def verdicts(tmp_path, cases):
    body = "".join(f'<testcase name="{name}">{inner}</testcase>' for name, inner in cases.items())
    (tmp_path / "report.xml").write_text(f"<testsuites><testsuite>{body}</testsuite></testsuites>")
    return verify.results(tmp_path / "report.xml", 3)


def test_phase_3_is_open_when_its_tests_pass(tmp_path):
    cases = {"test_P3_T1_the_net_takes_times": "", "test_P3_T6_lp[1.0-3]": "", "test_P3_T7_gpu": "<skipped/>"}
    gate = evaluate(3, verdicts(tmp_path, cases))
    assert gate["status"] == "OPEN"
    assert [(r["id"], r["measured"], r["bound"], r["kind"]) for r in gate["rows"]] == [
        ("P3-T1", 1.0, ">= 1", "critical"),
        ("P3-T6", 1.0, ">= 1", "critical"),
    ]
    assert gate["rows"][1]["what"] == "test_P3_T6_lp[1.0-3]"


def test_phase_3_is_blocked_by_each_test_that_fails(tmp_path):
    gate = evaluate(
        3, verdicts(tmp_path, {"test_P3_T1_a": "", "test_P3_T3_b": "<failure/>", "test_P3_T9_c": "<error/>"})
    )
    assert gate["status"] == "BLOCKED" and gate["blocked_by"] == ["P3-T3", "P3-T9"]


def test_phase_3_without_any_test_is_blocked(tmp_path):
    gate = evaluate(3, verdicts(tmp_path, {}))
    assert gate["status"] == "BLOCKED" and "no_verification_test_was_found" in gate["rows"][0]["what"]


# --- what the numbers are ----------------------------------------------------------------------------


def test_the_loss_is_that_of_the_last_look_over_that_before_the_first_step(measured):
    table = pd.concat([looks(3.0), looks(0.5).query("step > 0").assign(step=20)])
    assert row(gate_of(4, measured(4, diagnostics=table)), "P4-T2")["measured"] == pytest.approx(0.5)


def test_rows_in_which_no_pair_fell_are_left_out(measured):
    history = flow_history(**{"raw_mf_t0-0.25": [9.0, None, 1.2, None], "raw_fm_t0-0.25": [1.0, 1.0, None, 1.0]})
    assert row(gate_of(4, measured(4, history=history)), "P4-T2b")["measured"] == pytest.approx((9.0 + 1.2) / 2)


def test_a_time_bin_in_which_no_pair_ever_fell_does_not_count(measured):
    gate = gate_of(4, measured(4, history=flow_history(**{"raw_mf_t0-0.25": None})))
    assert gate["status"] == "OPEN" and row(gate, "P4-T2b")["measured"] == 1.5


def test_a_missing_or_repeated_metric_is_named(measured):
    table = metrics()
    files = measured(4, metrics=table[table["set"] != "early"])
    with pytest.raises(ValueError) as error:
        gate_of(4, files)
    assert message(error) == "the metrics hold 0 rows of frechet of early, expected 1"
    files = measured(4, metrics=pd.concat([table, table]))
    with pytest.raises(ValueError, match="the metrics hold 2 rows of"):
        gate_of(4, files)


# --- messages ----------------------------------------------------------------------------------------

ADVICE = "train the autoencoder longer (autoencoder.steps) or use the published weights"


def test_the_summary_has_a_line_for_each_failed_row_with_its_advice(measured):
    assert gates.summary(gate_of(0, measured(0))) == "phase 0 is OPEN: 2 of 2 rows passed"
    gate = gate_of(0, measured(0, validation={"ssim": 0.5, "psnr": 20.0}), informational=["P0-T5"])
    assert gates.summary(gate) == (
        "phase 0 is BLOCKED: 0 of 2 rows passed\n"
        f"  P0-T4 (critical) SSIM of reconstructed test volumes: 0.5, bound >= 0.9; next: {ADVICE}\n"
        f"  P0-T5 (informational) PSNR of reconstructed test volumes, dB: 20.0, bound >= 30; next: {ADVICE}"
    )
    gate = gate_of(2, measured(2, summary=torus_summary(mean_distance=0.11)))
    assert gates.summary(gate).splitlines()[1:] == [
        "  P2-T5 (critical) mean distance of one-step samples to the torus: 0.11, bound <= 0.1"
    ]


def test_a_script_behind_a_blocked_gate_stops_and_says_why(measured, tmp_path):
    path = tmp_path / "phase_0.json"
    path.write_text(json.dumps(gate_of(0, measured(0, validation={"ssim": 0.5, "psnr": 31.0}))))
    with pytest.raises(SystemExit) as error:
        gates.require_open(path)
    assert message(error) == (
        f"stopped at {path}: blocked by P0-T4.\n"
        "phase 0 is BLOCKED: 1 of 2 rows passed\n"
        f"  P0-T4 (critical) SSIM of reconstructed test volumes: 0.5, bound >= 0.9; next: {ADVICE}\n"
        "Fix what failed. If the study can accept a measured value, add its id to gates.informational of the config "
        "(a failed test must be fixed)."
    )
    path.write_text(json.dumps(gate_of(0, measured(0))))
    assert gates.require_open(path) is None


def test_the_script_writes_the_gate_and_prints_its_summary(measured, tmp_path, capsys):
    rows = measure(0, {name: Path(file) for name, file in measured(0).items()})
    (tmp_path / "measured.json").write_text(json.dumps(rows))
    criteria = {name: row._asdict() for name, row in CRITERIA.items()}
    config = json.dumps({"study": "tiny study", "phase": 0, "criteria": criteria})
    files = ["--measured", str(tmp_path / "measured.json"), "--out", str(tmp_path / "gate.json")]
    gate_script.main([*files, "--config", config])
    assert gates.read_gate(tmp_path / "gate.json") == gate_of(0, measured(0))
    assert capsys.readouterr().out == "phase 0 is OPEN: 2 of 2 rows passed\n"
