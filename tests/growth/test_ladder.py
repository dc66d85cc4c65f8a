"""Comparators, the runner, conformal intervals, harmonisation, states from latents, real volumes."""

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from growth.forecast_helpers import simulated
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern

from neuromf.data.lesion_volumes import read_lesion_volumes
from neuromf.growth import conformal
from neuromf.growth.comparators import Comparator, LastObservation, PatientLine
from neuromf.growth.forecast_study import QUESTIONS, oracle, real_study, simulated_study
from neuromf.growth.gaussian_process import HierarchicalProcess, LinearMixedEffects, ScalarProcess
from neuromf.growth.gompertz import ReducedGompertz
from neuromf.growth.harmonisation import fit_harmonisation
from neuromf.growth.ladder import LatentLine, builders, compare, forecast_cases, run_fold, score_models
from neuromf.growth.latent_forecast import forecast_volume_latent, mask_volumes, volume_latent
from neuromf.growth.latent_states import fit_readout, latent_trajectories
from neuromf.growth.latent_study import latent_study
from neuromf.growth.latents import named_partition
from neuromf.growth.neural_ode import StateWidths
from neuromf.growth.ode_models import OdeSettings
from neuromf.growth.protocols import Case, Trajectory, last_from_rest, trajectories
from neuromf.metrics.forecast import interval_score
from neuromf.simulation.tumour_volumes import simulate_volumes

ROOT = Path(__file__).resolve().parents[2]
TABLE = Path(os.environ.get("NEUROMF_REAL_DATA", ROOT / "../shared/data")) / "tumour_growth/laleh2022_lesions.csv"
FAST = OdeSettings(epochs=2, batch=512)


@pytest.fixture(scope="module")
def patients():
    return simulated(60)


# comparators


def test_G61_mixed_effects_are_those_of_statsmodels(patients):
    model = LinearMixedEffects().fit(patients)
    rows = [(p.patient, t, y) for p in patients for t, y in zip(p.t, p.y, strict=True)]
    frame = pd.DataFrame(rows, columns=["patient", "t", "y"])
    frame["years"] = frame["t"] / 12
    design = sm.add_constant(frame[["years"]])
    found = sm.MixedLM(frame["y"], design, frame["patient"], exog_re=design).fit(reml=True, method=["lbfgs", "powell"])
    np.testing.assert_allclose(model.fixed_effects() * [1, 12], found.fe_params, atol=1e-2)
    scale = np.diag([1, 12 / model.scale])
    np.testing.assert_allclose(
        scale @ model.factor.numpy() @ model.factor.numpy().T @ scale, found.cov_re, rtol=0.05, atol=2e-3
    )
    assert float(model.sigma) == pytest.approx(np.sqrt(found.scale), rel=0.05)
    effects = found.random_effects[patients[3].patient]
    fitted = (np.array(found.fe_params) + effects.to_numpy()) @ np.array([1, 4.0])
    assert model.predict([Case(patients[3], 48.0, 0.0)])[0][0] == pytest.approx(fitted, abs=1e-2)


def test_G61_variance_of_the_mixed_model_has_that_of_fixed_effects(patients):
    few, many = LinearMixedEffects().fit(patients[:12]), LinearMixedEffects().fit(patients)
    far = [Case(Trajectory("X", np.zeros(1), np.array([8.0])), 120.0, 0.0)]
    with_mean = few.predict(far)[1][0]
    few.mean_covariance = 0 * few.mean_covariance
    assert with_mean > few.predict(far)[1][0]
    assert np.linalg.det(many.mean_covariance) < 0.2 * np.linalg.det(
        LinearMixedEffects().fit(patients[:12]).mean_covariance
    )


