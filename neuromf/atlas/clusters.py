"""Clusters of studies in a latent space, profiled by topics and words of titles, and their stability.

References:
    Density-based clustering based on hierarchical density estimates (Campello et al., 2013), PAKDD: HDBSCAN
    Fightin' words (Monroe et al., 2008), Political Analysis: log-odds with a Dirichlet prior
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.cluster import HDBSCAN, KMeans
from sklearn.metrics import adjusted_rand_score, silhouette_score

NOISE = -1
PRIOR_TERMS = 500.0  # prior mass, in terms
SILHOUETTE_ROWS = 3000  # studies of the silhouette, at random
STOP_WORDS = frozenset(
    "and the for with from during between using human brain study fmri functional magnetic resonance imaging neural "
    "are its via not than into after within without their is in of on to an by as or at".split()
)


@dataclass(frozen=True)
class Clusters:
    """Labels of studies and what describes them."""

    labels: NDArray[np.int64]  # (n,), -1 for noise
    noise_fraction: float
    silhouette: float  # of studies that are no noise; NaN for fewer than two clusters


def find_clusters(z: ArrayLike, min_cluster_size: int = 25, min_samples: int = 5, seed: int = 0) -> Clusters:
    """HDBSCAN clusters of latents (n, d), the largest first."""
    x = np.asarray(z, float)
    raw = HDBSCAN(min_cluster_size=min_cluster_size, min_samples=min_samples, copy=True).fit_predict(x)
    labels = by_size(raw)
    clustered = np.flatnonzero(labels != NOISE)
    silhouette = float("nan")
    if labels.max(initial=NOISE) >= 1:
        some = np.random.default_rng(seed).permutation(clustered)[:SILHOUETTE_ROWS]
        if len(set(labels[some])) > 1:
            silhouette = float(silhouette_score(x[some], labels[some]))
    return Clusters(labels, float((labels == NOISE).mean()), silhouette)


def by_size(labels: NDArray) -> NDArray[np.int64]:
    """Labels renamed so that 0 is the largest cluster; noise remains -1."""
    names = [
        name for name, _ in sorted(Counter(labels[labels != NOISE].tolist()).items(), key=lambda one: (-one[1], one))
    ]
    new = {name: k for k, name in enumerate(names)} | {NOISE: NOISE}
    return np.array([new[name] for name in labels.tolist()], np.int64)


def umap_space(z: ArrayLike, n_components: int = 5, seed: int = 0) -> NDArray[np.float32]:
    """UMAP coordinates (n, n_components) of latents, an optional space for HDBSCAN."""
    try:
        from umap import UMAP
    except ImportError as error:
        raise ImportError(f"{error}; UMAP needs it: pip install 'neuromf[atlas]'") from error
    return UMAP(n_components=n_components, random_state=seed, n_jobs=1).fit_transform(np.asarray(z, np.float32))


def topic_lift(labels: NDArray, topics: NDArray) -> NDArray[np.float64]:
    """Mean topic weights of each cluster over those of all studies, (n_clusters, n_topics); 1 is no lift."""
    overall = topics.mean(0, dtype=np.float64)
    clusters = range(labels.max(initial=NOISE) + 1)
    return np.array([topics[labels == k].mean(0, dtype=np.float64) / overall for k in clusters])


def terms_of(title: str) -> set[str]:
    """Words of three letters or more of a title, without stop words."""
    return {word for word in re.findall(r"[a-z][a-z-]+[a-z]", title.lower()) if word not in STOP_WORDS}


def term_log_odds(labels: NDArray, titles: Sequence[str]) -> list[dict[str, float]]:
    r"""z-scores of the log-odds of title terms in each cluster against all other studies.

    .. math:: \delta_w = \log\frac{y_w + a_w}{n + a_0 - y_w - a_w} - \log\frac{y'_w + a_w}{n' + a_0 - y'_w - a_w}, \quad
              z_w = \delta_w \Big/ \sqrt{\frac{1}{y_w + a_w} + \frac{1}{y'_w + a_w}}

    y, n are counts of a term and of all terms in the cluster, primes those of the other studies; the prior a_w is
    proportional to the frequency of the term in all titles, with the sum a_0 = PRIOR_TERMS.
    """
    documents = [terms_of(title) for title in titles]
    every = Counter(term for document in documents for term in document)
    total = sum(every.values())
    scores = []
    for k in range(labels.max(initial=NOISE) + 1):
        inside = Counter(term for document, label in zip(documents, labels, strict=True) if label == k
                         for term in document)  # fmt: skip
        n = sum(inside.values())
        found = {}
        for term, count in inside.items():
            prior = PRIOR_TERMS * every[term] / total
            a, b = count + prior, every[term] - count + prior
            odds = np.log(a / (n + PRIOR_TERMS - a)) - np.log(b / (total - n + PRIOR_TERMS - b))
            found[term] = float(odds / np.sqrt(1 / a + 1 / b))
        scores.append(found)
    return scores


def profile(
    clusters: Clusters, topics: NDArray, topic_words: Sequence[str], titles: Sequence[str], n_top: int = 5
) -> list[dict]:
    """Rows of the largest clusters: size, the topics of largest lift and the terms of largest log-odds."""
    lift, terms = topic_lift(clusters.labels, topics), term_log_odds(clusters.labels, titles)
    rows = []
    for k in range(min(n_top, len(terms))):
        best = np.argsort(-lift[k], kind="stable")[:3]
        words = sorted(terms[k], key=lambda term: (-terms[k][term], term))[:5]
        rows.append({"cluster": k, "n": int((clusters.labels == k).sum()),
                     "topics": [(topic_words[t], float(lift[k, t])) for t in best],
                     "terms": [(word, terms[k][word]) for word in words]})  # fmt: skip
    return rows


def bootstrap_stability(
    z: ArrayLike, clusters: Clusters, n_boot: int = 20, seed: int = 0, **settings: int
) -> dict[str, list[float]]:
    """Adjusted Rand index of clusters of bootstrap samples against those of all studies: HDBSCAN and k-means.

    Repeated studies of a bootstrap sample are removed: copies at distance 0 would be dense clusters. k-means has as
    many clusters as HDBSCAN, at least two. HDBSCAN's noise counts as one cluster.

    Arguments:
        settings: As of `find_clusters`.
    """
    x, random = np.asarray(z, float), np.random.default_rng(seed)
    n_clusters = max(2, int(clusters.labels.max(initial=NOISE)) + 1)
    whole = KMeans(n_clusters, n_init=3, random_state=seed).fit_predict(x)
    found: dict[str, list[float]] = {"hdbscan": [], "kmeans": []}
    for _ in range(n_boot):
        rows = np.unique(random.integers(len(x), size=len(x)))
        found["hdbscan"].append(adjusted_rand_score(clusters.labels[rows], find_clusters(x[rows], **settings).labels))
        again = KMeans(n_clusters, n_init=3, random_state=seed).fit_predict(x[rows])
        found["kmeans"].append(adjusted_rand_score(whole[rows], again))
    return found
