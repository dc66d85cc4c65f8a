"""Ablations: tables keep all rows and name missing arms; statistics need enough seeds."""

import json
import os
import subprocess
import sys
import textwrap

import numpy as np
import pandas as pd
import pytest

from neuromf.metrics import ablations, statistics
from neuromf.metrics.ablations import Metric
from neuromf.metrics.table import read_rows, set_columns
from neuromf.workflow.digests import ROOT
from workflow_scripts import ablation, compare_arms

FRECHET, SIMILARITY = Metric("frechet", "pca4"), Metric("pair_ms_ssim")
A, B, C = [20.0, 21.0, 22.5], [30.0, 33.0, 31.0], [20.5, 21.5, 21.0]


def write_run(folder, run, distances, similarity=0.7, seconds=100.0, n=40):
    """Write metrics and card of a run; distances by NFE."""
    frechet = {"metric": "frechet", "features": "pca4", "n": n}
    rows = [{**set_columns(nfe), **frechet, "value": d, "low": d - 1, "high": d + 2} for nfe, d in distances.items()]
    rows += [{**set_columns(1), "metric": "pair_ms_ssim", "n": 16, "value": similarity}]
    (folder / run).mkdir(parents=True)
    pd.DataFrame(rows).assign(run=run).to_csv(folder / run / "metrics.csv", index=False)
    (folder / run / "card.json").write_text(json.dumps({"seconds": seconds, "peak_mb": 900}))


def write_reference(folder):
    """Write metrics of test scans and of a control set."""
    rows = [
        {"set": "test", "metric": "frechet", "features": "pca4", "n": 40, "value": 15.0},
        {"set": "blurred", "metric": "frechet", "features": "pca4", "n": 40, "value": 99.0},
        {"set": "test", "metric": "pair_ms_ssim", "n": 16, "value": 0.7},
    ]
    pd.DataFrame(rows).assign(run="", low=np.nan, high=np.nan).to_csv(folder / "reference.csv", index=False)
    return folder / "reference.csv"


@pytest.fixture
def study(tmp_path):
    """A function that writes runs and returns the table of their ablation; arms hold values over seeds."""

    def make(name, arms, **settings):
        members = []
        for arm, values in arms.items():
            for seed, value in enumerate(values):
                run = f"{name}-{arm}-s{seed}"
                members.append((arm, seed, run))
                if value is not None:
                    distances = value if isinstance(value, dict) else {1: value}
                    write_run(tmp_path, run, distances, **{k: v[arm] for k, v in settings.items()})
        return ablations.gather(name, members, files(tmp_path), write_reference(tmp_path))

    return make


def files(folder):
    return sorted(folder.glob("*/*.*"))


def compared(*tables, margin=0.1, **settings):
    return ablations.compare(tables, distance=FRECHET, similarity=SIMILARITY, margin=margin, **settings)


def only(found, question, **columns):
    """The single row of a question."""
    rows = found[found["question"] == question]
    for name, value in columns.items():
        rows = rows[rows[name] == value]
    assert len(rows) == 1
    return rows.iloc[0]


# --- rows --------------------------------------------------------------------------------------------


def test_every_value_of_a_run_is_a_row_with_arm_seed_and_cost(tmp_path):
    write_run(tmp_path, "a", {1: 23.5, 50: 32.0}, seconds=285.5)
    table = ablations.gather("lp", [("1.0", 7, "a")], files(tmp_path))
    assert list(table) == [*"ablation arm seed run set nfe metric features n value low high seconds peak_mb".split()]
    assert len(table) == 3
    row = table[(table["metric"] == "frechet") & (table["nfe"] == 50)].iloc[0].to_dict()
    wanted = {"ablation": "lp", "arm": "1.0", "seed": 7, "run": "a", "set": "samples", "nfe": 50, "metric": "frechet"}
    assert row == wanted | {
        "features": "pca4", "n": 40, "value": 32.0, "low": 31.0, "high": 34.0, "seconds": 285.5, "peak_mb": 900
    }  # fmt: skip


