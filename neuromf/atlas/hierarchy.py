"""The hierarchy of topics in the top latents: its stage gate (go or no-go), and the tree with a map of each node.

    test MSE     hierarchical over flat VAE, without skip, at most 1.10
    KL(z2)       1 nat or more on test studies
    modularity   Barber's Q of the bipartite graph of top latents and topics, above .2; a sparse graph without
                 structure has modularity too, so that of shuffled weights stands beside it
    topic tree   correlation of cophenetic distances of topics by their top latents with distances of the LDA keys,
                 above the 95th percentile of permuted topics
    skip         gradient through the skip to the encoder, exactly 0

Reference:
    Modularity and community detection in bipartite networks (Barber, 2007), Physical Review E 76
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.cluster.hierarchy import cophenet, linkage
from scipy.spatial.distance import pdist

from neuromf.atlas.guards import statement
from neuromf.atlas.hierarchical_training import FEATURES, decoder_metadata
from neuromf.atlas.hierarchical_vae import HierarchicalVAE, kl_between, load_hierarchical, skip_gradient
from neuromf.atlas.metadata import Schema
from neuromf.atlas.studies import Studies, read_studies
from neuromf.core.files import atomic_write, write_json
from neuromf.vae.elbo import kl_per_dimension

BOUNDS = {"mse_ratio": 1.10, "kl_z2": 1.0, "modularity": 0.2, "skip_gradient": 0.0}
N_PERMUTATIONS = 200
N_STARTS = 10
Json = dict[str, Any]


@dataclass(frozen=True)
class Tree:
    """Binary tree of topics: leaves 0 to T - 1, then merges in ascending height; node T + k joins children[k]."""

    children: NDArray[np.int64]  # (T - 1, 2)
    heights: NDArray[np.float64]  # (T - 1,)

    def leaves(self, node: int) -> list[int]:
        """Topics below a node."""
        n = len(self.children) + 1
        if node < n:
            return [node]
        return [leaf for child in self.children[node - n] for leaf in self.leaves(int(child))]


def modularity(weights: NDArray, seed: int = 0) -> float:
    """Barber's modularity Q of a bipartite graph (rows, columns), by alternating assignment from several starts."""
    a = np.asarray(weights, np.float64)
    if (total := a.sum()) == 0:
        return 0.0
    excess = a - np.outer(a.sum(1), a.sum(0)) / total
    random, best = np.random.default_rng(seed), 0.0
    for start in range(N_STARTS):
        labels = np.arange(len(a)) if start == 0 else random.integers(len(a), size=len(a))
        for _ in range(50):
            columns = np.stack([excess[labels == k].sum(0) for k in range(len(a))]).argmax(0)
            new = np.stack([excess[:, columns == k].sum(1) for k in range(len(a))]).argmax(0)
            if (new == labels).all():
                break
            labels = new
        best = max(best, float(excess[labels[:, None] == columns[None]].sum() / total))
    return best


def modularity_null(weights: NDArray, seed: int = 0, repeats: int = 50) -> float:
    """95th percentile of the modularity of graphs with the same weights at random places."""
    random, flat = np.random.default_rng(seed), np.asarray(weights).ravel()
    found = [modularity(random.permutation(flat).reshape(weights.shape), seed) for _ in range(repeats)]
    return float(np.quantile(found, 0.95))


def association(z: NDArray, topics: NDArray, seed: int = 0) -> tuple[NDArray[np.float64], float]:
    """Weights (d, T) of the graph: |r| of latents (n, d) and topics (n, T) above the 95th percentile of permutations.

    Weights below the threshold are 0; the threshold is returned too.
    """
    x, y = (np.nan_to_num((v - v.mean(0)) / np.maximum(v.std(0), 1e-12)) for v in (z, topics))
    r = np.abs(x.T @ y) / len(x)
    random = np.random.default_rng(seed)
    null = [np.abs(x[random.permutation(len(x))].T @ y) / len(x) for _ in range(20)]
    threshold = float(np.quantile(null, 0.95))
    return np.where(r > threshold, r, 0.0), threshold


def topic_positions(z: NDArray, topics: NDArray) -> NDArray[np.float64]:
    """Mean latent (T, d) of each topic: studies weighted by their squared topic weight, latents standardised."""
    x = (z - z.mean(0)) / np.maximum(z.std(0), 1e-12)
    weights = topics.astype(np.float64) ** 2
    return (weights.T @ x) / np.maximum(weights.sum(0), 1e-12)[:, None]


