"""Probes with known answers: planted tasks, confounds, leakage; retrieval; names of axes."""

import numpy as np
import pytest

from neuromf.atlas import axes, probes, retrieval

RANDOM = np.random.default_rng(0)


def planted_task(n=300, effect=1.5, n_groups=100):
    """Latents (n, 8) whose first axis holds the task, number of foci without and with it, labels, groups."""
    random = np.random.default_rng(1)
    labels, groups = random.integers(0, 2, n), random.integers(0, n_groups, n)
    z = random.normal(size=(n, 8))
    z[:, 0] += effect * labels
    return z, random.integers(5, 50, n), labels, groups


@pytest.mark.critical
def test_A66_the_probe_reads_a_planted_task_at_the_accuracy_of_the_ideal_observer():
    from scipy.stats import norm

    z, n_foci, labels, groups = planted_task(2000)
    table = probes.task_probe({"latents": z}, n_foci, labels, groups, groups < 50).set_index(["features", "protocol"])
    ideal = norm.cdf(1.5 / 2)  # balanced accuracy of two unit Gaussians 1.5 apart
    assert table.loc[("latents", "cross"), "balanced_accuracy"] == pytest.approx(ideal, abs=0.02)
    assert table.loc[("latents", "cross"), "auc"] == pytest.approx(norm.cdf(1.5 / np.sqrt(2)), abs=0.02)
    assert table.loc[("latents", "few"), "balanced_accuracy"] == pytest.approx(ideal, abs=0.03)
    assert table.loc[("latents", "transfer"), "auc"] == pytest.approx(norm.cdf(1.5 / np.sqrt(2)), abs=0.03)
    assert table.loc[("n_foci", "cross"), "auc"] == pytest.approx(0.5, abs=0.04)


@pytest.mark.critical
def test_A66_the_control_row_shows_a_task_that_is_the_number_of_foci():
    _, _, labels, groups = planted_task(600)
    n_foci = np.where(labels == 1, 40, 10) + np.random.default_rng(2).integers(0, 5, 600)
    table = probes.task_probe({"latents": np.log(n_foci)[:, None]}, n_foci, labels, groups, groups < 50).set_index(
        "features"
    )
    assert (table.loc["n_foci", "balanced_accuracy"] > 0.99).all()
    assert np.allclose(table.loc["n_foci", "auc"], table.loc["latents", "auc"])


def test_folds_are_by_study_so_that_a_repeated_study_teaches_nothing():
    random = np.random.default_rng(3)
    study = random.normal(size=(40, 200))  # 200 noise columns identify a study
    labels = np.repeat(random.integers(0, 2, 40), 5)
    z, groups = np.repeat(study, 5, axis=0), np.repeat(np.arange(40), 5)
    assert probes.cross_probe(z, labels, groups)[1] < 0.75
    assert probes.cross_probe(z, labels, np.arange(200))[1] > 0.99  # the leak that grouping prevents


def test_transfer_probe_trains_on_the_marked_rows_alone():
    z, _, labels, _ = planted_task(400, effect=3)
    train = np.arange(400) < 200
    flipped = np.where(train, labels, 1 - labels)
    assert probes.transfer_probe(z, labels, train)[0] > 0.88
    assert probes.transfer_probe(z, flipped, train)[0] < 0.12


def test_top_k_and_majority_have_their_definitions():
    x = RANDOM.normal(size=(300, 3))
    y = x.argmax(1)
    found = probes.top_k(x, y, x[:100], y[:100], (1, 2, 3))
    assert found[0] > 0.9 and found[0] <= found[1] <= found[2] == 1
    assert probes.majority(np.array([1, 1, 2]), np.array([1, 2, 2, 2])) == 0.25
    assert len(set(probes.year_bins(np.arange(1997, 2019), np.arange(1997, 2019)))) == 10