def test_G61_a_process_without_noise_interpolates_and_is_that_of_scikit_learn(patients):
    model = ScalarProcess().fit(patients)
    model.log = model.log.clone()
    model.log[2], model.mean_covariance = -8.0, 0 * model.mean_covariance
    one = patients[0]
    at_visits = model.predict([Case(one, float(t), 0.0) for t in one.t])
    np.testing.assert_allclose(at_visits[0], one.y, atol=1e-3)
    assert at_visits[1].max() < 1e-2
    sd, length = np.exp(model.log[:2].numpy())
    kernel = ConstantKernel(sd**2, "fixed") * Matern(length, "fixed", nu=2.5)
    oracle = GaussianProcessRegressor(kernel, alpha=np.exp(-16.0), optimizer=None)
    mean = float(model.mean[0])
    oracle.fit(one.t[:, None], one.y - mean)
    expected, spread = oracle.predict(np.array([[40.0]]), return_std=True)
    found = model.predict([Case(one, 40.0, 0.0)])
    assert found[0][0] == pytest.approx(expected[0] + mean, abs=1e-3) and found[1][0] == pytest.approx(
        spread[0], abs=1e-2
    )


def test_G61_line_and_last_observation_of_hand_made_visits():
    past = Trajectory("A", np.array([0.0, 10.0, 20.0]), np.array([1.0, 2.0, 3.0]))
    assert (
        PatientLine().rule(Case(past, 30.0, 0)) == pytest.approx(4) and LastObservation().rule(Case(past, 30.0, 0)) == 3
    )
    assert PatientLine().rule(Case(past.first(1), 30.0, 0)) == 1


@pytest.mark.slow
def test_G61_the_table_is_complete_and_ordered(patients):
    states = [Trajectory(p.patient, p.t, p.y, p.features, np.column_stack([p.y, 0.1 * p.t, p.y**0])) for p in patients]
    models = builders(StateWidths(loc=1, residual=1), FAST)
    forecasts, fitted = run_fold(states[:30], states[40:], models)
    assert [*fitted] == ["M0", "M1", "M2", "M3", "M4r", "M4", *(f"M{k}" for k in range(5, 12))]
    scores = score_models(forecasts)
    whole = scores[(scores["protocol"] == "last_from_rest") & (scores["horizon"] == "all")].set_index("model")
    assert whole.loc["M1", "skill"] == 0 and (whole["n"] == 20).all() and np.isfinite(whole["is95"]).all()
    assert {name for pair in QUESTIONS for name in pair} <= {*fitted}
    binned = scores[(scores["protocol"] == "all_from_first") & (scores["model"] == "M3")].set_index("horizon")["n"]
    assert binned.drop("all").sum() == binned["all"] == sum(len(p.t) - 1 for p in states[40:])


def test_G61_the_hierarchical_process_extends_a_line_and_the_scalar_one_returns_to_its_mean(patients):
    one = Trajectory("X", np.array([0.0, 12.0, 24.0]), np.array([8.0, 8.4, 8.8]))
    far = [Case(one, 600.0, 0.0)]
    scalar, line = ScalarProcess().fit(patients), HierarchicalProcess().fit(patients)
    assert line.predict(far)[0][0] > 10
    assert abs(scalar.predict(far)[0][0] - float(scalar.mean[0])) < abs(8.8 - float(scalar.mean[0])) + 0.1


# leaks


class Memory(Comparator):
    """A planted fault: its bank holds all patients that it is given later."""

    name, title = "bad", "bad"

    def estimate(self, patients):
        self.patients = self.patients | {"SIM0059"}

    def predict(self, cases):
        return np.zeros(len(cases)), np.ones(len(cases))


def test_G59_the_runner_refuses_a_model_that_was_fitted_on_a_test_patient(patients):
    with pytest.raises(ValueError, match="1 test patients were in the fit, the first is SIM0059"):
        forecast_cases(Memory().fit(patients[:40]), patients[40:])


