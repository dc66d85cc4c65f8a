"""Zeitgeist: one frame per year from 1997 to 2018, from the latents of the volume model.

A frame has the mean decoded map of the year's studies, the mean topic weights, and the positions of studies on two axes
that are fixed on training studies (UMAP, or principal components). Drift between successive years is the Frechet
distance with its finite-sample bias removed. Years without studies have a frame that says so.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuromf.atlas import temporal
from neuromf.atlas.guards import statement
from neuromf.atlas.inference import Atlas, load_atlas
from neuromf.atlas.kernel_maps import kernel_maps
from neuromf.atlas.rates import FWHM_MM, decoded, encoded, metadata_of
from neuromf.atlas.studies import Studies, read_studies
from neuromf.core.files import atomic_write

SMALLEST_YEAR = 4  # studies of a year that enters the drift
N_NEIGHBOURS = 15


def write_timeline(
    checkpoint: Path, studies: Path, out: Path, *, per_year: int = 100, projection: str = "umap", seed: int = 0
) -> None:
    """Write frames, drift and positions of all years as .npz.

    Arguments:
        checkpoint: Checkpoint of the volume model.
        studies: Folder of studies.
        out: File with years (22,), n (22,), maps (22, V) as rates, topics (22, T), position (n_used, 2), position_year
            (n_used,), and drift: year, raw, unbiased.
        per_year: Most studies per year whose maps are decoded, at random.
        projection: "umap" or "pca".
    """
    atlas, everything = load_atlas(checkpoint), read_studies(studies)
    some = sample_years(everything, per_year, seed)
    z, maps = latents_and_maps(atlas, some)
    year = some.table["year"].to_numpy(int)
    train = some.table["split"].to_numpy() == "train"
    values: dict[str, Any] = frames(everything, year, maps)
    values |= {"position": project(z, train, projection, seed), "position_year": year}
    values |= drift_of(z, year, seed)
    facts = {"scale": everything.scale, "statement": statement(everything.scale), "projection": projection,
             "manifest": atlas.card["manifest"], "words": np.array(everything.topic_words, dtype=str)}  # fmt: skip
    with atomic_write(out) as part, open(part, "wb") as file:
        np.savez_compressed(file, **values, **facts)


def sample_years(studies: Studies, per_year: int, seed: int) -> Studies:
    """At most `per_year` studies of each year, in the order of the years."""
    years, random = studies.table["year"].to_numpy(int), np.random.default_rng([seed, 55])
    rows = [np.sort(random.permutation(np.flatnonzero(years == year))[:per_year]) for year in temporal.YEARS]
    return studies.take(np.concatenate(rows))


def latents_and_maps(atlas: Atlas, studies: Studies) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Posterior means (n, d) of studies, and their decoded maps (n, V) as rates that sum to 1."""
    m = metadata_of(atlas, studies)
    mu, _ = encoded(atlas, atlas.grid, kernel_maps(studies, atlas.grid, FWHM_MM, dtype=np.float32), m)
    maps = np.maximum(decoded(atlas, atlas.grid, mu, m), 0)
    rates = maps / np.maximum(maps.sum(1, keepdims=True), 1e-12)
    return mu.double().numpy(), rates.astype(np.float32)


def frames(studies: Studies, year: NDArray, maps: NDArray) -> dict[str, NDArray]:
    """Number of studies, mean map and mean topic weights of each year; zeros for years without studies.

    Arguments:
        studies: All studies, for numbers and topics.
        year: Year of each map, (n,).
        maps: Maps (n, V).
    """
    every = studies.table["year"].to_numpy(int)
    n = np.array([(every == one).sum() for one in temporal.YEARS])
    means = np.stack([maps[year == one].mean(0) if (year == one).any() else np.zeros(maps.shape[1], np.float32)
                      for one in temporal.YEARS])  # fmt: skip
    topics = np.stack([studies.topics[every == one].mean(0) if count else np.zeros(studies.topics.shape[1])
                       for one, count in zip(temporal.YEARS, n, strict=True)])  # fmt: skip
    return {"years": np.array(temporal.YEARS), "n": n, "maps": means.astype(np.float32), "topics": topics}


def project(z: NDArray, train: NDArray, projection: str, seed: int = 0) -> NDArray[np.float32]:
    """Positions (n, 2) of latents on two axes that are fitted to training studies.

    Raises:
        ValueError: If the projection is unknown.
    """
    if projection == "pca":
        from sklearn.decomposition import PCA

        return PCA(2, random_state=seed).fit(z[train]).transform(z).astype(np.float32)
    if projection != "umap":
        raise ValueError(f"projection must be umap or pca; got {projection!r}")
    try:
        from umap import UMAP
    except ImportError as error:
        raise ImportError(f"{error}; the timeline needs it: pip install 'neuromf[atlas]'") from error
    fitted = UMAP(2, n_neighbors=N_NEIGHBOURS, random_state=seed, n_jobs=1).fit(z[train])
    out = np.empty((len(z), 2), np.float32)
    out[train] = fitted.embedding_
    if not train.all():
        out[~train] = fitted.transform(z[~train])
    return out


def drift_of(z: NDArray, year: NDArray, seed: int = 0) -> Mapping[str, Any]:
    """Year, raw and unbiased Frechet distance to the year before, of years with enough studies."""
    wanted = [one for one in temporal.YEARS if (year == one).sum() >= SMALLEST_YEAR]
    rows = temporal.drift(temporal.yearly_clouds(z, year, wanted), seed=seed) if len(wanted) > 1 else []
    return {f"drift_{name}": np.array([row[name] for row in rows]) for name in ("year", "raw", "unbiased")}


def mean_change(maps: NDArray, n: NDArray) -> NDArray[np.float32]:
    """Maps (22, V) minus the mean of the years that have studies; 0 for the others."""
    known = n > 0
    change = maps - maps[known].mean(0)
    change[~known] = 0
    return change


def rising_topics(topics: NDArray, n: NDArray, n_top: int = 6) -> NDArray[np.int64]:
    """Topics whose weight changes most between the first and the last years that have studies, largest change first."""
    known = np.flatnonzero(n > 0)
    third = max(1, len(known) // 3)
    change = topics[known[-third:]].mean(0) - topics[known[:third]].mean(0)
    return np.argsort(-np.abs(change), kind="stable")[:n_top]
