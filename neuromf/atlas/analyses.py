"""Analyses of latents of all studies: clusters, drift and forecasts of each model, canonical correlations of pairs."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from neuromf.atlas import clusters, temporal
from neuromf.atlas.cross_model import canonical_correlations
from neuromf.atlas.guards import statement
from neuromf.atlas.point_vae import load_points
from neuromf.atlas.studies import Studies, read_studies
from neuromf.core.files import atomic_write, write_json

N_PCA = 32
SMALLEST_YEAR = 4  # studies of a year that can be compared


def write_point_latents(run: Path, studies: Path, out: Path, *, seed: int = 0) -> None:
    """Write posterior means and log-variances (n, d) of the point model for all studies, with their ids, as .npz."""
    everything = read_studies(studies)
    mu, logvar = load_points(run).latents(everything, seed)
    with atomic_write(out) as part, open(part, "wb") as file:
        np.savez_compressed(file, mu=mu, logvar=logvar, id=everything.table["id"].to_numpy(str))


def write_analyses(
    studies: Path, maps: Path, latents: Sequence[Path], out: Path, *, n_boot: int = 5, umap: bool = False, seed: int = 0
) -> None:
    """Write the analyses of models as JSON, beside those of the principal components of the maps.

    Arguments:
        studies: Folder of studies.
        maps: Maps of all studies (.npy).
        latents: Files with mu (n, d) of all studies, named by model.
        n_boot: Bootstrap samples of the stability of clusters.
        umap: Find clusters in five UMAP coordinates of the latents.
        seed: Seed of all draws.
    """
    everything = read_studies(studies)
    spaces = {path.stem: _read_latents(path, everything) for path in latents}
    spaces["pca"] = pca_latents(np.load(maps, mmap_mode="r"), everything.rows("train"), seed)
    split = everything.table["split"].to_numpy()
    pairs = {f"{a} and {b}": canonical_correlations(spaces[a], spaces[b], split, seed=seed)
             for a, b in itertools.combinations(spaces, 2)}  # fmt: skip
    result = {
        "scale": everything.scale, "statement": statement(everything.scale), "seed": seed,
        "cca": {name: {key: value.tolist() for key, value in asdict(one).items()} for name, one in pairs.items()},
        "time": {name: analyse_time(z, everything, seed) for name, z in spaces.items()},
        "clusters": {name: analyse_clusters(clusters.umap_space(z, seed=seed) if umap else z, everything, n_boot, seed)
                     for name, z in spaces.items()},
    }  # fmt: skip
    write_json(out, result)


def _read_latents(path: Path, studies: Studies) -> NDArray:
    """Posterior means (n, d) in a file, which must be those of the studies."""
    found = np.load(path)
    if found["id"].tolist() != studies.table["id"].tolist():
        raise ValueError(f"{path} holds latents of other studies: write it again from these studies")
    return found["mu"].astype(np.float64)


def pca_latents(maps: NDArray, train: NDArray, seed: int = 0) -> NDArray:
    """Scores (n, N_PCA) of maps (n, n_voxels) on the principal components of training maps."""
    n = min(N_PCA, len(train) - 1)
    model = PCA(n, svd_solver="randomized", random_state=seed).fit(maps[train].astype(np.float32))
    return np.concatenate([model.transform(maps[k : k + 1000].astype(np.float32)) for k in range(0, len(maps), 1000)])


def analyse_time(z: NDArray, studies: Studies, seed: int = 0) -> Mapping[str, Any]:
    """Drift between successive years, forecasts of the last years, and verdicts; years of few studies are left out."""
    years = studies.table["year"].to_numpy()
    wanted = [year for year in temporal.YEARS if (years == year).sum() >= SMALLEST_YEAR]
    clouds = temporal.yearly_clouds(z, years, wanted)
    scores = temporal.forecast_scores(clouds, seed=seed)
    return {"years": wanted, "drift": temporal.drift(clouds, seed=seed), "scores": scores,
            "verdicts": temporal.verdicts(scores, seed=seed)}  # fmt: skip


def analyse_clusters(z: NDArray, studies: Studies, n_boot: int, seed: int = 0) -> Mapping[str, Any]:
    """Noise, silhouette, profiles of the largest clusters, and stability against k-means."""
    found = clusters.find_clusters(z, seed=seed)
    titles = studies.table["title"].tolist()
    return {"n_clusters": int(found.labels.max()) + 1, "noise_fraction": found.noise_fraction,
            "silhouette": found.silhouette if np.isfinite(found.silhouette) else None,
            "profiles": clusters.profile(found, studies.topics, studies.topic_words, titles),
            "ari": clusters.bootstrap_stability(z, found, n_boot, seed)}  # fmt: skip