def topic_tree(positions: NDArray) -> tuple[Tree, NDArray[np.float64]]:
    """Average-linkage tree of topics at positions (T, d), and its cophenetic distances (T (T - 1) / 2,)."""
    links = linkage(positions, "average")
    return Tree(links[:, :2].astype(np.int64), links[:, 2]), cophenet(links)


def key_distances(words: Sequence[Sequence[str]]) -> NDArray[np.float64]:
    """1 - Jaccard overlap of the words of each pair of topics, condensed."""
    sets = [set(one) for one in words]
    rows = [1 - len(a & b) / max(len(a | b), 1) for k, a in enumerate(sets) for b in sets[k + 1 :]]
    return np.array(rows)


def tree_agreement(cophenetic: NDArray, distances: NDArray, n_topics: int, seed: int = 0) -> dict[str, float]:
    """Correlation of cophenetic with other distances of topics, its permutation null over topics, and p."""
    from scipy.spatial.distance import squareform

    square, random = squareform(distances, checks=False), np.random.default_rng(seed)
    null = []
    for _ in range(N_PERMUTATIONS):
        order = random.permutation(n_topics)
        null.append(np.corrcoef(cophenetic, squareform(square[np.ix_(order, order)], checks=False))[0, 1])
    r = float(np.corrcoef(cophenetic, distances)[0, 1])
    reached = int((np.array(null) >= r).sum())
    return {"r": r, "null_95": float(np.quantile(null, 0.95)), "p": (1 + reached) / (1 + len(null))}


def measure(
    model: HierarchicalVAE, flat: HierarchicalVAE, x: NDArray, outside: NDArray, m: NDArray, observed: NDArray,
    n_voxels: int,
) -> Json:  # fmt: skip
    """Errors per voxel of both models with and without skip, and KL divergences in nats, of test studies."""
    features, values, known = torch.from_numpy(x), torch.from_numpy(m), torch.from_numpy(observed)
    found: Json = {"skip_gradient": skip_gradient(model, features[:16])}
    with torch.inference_mode():
        for name, network in (("hierarchical", model), ("flat", flat)):
            h = network.hidden(features)
            z1, z2 = network.means(features)
            for skip, hidden in (("", None), ("_skip", h)):
                error = (network.decode(z1, z2, values, known, hidden) - features).square().sum(1).numpy()
                found[f"mse_{name}{skip}"] = float((error + outside).mean() / n_voxels)
            q1 = network.posterior(h)
            found[f"kl_z1_{name}"] = float(kl_between(q1, network.prior_lower(z2)).mean())
            if network.z2_dim:
                found["kl_z2"] = float(kl_per_dimension(*network.posterior_top(z1)).sum(1).mean())
    found["mse_mean_map"] = float(((x**2).sum(1) + outside).mean() / n_voxels)
    found["mse_pca"] = float(outside.mean() / n_voxels)
    return found


def stage_gate(numbers: Mapping[str, Any], tree: Mapping[str, float]) -> Json:
    """Verdict go or no-go with all criteria; informational ones do not count for the verdict."""
    ratio = numbers["mse_hierarchical"] / numbers["mse_flat"]
    criteria = [
        _row("mse_ratio", "test MSE, hierarchical over flat VAE, without skip", ratio, "at most", BOUNDS["mse_ratio"]),
        _row("kl_z2", "KL divergence of the top level, nats", numbers["kl_z2"], "at least", BOUNDS["kl_z2"]),
        _row("modularity", "modularity of top latents and topics", numbers["modularity"], "above",
             BOUNDS["modularity"]),
        _row("topic_tree", "cophenetic correlation with the LDA keys, above 95 % of permutations", tree["r"], "above",
             tree["null_95"]),
        _row("skip_gradient", "gradient through the skip", numbers["skip_gradient"], "at most",
             BOUNDS["skip_gradient"]),
        _row("modularity_null", "modularity, above 95 % of graphs with shuffled weights", numbers["modularity"],
             "above", numbers["modularity_null_95"], "informational"),
    ]  # fmt: skip
    passed = all(row["passed"] for row in criteria if row["kind"] == "critical")
    return {"verdict": "go" if passed else "no-go", "criteria": criteria}


def _row(name: str, what: str, measured: float, side: str, bound: float, kind: str = "critical") -> Json:
    passed = {"at most": measured <= bound, "at least": measured >= bound, "above": measured > bound}[side]
    return {"id": name, "what": what, "measured": float(measured), "side": side, "bound": bound, "kind": kind,
            "passed": bool(passed)}  # fmt: skip