def test_a_table_is_equal_after_writing_and_reading_and_names_stay_text(study, tmp_path):
    table = study("lp", {"1.0": A, "2.50": [None]})
    ablations.write_rows(table, tmp_path / "out" / "lp.csv")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["lp.csv"]
    pd.testing.assert_frame_equal(read_rows(tmp_path / "out" / "lp.csv"), table, check_dtype=False)


def test_a_member_without_metrics_is_one_row_with_name_and_cost(tmp_path):
    write_run(tmp_path, "a", {1: 1.0})
    write_run(tmp_path, "b", {1: 1.0}, seconds=5.0)
    (tmp_path / "b" / "metrics.csv").unlink()
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "metrics.csv").write_text("set,nfe,metric,features,n,value,low,high,run\n")
    table = ablations.gather("q", [("x", 0, "a"), ("u", 0, "b"), ("u", 1, "c"), ("w", 2, "d")], files(tmp_path))
    assert ablations.missing(table) == ["u (seed 0, 1)", "w (seed 2)"]
    rows = table[table["arm"].isin(["u", "w"])]
    assert rows["seconds"].tolist()[0] == 5.0 and rows["seconds"].isna().tolist() == [False, True, True]
    assert rows["nfe"].isna().all() and rows[["n", "value", "low", "high"]].isna().all(axis=None)


def test_a_run_may_be_a_member_twice(tmp_path):
    write_run(tmp_path, "meanflow", {1: 23.5})
    table = ablations.gather("lp", [("2.0", 0, "meanflow"), ("same", 0, "meanflow")], files(tmp_path))
    first, second = (rows.drop(columns="arm").reset_index(drop=True) for _, rows in table.groupby("arm"))
    pd.testing.assert_frame_equal(first, second)


def test_metrics_of_another_run_are_refused(tmp_path):
    write_run(tmp_path, "a", {1: 1.0})
    (tmp_path / "a").rename(tmp_path / "b")
    with pytest.raises(ValueError, match=r"b/metrics.csv must hold the run b; got a: evaluate the run again"):
        ablations.gather("q", [("x", 0, "b")], files(tmp_path))


# --- statistics --------------------------------------------------------------------------------------


def test_tests_of_two_arms_agree_with_statistics_and_are_corrected_together(study):
    pair, other = study("pair", {"x": A, "u": B}), study("other", {"x": A, "u": C})
    found = compared(pair, other)
    row, welch = only(found, "difference", ablation="pair"), statistics.welch(B, A)
    for name in ("difference", "low", "high", "statistic", "p", "effect", "effect_low", "effect_high"):
        assert row[name] == pytest.approx(welch[name])
    assert (row["a"], row["b"], row["n_a"], row["mean_b"]) == ("u", "x", 3, pytest.approx(np.mean(A)))
    same = only(found, "equivalence", ablation="other")
    assert same["margin"] == pytest.approx(0.1 * np.mean(A))
    assert same["p"] == pytest.approx(statistics.equivalence(C, A, 0.1 * np.mean(A))["p"])
    tests = found[found["question"].isin(["difference", "equivalence"])]
    assert len(tests) == 4 and (tests["p_holm"] >= tests["p"]).all()
    assert tests["p_holm"].tolist() == pytest.approx(statistics.corrected(tests["p"]))


def test_findings_follow_the_corrected_p_value(study):
    found = compared(study("pair", {"x": A, "u": B}), study("other", {"x": A, "u": C}), margin=0.2)
    row = only(found, "difference", ablation="pair")
    assert row["verdict"] == "different" and row["p_holm"] < 0.05
    assert row["finding"].startswith("different: u 31.3, x 21.2, difference 10.2 (95 % ")
    assert only(found, "difference", ablation="other")["verdict"] == "not significant"
    alike = only(found, "equivalence", ablation="other")
    assert (alike["verdict"], alike["finding"].split(":")[0]) == ("equivalent", "equivalent within 20 % of x's mean")
    assert only(found, "equivalence", ablation="pair")["finding"].startswith(
        "equivalence within 20 % of x's mean not significant"
    )