def test_G59_no_forecast_depends_on_the_last_visit_of_a_test_patient(patients):
    changed = [Trajectory(p.patient, p.t, np.append(p.y[:-1], 20.0), p.features) for p in patients[40:]]
    models = {name: builders(StateWidths(), FAST)[name] for name in ("M2", "M3", "M6", "M11")}
    _, fitted = run_fold(patients[:30], patients[40:], models)
    for model in fitted.values():
        before, after = (model.predict(last_from_rest(part)) for part in (patients[40:], changed))
        for one, two in zip(before, after, strict=True):
            np.testing.assert_array_equal(one, two, err_msg=model.name)


# reference


def test_G63_skills_on_simulated_volumes_are_those_of_the_reference():
    table = simulate_volumes(520, seed=4)
    patients = trajectories(table)
    train, test = patients[:120], patients[120:]
    made = [LastObservation(), PatientLine(), LinearMixedEffects(), ReducedGompertz()]
    forecasts = [forecast_cases(model.fit(train), test) for model in made]
    scores = score_models(pd.concat([*forecasts, oracle(table, test)], ignore_index=True))
    found = scores[(scores["protocol"] == "last_from_rest") & (scores["horizon"] == "all")].set_index("title")["skill"]
    reference = {"LOCF": 0.0, "line": 0.246, "LME": 0.559, "reduced NLME": 0.585, "oracle curve": 0.916}
    for title, skill in reference.items():
        assert found[title] == pytest.approx(skill, abs=0.05), title


@pytest.mark.slow
@pytest.mark.skipif(not TABLE.exists(), reason="no table of Laleh et al. 2022: set NEUROMF_REAL_DATA")
def test_G64_the_real_ladder_has_the_reference_rows(tmp_path):
    scores = real_study(table=TABLE, out=tmp_path, seed=0, models=["M1", "M2", "M3"], ode={})
    found = scores[(scores["protocol"] == "last_from_rest") & (scores["horizon"] == "all")].set_index("title")
    assert (found["n"] == 951).all()
    for title, r2 in {"LOCF": 0.876, "line": 0.784, "LME": 0.824}.items():
        assert found.loc[title, "r2"] == pytest.approx(r2, abs=0.02), title
    assert found.loc["LOCF", "mae"] == pytest.approx(0.461, abs=0.002)
    assert found.loc["LME", "cov95"] == pytest.approx(0.919, abs=0.01)
    assert json.loads((tmp_path / "study.json").read_text())["counts"]["zero_volumes"] == 247


