"""Clusters of planted blobs, their profiles and their stability."""

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from neuromf.atlas import clusters
from neuromf.atlas.clusters import NOISE


@pytest.fixture(scope="module")
def blobs():
    """Three blobs of 120, 80 and 60 latents, with titles and topics, and 20 scattered ones."""
    random = np.random.default_rng(0)
    truth = np.repeat([0, 1, 2, NOISE], [120, 80, 60, 20])
    centres = np.array([[0.0, 0, 0], [12, 0, 0], [0, 12, 0], [0, 0, 0]])
    z = centres[truth] + random.standard_normal((280, 3)) * np.where(truth == NOISE, 25, 1)[:, None]
    words = np.array(["memory", "pain", "reward", "reward"])
    titles = [f"The {words[k]} network of study {n}: an fMRI study" for n, k in enumerate(truth)]
    topics = np.full((280, 4), 0.1)
    topics[np.arange(280), truth % 4] = 0.7
    return z, truth, titles, topics


@pytest.fixture(scope="module")
def found(blobs):
    return clusters.find_clusters(blobs[0])


@pytest.mark.informational
def test_A51_planted_blobs_are_recovered(blobs, found):
    inside = blobs[1] != NOISE
    assert adjusted_rand_score(blobs[1][inside], found.labels[inside]) > 0.9
    assert found.labels.max() == 2 and np.bincount(found.labels[found.labels >= 0]).tolist() == sorted(
        np.bincount(found.labels[found.labels >= 0]).tolist(), reverse=True
    )
    assert 0.03 < found.noise_fraction < 0.2 and found.silhouette > 0.6


@pytest.mark.informational
def test_A51_profiles_name_planted_topics_and_words(blobs, found):
    rows = clusters.profile(found, blobs[3], ["memory", "pain", "reward", "other"], blobs[2])
    assert [row["topics"][0][0] for row in rows] == ["memory", "pain", "reward"]
    assert [row["terms"][0][0] for row in rows] == ["memory", "pain", "reward"]
    assert all(row["terms"][0][1] > 3 for row in rows) and all(
        abs(dict(row["terms"]).get("network", 0)) < 2 for row in rows
    )


@pytest.mark.informational
def test_A51_stability_of_blobs_is_high_and_that_of_noise_low(blobs, found):
    stable = clusters.bootstrap_stability(blobs[0], found, n_boot=3)
    assert min(stable["hdbscan"]) > 0.8
    cloud = np.random.default_rng(1).standard_normal((280, 3))
    unstable = clusters.bootstrap_stability(cloud, clusters.find_clusters(cloud), n_boot=3)
    assert np.mean(unstable["kmeans"]) < 0.8


def test_log_odds_are_those_of_the_formula():
    titles = ["pain pain reward", "pain anger", "reward anger", "reward"]
    labels = np.array([0, 0, NOISE, NOISE])
    (scores,) = clusters.term_log_odds(labels, titles)
    total, prior = 7, clusters.PRIOR_TERMS  # terms of a title count once
    a, b = 2 + prior * 2 / total, 0 + prior * 2 / total
    delta = np.log(a / (4 + prior - a)) - np.log(b / (3 + prior - b))
    assert scores["pain"] == pytest.approx(delta / np.sqrt(1 / a + 1 / b))
    assert scores["pain"] > 0 > scores["reward"]


def test_lift_is_one_without_structure(blobs):
    labels = np.zeros(len(blobs[3]), int)
    np.testing.assert_allclose(clusters.topic_lift(labels, blobs[3]), 1)


def test_noise_alone_has_no_profile(blobs):
    none = clusters.Clusters(np.full(280, NOISE), 1.0, float("nan"))
    assert clusters.profile(none, blobs[3], list("abcd"), blobs[2]) == []