@pytest.mark.critical
def test_A83_the_audit_finds_planted_fields_and_no_others():
    random = np.random.default_rng(4)
    z = random.normal(size=(400, 6))
    fields = {
        "year": ("continuous", 2010 + 3 * z[:, 0] + random.normal(size=400)),
        "log_n_foci": ("continuous", random.normal(size=400)),
        "space": ("categorical", np.where(z[:, 1] + 0.3 * random.normal(size=400) > 0, "MNI", "TAL")),
        "pet": ("categorical", (random.random(400) < 0.3).astype(str)),
        "vbm": ("categorical", (np.arange(400) < 3).astype(str)),  # too few to judge
    }
    table = probes.audit(z, fields).set_index("field")
    assert table["leaks"].to_dict() == {"year": True, "log_n_foci": False, "space": True, "pet": False}
    assert table.loc["year", "score"] > 0.6 > table.loc["year", "null_95"]
    removed = probes.audit(z[:, 2:], {name: fields[name] for name in ("year", "space")}).set_index("field")
    assert (removed["score"] < removed["null_95"] + 0.05).all()  # after removal, as after a reversed gradient
    assert (removed["score"] < table.loc[["year", "space"], "score"] - 0.3).all()


@pytest.mark.critical
def test_A83_recorded_fields_are_those_of_the_table(mock_studies):
    fields = probes.recorded_fields(mock_studies)
    assert set(fields) == {"year", "log_n_foci", "space", "pet", "resting", "vbm", "connectivity"}
    assert np.allclose(np.exp(fields["log_n_foci"][1]), np.diff(mock_studies.starts))


@pytest.mark.critical
def test_A69_recall_counts_own_candidates_among_the_k_most_similar():
    candidates = np.eye(5) + 0.01 * RANDOM.normal(size=(5, 5))
    predicted = candidates[[0, 1, 2, 4, 3]]  # rows 3 and 4 are exchanged
    assert retrieval.recall_at_k(predicted, candidates, (1, 5)) == {1: 0.6, 5: 1.0}
    assert retrieval.recall_at_k(np.ones((5, 5)), candidates, (1,)) == {1: 0.0}  # a constant is no retrieval
    shuffled = RANDOM.normal(size=(2000, 8))
    found = retrieval.recall_at_k(RANDOM.normal(size=(2000, 8)), shuffled, (100,))[100]
    assert found == pytest.approx(0.05, abs=0.02)


@pytest.mark.critical
def test_A69_the_table_has_chance_and_model_rows_and_finds_a_planted_map():
    topics = RANDOM.dirichlet(np.full(10, 0.3), 400)
    latents = np.sqrt(topics) @ RANDOM.normal(size=(10, 6)) + 0.05 * RANDOM.normal(size=(400, 6))
    noise = RANDOM.normal(size=(400, 6))
    models = {"model": (latents[:300], latents[300:]), "noise": (noise[:300], noise[300:])}
    table = retrieval.recall_table(topics[:300], topics[300:], models, (10,)).set_index("model")["recall"]
    assert table["chance"] == 0.1 and table["model"] > 0.8 and table["noise"] < 0.3


@pytest.mark.critical
def test_A85_axes_get_the_planted_names_and_noise_axes_none():
    random = np.random.default_rng(5)
    topics = random.dirichlet(np.full(4, 0.5), 900)
    z = random.normal(size=(900, 6))
    z[:, 0] += 8 * topics[:, 2]
    z[:, 1] -= 8 * topics[:, 0]
    table = axes.annotate(z[:600], topics[:600], z[600:], topics[600:], ["pain", "motor", "vision", "memory"])
    assert table["name"].tolist()[:2] == ["vision", "-pain"]
    assert (table["name"][2:] == "").all()
    assert (table["purity"][:2] > 0.5).all() and (table["p"][:2] < 0.01).all() and (table["p"][2:] > 0.05).all()


@pytest.mark.critical
def test_A85_stability_matches_axes_of_other_seeds_up_to_order_and_sign():
    z = RANDOM.normal(size=(500, 4))
    same = -z[:, [2, 0, 3, 1]] + 0.01 * RANDOM.normal(size=(500, 4))
    assert axes.stability(z, [same]) == pytest.approx(np.ones(4), abs=0.01)
    assert axes.stability(z, [RANDOM.normal(size=(500, 4))]).max() < 0.2
    mixed = np.column_stack([same[:, :3], RANDOM.normal(size=500)])  # axis 1 is lost
    assert axes.stability(z, [mixed])[1] < 0.2 < 0.9 < axes.stability(z, [mixed])[0]