def test_G64_days_are_the_time_and_zero_volumes_are_apart(tmp_path):
    rows = [("A", 0.1, -30, 10.0), ("A", 0.1, -10, 20.0), ("A", 2, 14, 0.0), ("A", 5, 35, 30.0), ("B", 0.1, -3, 5.0),
            ("B", 1, 7, 6.0), ("B", 1, 7, 7.0), ("C", 1, 7, 0.0)]  # fmt: skip
    pd.DataFrame(rows, columns=["Pt_hashID", "T_weeks", "T_days", "Lesion_vol"]).to_csv(tmp_path / "t.csv", index=False)
    table, counts = read_lesion_volumes(tmp_path / "t.csv")
    np.testing.assert_allclose(table["t_months"], np.array([0, 20, 65]) * 12 / 365.25)
    assert table["V_mm3"].tolist() == [10, 20, 30] and set(table["patient_id"]) == {"A"}
    assert counts == {"patients": 1, "readings": 3, "zero_volumes": 2, "repeated_days": 1, "excluded_patients": 2}
    (tmp_path / "bad.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="bad.csv lacks the columns Pt_hashID, T_days, Lesion_vol"):
        read_lesion_volumes(tmp_path / "bad.csv")


# conformal


class Nearest(Comparator):
    """Remembers training visits: an overfitted model without training error."""

    name, title = "1-NN", "1-NN"

    def estimate(self, patients):
        self.known = {(p.patient, float(p.t[-1])): float(p.y[-1]) for p in patients}
        self.y = np.mean([p.y[-1] - p.y[-2] for p in patients])

    def predict(self, cases):
        mean = [self.known.get((c.past.patient, c.t), c.past.y[-1] + self.y) for c in cases]
        return np.array(mean), np.full(len(cases), 0.1)


def exchangeable(n, seed):
    random = np.random.default_rng(seed)
    return [
        Trajectory(f"P{k:04d}", np.array([0.0, 6.0]), np.array([8.0, 8.2 + 0.3 * random.normal()])) for k in range(n)
    ]


def test_G65_conformal_coverage_is_in_the_beta_binomial_band():
    train, test = exchangeable(54, 0), exchangeable(400, 1)
    cases = last_from_rest(test)
    actual = np.array([case.actual for case in cases])
    left_out = conformal.leave_out(Nearest, train, cases)
    assert len(left_out.errors) == 54
    low, high = conformal.coverage_band(54, 400)
    mean, sd = Nearest().fit(train).predict(cases)
    for ends in (conformal.jackknife_plus(left_out), conformal.normalised(left_out, mean, sd)):
        assert low <= conformal.covered(actual, *ends) <= high
    few = conformal.jackknife_plus(conformal.LeftOut(left_out.errors[:5], left_out.sd[:5], left_out.test[:5]))
    assert np.isinf(few[0]).all()


def test_G65_coverage_from_training_residuals_is_too_low():
    """The planted fault: residuals of the fit itself, which are 0 here, in place of left-out ones."""
    train, test = exchangeable(54, 0), exchangeable(200, 1)
    cases = last_from_rest(test)
    actual = np.array([case.actual for case in cases])
    model, own = Nearest().fit(train), last_from_rest(train)
    residuals = np.array([case.actual for case in own]) - model.predict(own)[0]
    faulty = conformal.LeftOut(residuals, np.full(54, 0.1), np.repeat(model.predict(cases)[0][None], 54, 0))
    assert conformal.covered(actual, *conformal.jackknife_plus(faulty)) < 0.05
    sound = conformal.leave_out(Nearest, train, cases)
    assert conformal.covered(actual, *conformal.jackknife_plus(sound)) > conformal.coverage_band(54, 200)[0]


def test_G65_bands_of_coverage():
    low, high = conformal.observed_interval(51 / 54, 54)
    assert low == pytest.approx(0.85, abs=0.01) and high == pytest.approx(0.99, abs=0.01)
    assert conformal.coverage_band(54, 2000)[0] == pytest.approx(0.90, abs=0.01)  # Beta(53, 2)


# harmonisation


def scans(n=240, shift=2.0, seed=0):
    random = np.random.default_rng(seed)
    months, scanner = random.uniform(0, 60, n), random.choice(["A", "B"], n)
    clean = np.linspace(0.01, 0.05, 6) * months[:, None] + 0.3 * random.normal(size=(n, 6))
    moved = clean + (scanner == "B")[:, None] * (shift + 0.1 * np.arange(6)) + 0
    return np.where((scanner == "B")[:, None], moved * 1.0, moved), scanner, months[:, None], clean


def slope(features, months):
    return np.polyfit(months[:, 0], features, 1)[0]


def test_G70_a_planted_shift_is_removed_and_the_growth_slope_stays():
    features, scanner, months, clean = scans()
    train, test = np.arange(160), np.arange(160, 240)
    model = fit_harmonisation(features[train], scanner[train], months[train])
    found = model.apply(features[test], scanner[test], months[test])
    rest = found - months[test] * slope(clean, months)
    gap = rest[scanner[test] == "A"].mean(0) - rest[scanner[test] == "B"].mean(0)
    assert (
        np.abs(gap).max() < 0.25
        and np.abs(features[scanner == "A"].mean(0) - features[scanner == "B"].mean(0)).min() > 1.5
    )
    np.testing.assert_allclose(slope(found, months[test]), slope(clean[test], months[test]), atol=4e-3)


def test_G70_test_scans_do_not_change_the_fit_and_unknown_scanners_are_refused():
    features, scanner, months, _ = scans()
    model = fit_harmonisation(features[:160], scanner[:160], months[:160])
    one = model.apply(features[160:161], scanner[160:161], months[160:161])
    np.testing.assert_allclose(one, model.apply(features[160:], scanner[160:], months[160:])[:1])
    with pytest.raises(ValueError, match="no training scan of scanner Z; fitted on A, B"):
        model.apply(features[:1], ["Z"], months[:1])
    with pytest.raises(ValueError, match="scanner B has 1 training scan; needs 2"):
        fit_harmonisation(features[:3], ["A", "A", "B"], months[:3])


def test_G70_few_scans_are_shrunk_towards_the_mean_shift():
    features, scanner, months, _ = scans()
    few = np.concatenate([np.flatnonzero(scanner == "A"), np.flatnonzero(scanner == "B")[:4]])
    model = fit_harmonisation(features[few], scanner[few], months[few])
    raw = (features[few] - np.column_stack([np.ones(len(few)), months[few]]) @ model.coefficients) / model.sigma
    raw = raw[scanner[few] == "B"].mean(0)
    assert model.shift[1].std() < raw.std()


# states from latents


def store(n=24, seed=0):
    """Latents whose first two dimensions carry y; groups as of `read_latents`, and measured y."""
    random, groups, measured = np.random.default_rng(seed), {}, {}
    for k, p in enumerate(simulated(n, seed=seed)):
        for visit, (t, y) in enumerate(zip(p.t, p.y, strict=True)):
            name = f"{p.patient}-{visit:03d}"
            mu = np.concatenate([[(y - 8) / 2, -(y - 8)], random.normal(size=3), random.normal(size=4)])
            groups[name] = {"mu": mu.astype(np.float32), "patient": np.array(p.patient), "t_months": np.array(t),
                            "split": np.array("test" if k >= n - 8 else "train")}  # fmt: skip
            measured[name] = float(y)
    partition = {"vol": slice(0, 2), "loc": slice(2, 5), "residual": slice(5, 9)}
    return groups, partition, measured


def test_G55_states_of_latents_and_back():
    groups, partition, measured = store()
    train, test, readout = latent_trajectories(groups, partition, measured)
    assert len(test) == 8 and len(train) == 16 and readout.widths == StateWidths(loc=3, shape=0, residual=4)
    np.testing.assert_allclose(train[0].states[:, 0], train[0].y, atol=1e-4)
    z = np.stack([g["mu"] for g in groups.values()]).astype(float)
    moved = readout.states(z)
    moved[:, 0] += 0.7
    moved[:, 1:4] -= 1
    back = readout.latents(moved, z)
    np.testing.assert_allclose(readout.states(back), moved, atol=1e-9)
    np.testing.assert_allclose(back[:, 5:], z[:, 5:])


def test_G55_test_patients_do_not_change_the_readout():
    groups, partition, measured = store()
    _, _, before = latent_trajectories(groups, partition, measured)
    changed = {name: y + 5 * (groups[name]["split"] == "test") for name, y in measured.items()}
    _, _, after = latent_trajectories(groups, partition, changed)
    np.testing.assert_array_equal(before.weights, after.weights)
    z = np.random.default_rng(0).normal(size=(30, 2))
    found = fit_readout(z, z @ [2.0, -1.0] + 8, {"vol": slice(0, 2)})
    np.testing.assert_allclose([*found.weights, found.offset], [2, -1, 8])


def test_G61_the_latent_line_reads_y_out_of_extrapolated_latents():
    groups, partition, measured = store()
    train, test, _ = latent_trajectories(groups, partition, measured)
    cases = last_from_rest(test)
    mean, _ = LatentLine().fit(train).predict(cases)
    actual, last = np.array([c.actual for c in cases]), np.array([c.past.y[-1] for c in cases])
    assert ((mean - actual) ** 2).sum() < ((last - actual) ** 2).sum()


# studies


@pytest.mark.slow
def test_G85_a_misspecified_cohort_has_its_forecast_table(tmp_path):
    models = ["M0", "M1", "M4", "M7", "M10"]
    for growth_model in ("logistic", "treated"):
        out = tmp_path / growth_model
        scores = simulated_study(out=out, growth_model=growth_model, n_train=20, n_test=16, seed=0, models=models,
                                 ode={"epochs": 1, "batch": 512})  # fmt: skip
        assert set(scores["model"]) == {"M0", "M1", "M4", "M10", "oracle"}  # y alone has no latent line
        study = json.loads((out / "study.json").read_text())
        assert growth_model in study["data"] and len(study["rungs"]) == 3
        assert study["recovered_rates"].keys() == {"2-3", ">=4"} and study["ode_loss"].keys() == {"M10"}
        assert {"forecasts.csv", "scores.csv", "volumes.tsv", "risk.json", "gompertz_params.json", "ode.ckpt"} <= {
            path.name for path in out.iterdir()
        }


def test_G67_rungs_have_the_change_of_r2_and_skill(tmp_path):
    models = ["M0", "M1", "M2", "M3"]
    settings = {"growth_model": "gompertz", "n_train": 12, "n_test": 20, "seed": 0}
    simulated_study(out=tmp_path, models=models, ode={}, **settings)
    rungs = json.loads((tmp_path / "study.json").read_text())["rungs"]
    scores = pd.read_csv(tmp_path / "scores.csv")
    whole = scores[(scores["protocol"] == "last_from_rest") & (scores["horizon"] == "all")].set_index("model")
    assert [(row["from"], row["to"]) for row in rungs] == [("M0", "M1"), ("M1", "M2"), ("M2", "M3")]
    for row in rungs:
        assert row["skill"] == pytest.approx(whole.loc[row["to"], "skill"] - whole.loc[row["from"], "skill"], abs=1e-4)
        assert row["r2"] == pytest.approx(whole.loc[row["to"], "r2"] - whole.loc[row["from"], "r2"], abs=1e-4)
    assert sum(row["r2"] for row in rungs) == pytest.approx(whole.loc["M3", "r2"] - whole.loc["M0", "r2"], abs=1e-4)


def write_store(path, groups, partition):
    about = {"modalities": ["t1c"], "partition": {name: [part.start, part.stop] for name, part in partition.items()}}
    arrays = {f"{name}/{key}": value for name, group in groups.items() for key, value in group.items()}
    np.savez(path, provenance=np.array(json.dumps(about)), **arrays)


def test_G55_the_ladder_runs_on_latents_and_writes_forecast_latents(tmp_path):
    groups, partition, measured = store()
    rows = [(str(g["patient"]), name, float(g["t_months"]), np.expm1(measured[name])) for name, g in groups.items()]
    table = pd.DataFrame(rows, columns=["patient_id", "scan_id", "t_months", "V_mm3"])
    table.to_csv(tmp_path / "v.tsv", sep="\t", index=False)
    write_store(tmp_path / "z.npz", groups, partition)
    settings = {"modalities": ["t1c"], "models": ["M1", "M3", "M7", "M10"], "ode": {"epochs": 1}}
    scores = latent_study(latents=tmp_path / "z.npz", trajectories=tmp_path / "v.tsv", out=tmp_path / "out", **settings)
    assert set(scores["model"]) == {"M1", "M3", "M7", "M10"}
    with np.load(tmp_path / "out/latents.npz") as found:
        assert found["z"].shape == (8, 9) and found["states"].shape == (8, 8)
        for patient, z in zip(found["patient"], found["z"], strict=True):
            names = sorted(name for name in groups if name.startswith(patient))
            np.testing.assert_allclose(z[5:], groups[names[-2]]["mu"][5:], atol=1e-6)
    write_store(tmp_path / "entangled.npz", groups, {})
    with pytest.raises(ValueError, match="entangled.npz have no partition; forecasts need those of experiment 3"):
        named_partition(tmp_path / "entangled.npz")


def dated_masks(groups, measured):
    """Groups with ln V of the mask, as `read_latents` has them."""
    return {name: g | {"targets": np.array([measured[name], 0.5, 0.5, 0.5])} for name, g in groups.items()}


def test_G55_volume_latents_are_forecast_beside_measured_volumes(tmp_path):
    groups, partition, measured = store()
    groups = dated_masks(groups, measured)
    write_store(tmp_path / "z.npz", groups, partition)
    rows = [
        ("last_from_rest", "all", "M1", 0.0),
        ("last_from_rest", "all", "M3", 0.5),
        ("all_from_first", "all", "M3", 9),
    ]
    pd.DataFrame(rows, columns=["protocol", "horizon", "model", "skill"]).to_csv(tmp_path / "r.csv", index=False)
    paths = {"latents": tmp_path / "z.npz", "reference": tmp_path / "r.csv", "table": tmp_path / "t.csv"}
    settings = {"modalities": ["t1c"], "models": ["M1", "M3", "M10"], "ode": {"epochs": 1}}
    forecast_volume_latent(**paths, out=tmp_path / "out", **settings)
    table = pd.read_csv(tmp_path / "t.csv").set_index("model")
    assert table["skill_measured"].to_dict() == {"M1": 0.0, "M3": 0.5, "M10": pytest.approx(np.nan, nan_ok=True)}
    assert table.loc["M1", "skill_latent"] == 0 and (table["n"] == 8).all()
    study = json.loads((tmp_path / "out/study.json").read_text())
    assert [row["model"] for row in study["over_locf"]] == ["M3", "M10"]
    assert study["over_locf"][0]["gain"] == pytest.approx(table.loc["M3", "skill_latent"], abs=1e-4)
    forecasts = pd.read_csv(tmp_path / "out/forecasts.csv")
    part = forecasts[(forecasts["protocol"] == "last_from_rest") & (forecasts["model"] == "M1")].set_index("patient")
    with np.load(tmp_path / "out/latents.npz") as found:
        assert found["z"].shape == (8, 9) and list(found["patient"]) == list(part.index)
    for patient, row in part.iterrows():
        names = sorted(name for name in groups if name.startswith(patient))
        assert (row["mean"], row["actual"]) == pytest.approx([measured[n] for n in names[-2:]], abs=1e-3)


def test_G55_the_target_is_the_volume_latent_and_not_the_volume_of_the_mask():
    groups, partition, measured = store()
    noisy = {name: g | {"mu": g["mu"] + np.float32(0.5)} for name, g in groups.items() if g["split"] == "test"}
    groups = dated_masks({**groups, **noisy}, measured)
    _, test, readout = latent_trajectories(groups, partition, mask_volumes(groups))
    moved = volume_latent(test[0])
    assert np.abs(moved.y - test[0].y).max() > 0.1
    np.testing.assert_array_equal(moved.y, moved.states[:, 0])
    groups = {name: g | {"targets": np.array([np.nan] * 4)} for name, g in groups.items()}
    assert mask_volumes(groups) == {}
    with pytest.raises(ValueError, match="has no states"):
        volume_latent(simulated(1)[0])


def test_G62_a_model_that_is_not_known_is_refused(tmp_path):
    with pytest.raises(ValueError, match="growth.ladder.models must be among M0, M1.*; got M99"):
        simulated_study(out=tmp_path, growth_model="gompertz", n_train=9, n_test=9, seed=0, models=["M99"], ode={})


def test_G66_verdicts_of_the_runner_are_those_of_errors_by_patient(patients):
    forecasts, _ = run_fold(patients[:40], patients[40:], {n: builders(StateWidths(), FAST)[n] for n in ("M1", "M3")})
    found = compare(forecasts, "M3", "M1")
    scores = score_models(forecasts)
    whole = scores[(scores["protocol"] == "last_from_rest") & (scores["horizon"] == "all")].set_index("model")
    assert found["gain"] == pytest.approx(whole.loc["M3", "skill"]) and found["low"] < found["gain"] < found["high"]
    assert np.isfinite(interval_score(0.0, -1.0, 1.0))