def node_maps(model: HierarchicalVAE, tree: Tree, positions: NDArray, folder: Path) -> NDArray[np.float32]:
    """Decoded map (2 T - 1, V) of each node: z2 is the mean of its topics, z1 the mean of p(z1 | z2), m unknown."""
    n = len(positions)
    z2 = np.stack([positions[tree.leaves(node)].mean(0) for node in range(2 * n - 1)])
    with torch.inference_mode():
        top = torch.from_numpy(z2.astype(np.float32))
        scores = model.decode(model.prior_lower(top).mu, top).numpy()
    with np.load(folder / FEATURES) as found:
        return (found["mean"] + scores @ found["components"].astype(np.float32)).astype(np.float32)


def read_keys(data_root: Path | None, n_topics: int) -> list[list[str]] | None:
    """Words of each LDA topic in the published keys; None if the file is absent or of other topics."""
    from neuromf.data.neurosynth import KEYS

    path = Path(data_root or ".") / "neurosynth_v7" / KEYS.format(vocabulary="LDA50")
    if data_root is None or not path.is_file():
        return None
    lines = [line.split("\t")[2].split() for line in path.read_text(encoding="utf-8").splitlines() if line]
    return lines if len(lines) == n_topics else None


def write_hierarchy(
    *, run: Path, studies: Path, schema: Path, out: Path, tree: Path, data_root: str | None = None, seed: int = 0
) -> Json:
    """Write the stage gate as JSON, and the tree with its maps as .npz; return the gate.

    Arguments:
        run: Run folder of the hierarchical model.
        studies: Folder of studies.
        schema: JSON file of the metadata schema.
        out: JSON file of the gate.
        tree: File with children, heights, maps (2 T - 1, V) and positions (T, d).
        data_root: Folder with neurosynth_v7, for the words of the topics; without it, distances of topics are those of
            their weights over studies.
    """
    everything = read_studies(studies)
    fields = Schema.from_json(json.loads(Path(schema).read_text(encoding="utf-8")))
    (model, card), (flat, _) = (load_hierarchical(run / f"{name}.pt") for name in ("hierarchical", "flat"))
    with np.load(run / FEATURES) as found:
        x, outside, n_voxels = found["scores"], found["outside"], found["components"].shape[1]
    rows = everything.rows("test")
    m, observed = (one[rows] for one in decoder_metadata(everything, fields))
    numbers = measure(model, flat, x[rows], outside[rows], m, observed, n_voxels)
    with torch.inference_mode():
        z2 = model.means(torch.from_numpy(x))[1].double().numpy()
    weights, threshold = association(z2[rows], everything.topics[rows], seed)
    numbers |= {"modularity": modularity(weights, seed), "modularity_null_95": modularity_null(weights, seed),
                "threshold_r": threshold}  # fmt: skip
    train = everything.rows("train")
    positions = topic_positions(z2[train], everything.topics[train])
    found_tree, cophenetic = topic_tree(positions)
    agreement = agreements(cophenetic, everything, data_root, seed)
    source = "keys" if "keys" in agreement else "weights"
    gate = {"scale": everything.scale, "statement": statement(everything.scale), "manifest": card["manifest"],
            "seed": seed, "n_test": len(rows), **stage_gate(numbers, agreement[source]), "numbers": numbers,
            "tree": {"source": source, **agreement}}  # fmt: skip
    raw = topic_positions_raw(z2[train], everything.topics[train])
    maps = node_maps(model, found_tree, raw, run)
    with atomic_write(tree) as part, open(part, "wb") as file:
        np.savez_compressed(file, children=found_tree.children, heights=found_tree.heights, maps=maps,
                            words=np.array(everything.topic_words, dtype=str), association=weights)  # fmt: skip
    write_json(out, gate)
    return gate


def topic_positions_raw(z: NDArray, topics: NDArray) -> NDArray[np.float64]:
    """Mean latent (T, d) of each topic in the units of z, for decoding."""
    return topic_positions(z, topics) * np.maximum(z.std(0), 1e-12) + z.mean(0)


def agreements(
    cophenetic: NDArray, studies: Studies, data_root: str | None, seed: int = 0
) -> dict[str, dict[str, float]]:
    """Agreement of the tree with the words of topics (if published keys are found) and with their weights."""
    train = studies.topics[studies.rows("train")]
    n = train.shape[1]
    found = {"weights": tree_agreement(cophenetic, pdist(train.T, "correlation"), n, seed)}
    if keys := read_keys(Path(data_root) if data_root else None, n):
        found["keys"] = tree_agreement(cophenetic, key_distances(keys), n, seed)
    return found