def test_swapped_arms_change_the_sign_of_the_difference(study):
    there, back = study("pair", {"x": A, "u": B}), study("kcab", {"x": B, "u": A})
    found = compared(there, back)
    there, back = only(found, "difference", ablation="pair"), only(found, "difference", ablation="kcab")
    assert back["difference"] == -there["difference"] and back["mean_a"] == there["mean_b"]
    turned = compared(study("turn", {"x": A, "u": B}), base={"turn": "u"})
    assert only(turned, "difference")["a"] == "x" and only(turned, "difference")["difference"] == -there["difference"]


@pytest.mark.parametrize("n", [1, 2])
def test_one_or_two_seeds_give_no_test_and_the_reason(study, n):
    pair, sweep = study("pair", {"x": A[:n], "u": B[:n]}), study("lp", {"1": A[:n], "2": B[:n], "3": C[:n]})
    found = compared(pair, sweep)
    asked = found[found["question"].isin(["difference", "equivalence", "variance", "pair"])]
    assert len(asked) == 2 + 1 + 3
    assert asked["p"].isna().all() and asked["p_holm"].isna().all() and (asked["verdict"] == "no test").all()
    assert asked["finding"].str.contains(f"no test: {n} of at least 3 seeds").all()
    assert only(found, "difference")["difference"] == pytest.approx(np.mean(B[:n]) - np.mean(A[:n]))


def test_pairs_of_many_arms_are_at_most_as_significant_as_their_variance(study):
    found = compared(study("lp", {"1": A, "2": B, "3": C}))
    variance = only(found, "variance")
    assert variance["p"] == pytest.approx(statistics.anova({"1": A, "2": B, "3": C})["p"])
    pairs = found[found["question"] == "pair"].set_index(["a", "b"])
    for row in statistics.tukey({"1": A, "2": B, "3": C}):
        assert pairs.loc[(row["a"], row["b"]), "p"] == pytest.approx(row["p"])
    assert (pairs["p_holm"] >= max(variance["p_holm"], 0)).all() and (pairs["p_holm"] >= pairs["p"]).all()
    assert pairs["verdict"].tolist() == ["different", "not significant", "different"]


def test_a_failed_arm_is_excluded_from_the_variance_and_named(study):
    found = compared(study("lp", {"1": A, "2": B, "2.5": [None] * 3, "3": [*C, None]}))
    variance = only(found, "variance")
    assert variance["p"] == pytest.approx(statistics.anova({"1": A, "2": B, "3": C})["p"])
    assert "(without 2.5: too few seeds)" in variance["finding"]
    assert variance["finding"].endswith("missing: 2.5 (seed 0, 1, 2), 3 (seed 3)")
    lost = only(found, "pair", a="1", b="2.5")
    assert lost["finding"] == ("no test: no values of 2.5 (1 21.2); missing: 2.5 (seed 0, 1, 2)")
    assert "missing" not in only(found, "pair", a="1", b="2")["finding"]
    assert "2.5" not in set(found.loc[found["question"] == "pareto_front", "a"])


def test_a_missing_arm_of_two_leaves_no_test(study):
    found = compared(study("pair", {"x": A, "u": [None, None, None]}))
    for question in ("difference", "equivalence"):
        row = only(found, question)
        assert row["verdict"] == "no test" and "no values of u" in row["finding"]
        assert row["finding"].endswith("missing: u (seed 0, 1, 2)")


def test_the_pareto_front_is_that_of_distance_and_similarity(study):
    similarity = {"1": 0.70, "2": 0.75, "3": 0.72, "4": 0.80}
    table = study("lp", {"1": [20.0], "2": [22.0], "3": [25.0], "4": [30.0]}, similarity=similarity)
    found = compared(table)
    front = found[found["question"] == "pareto_front"].set_index("a")
    assert front["verdict"].to_dict() == dict(
        zip("1234", ["Pareto-optimal"] * 2 + ["dominated", "Pareto-optimal"], strict=True)
    )
    assert front["mean_a"].tolist() == [20, 22, 25, 30] and front["mean_b"].tolist() == list(similarity.values())


def test_a_similarity_with_the_goal_real_is_better_when_nearer_to_test_scans(study):
    table = study("lp", {"1": [20.0], "2": [22.0], "3": [25.0]}, similarity={"1": 0.80, "2": 0.69, "3": 0.65})
    found = ablations.compare([table], distance=FRECHET, similarity=SIMILARITY._replace(goal="real"), margin=0.1)
    front = found[found["question"] == "pareto_front"].set_index("a")["verdict"]  # test scans: 0.7
    assert front.to_dict() == {"1": "Pareto-optimal", "2": "Pareto-optimal", "3": "dominated"}
    with pytest.raises(ValueError, match="pair_ms_ssim has the goal real but no value of the set test"):
        ablations.compare(
            [table[table["set"] != "test"]],
            distance=FRECHET,
            similarity=SIMILARITY._replace(goal="real"),
            margin=0.1,
        )


def test_one_step_is_compared_with_the_best_other_nfe(study):
    seeds = [{1: 24.0, 2: 20.0, 50: 26.0}, {1: 22.0, 2: 22.0, 50: 20.0}]
    row = only(compared(study("alone", {"x": seeds})), "one_step")
    assert (row["b"], row["mean_a"], row["n_a"]) == ("NFE 2", pytest.approx((24 / 20 + 22 / 22) / 2), 2)
    assert row["finding"] == "1.1 times the distance at the best other NFE, NFE 2 (by seed: 1.2, 1; no test)"
    short = compared(study("short", {"x": [{1: 3.0}]}))
    assert only(short, "one_step")["verdict"] == "no values"
    assert only(short, "difference")["finding"] == "no test: one arm"


@pytest.mark.parametrize(
    ("seconds", "verdict"), [(105.0, "equal time"), (130.0, "unequal time"), (None, "not recorded")]
)
def test_unequal_training_times_are_reported(study, seconds, verdict):
    table = study("pair", {"x": [20.0], "u": [21.0]}, seconds={"x": 100.0, "u": seconds})
    assert only(compared(table), "cost")["verdict"] == verdict


def test_distances_of_different_numbers_of_volumes_are_not_compared(study):
    row = only(compared(study("pair", {"x": A, "u": B}, n={"x": 40, "u": 64})), "difference")
    assert row["finding"].startswith("no test: distances of 40 and 64 volumes are not comparable")


def test_a_distance_that_is_not_finite_gives_no_test(study):
    row = only(compared(study("pair", {"x": A, "u": [30.0, float("nan"), 31.0]})), "difference")
    assert row["finding"].startswith("no test: the distance of u is not finite")


def test_arms_without_spread_give_no_test(study):
    with np.errstate(all="ignore"), pytest.warns(RuntimeWarning):
        row = only(compared(study("pair", {"x": [1.0] * 3, "u": [1.0] * 3})), "difference")
    assert row["finding"] == "no test: values without spread (u 1, x 1)"


def test_a_wrong_metric_and_a_wrong_base_are_refused_by_name(study):
    table = study("pair", {"x": A, "u": B})
    with pytest.raises(ValueError) as error:
        ablations.compare([table], distance=Metric("frechet", "pca9"), similarity=SIMILARITY, margin=0.1)
    known = "there are frechet:pca4 pair_ms_ssim"
    assert str(error.value) == f"no row has the metric 'frechet' of features 'pca9'; {known}"
    with pytest.raises(ValueError, match="the base of pair must be one of its arms x, u; got w"):
        compared(table, base={"pair": "w"})
    with pytest.raises(ValueError, match="frechet of x, seed 0, NFE 1 occurs twice"):
        compared(pd.concat([table, table]))


# --- scripts and rules -------------------------------------------------------------------------------


def test_scripts_write_findings_from_runs(study, tmp_path):
    study("pair", {"x": A, "u": [*B, None]})
    members = [(arm, seed, f"pair-{arm}-s{seed}") for arm in "xu" for seed in range(3 if arm == "x" else 4)]
    table, out = tmp_path / "pair.csv", tmp_path / "questions.csv"
    config = json.dumps({"ablation": "pair", "arms": members})
    reference = str(write_reference(tmp_path))
    runs = [str(path) for path in files(tmp_path)]
    ablation.main(["--runs", *runs, "--reference", reference, "--config", config, "--out", str(table)])
    assert ablations.missing(read_rows(table)) == ["u (seed 3)"]
    config = {"distance": FRECHET._asdict(), "similarity": SIMILARITY._asdict(), "margin": 0.1, "base": {"pair": "x"}}
    compare_arms.main(["--tables", str(table), "--config", json.dumps(config), "--out", str(out)])
    found = read_rows(out)
    assert list(found) == ablations.RESULTS
    assert only(found, "difference")["difference"] == pytest.approx(np.mean(B) - np.mean(A), rel=1e-5)


SNAKEFILE = """
from types import SimpleNamespace
from neuromf.workflow import as_json, code_digest
cfg, ARMS = SimpleNamespace(active=["rectified"]), [["meanflow", 0, "a"], ["rectified", 0, "b"]]
def arms_of(ablation): return ARMS
def files_of(ablation): return expand("results/runs/{run}/metrics.csv", run=["a", "b"])
def times_of(files): return str([os.stat(name).st_mtime_ns for name in files if os.path.exists(name)])
def shown(ablation): return {}
def quoted(): return []
DISTANCE = {"metric": "frechet", "features": "pca4"}
def question_values(): return as_json(distance=DISTANCE, similarity={"metric": "pair_ms_ssim"}, margin=0.1)
def compared(ablation, **more): return as_json(distance=DISTANCE, **more)
def findings(part): return expand("results/" + part + "{name}", name=["ablations/questions.csv", "figures/fig_4.pdf"])
rule sample:
    output: folder=directory("results/samples/{run}/nfe-{steps}")
rule reference:
    output: table="results/metrics/reference.csv"
    shell: "cp made/reference.csv {output}"
rule measure:
    output: "results/runs/{run}/metrics.csv"
    params: broken=config.get("broken", "")
    shell: "test {wildcards.run} != {params.broken:q} && cp made/{wildcards.run}/metrics.csv {output}"
"""


@pytest.mark.slow
def test_a_failed_run_stops_what_is_complete_and_nothing_of_what_is_partial(tmp_path):
    (tmp_path / "Snakefile").write_text(textwrap.dedent(SNAKEFILE) + f'include: "{ROOT}/rules/ablations.smk"\n')
    for run in "ab":
        write_run(tmp_path / "made", run, {1: 20.0, 50: 25.0})
    write_reference(tmp_path / "made")
    path = f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PATH": path}

    def snakemake(*arguments):
        command = [sys.executable, "-m", "snakemake", "--cores", "1", "--keep-going", *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True).returncode

    assert snakemake("ablations", "--config", "broken=b") != 0
    assert (tmp_path / "results/runs/a/metrics.csv").is_file()  # the other arm went on
    assert not (tmp_path / "results/ablations/rectified.csv").exists()
    assert snakemake("partial", "--config", "broken=b") == 0
    table = read_rows(tmp_path / "results/partial/ablations/rectified.csv")
    assert ablations.missing(table) == ["rectified (seed 0)"] and (table["value"] == 25.0).sum() == 1
    assert (tmp_path / "results/partial/figures/fig_4.png").is_file()
    assert snakemake("ablations", "--config", "broken=") == snakemake("partial", "--config", "broken=") == 0  # mended
    for part in ("", "partial/"):
        table = read_rows(tmp_path / f"results/{part}ablations/rectified.csv")
        assert ablations.missing(table) == [] and len(table) == 2 * 5
