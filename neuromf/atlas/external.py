"""External tests of a model: tasks of the NeuroStore extract, pain maps, and the map of a button press.

None of these data is part of a training. A source that is absent is reported with the reason, never replaced.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from neuromf.atlas import dense_maps, probes
from neuromf.atlas.cleaning import Policy, clean_tables
from neuromf.atlas.kernel_maps import kernel_maps
from neuromf.atlas.metadata import encode_values
from neuromf.atlas.prepared import Prepared
from neuromf.atlas.rates import FWHM_MM, Atlas, decoded, encoded, metadata_of, metadata_tensor
from neuromf.atlas.studies import Studies
from neuromf.data.brain_grid import BrainGrid, brain_grid
from neuromf.data.neurostore import read_neurostore
from neuromf.data.statistical_maps import BUTTON_PRESS, read_hcp_contrasts, read_pain_maps, read_statistical_map

MIN_FOCI = 3
NO_ROOT = "no folder of real data is given: set NEUROMF_REAL_DATA or atlas.data_root"
TASKS = ("n-back", "flanker")
N_MEAN = 64  # latents of the map that a topic decodes


def evaluate_external(
    atlas: Atlas, prepared: Prepared, data_root: str | Path | None, hcp_root: str | Path | None = None
) -> dict[str, Any]:
    """Measurements on the external sources, or {"skipped": reason} for a source that is absent."""
    root = Path(data_root) / "statmaps" if data_root else None
    parts = {
        "task": lambda: task_probe(atlas, prepared),
        "pain": lambda: pain(atlas, prepared, root),
        "button_press": lambda: button_press(atlas, prepared, root),
        "hcp": lambda: hcp(atlas, prepared.grid, hcp_root),
    }
    found: dict[str, Any] = {}
    for name, part in parts.items():
        try:
            found[name] = part()
        except (ImportError, FileNotFoundError, ValueError) as error:
            found[name] = {"skipped": str(error)}
    return found


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return table.to_dict("records")


def contrasts() -> tuple[Studies, NDArray[np.int64], NDArray]:
    """Contrasts of the extract with one task and three foci or more, their label (1 for n-back) and their study."""
    space: dict[str, Policy] = {"tal": "transform", "unknown": "keep"}
    found, _ = clean_tables(read_neurostore(), brain_grid("2mm"), scale="neurostore", space=space, min_foci=MIN_FOCI)
    task = found.table["task"].str.lower().str.replace("_", "-").to_numpy(str)
    is_nback, is_flanker = (np.char.find(task, name) >= 0 for name in TASKS)
    rows = np.flatnonzero(is_nback ^ is_flanker)
    return found.take(rows), is_nback[rows].astype(np.int64), found.table["study"].to_numpy(str)[rows]


def task_probe(atlas: Atlas, prepared: Prepared) -> list[dict[str, Any]]:
    """Zero-shot probe of n-back against flanker: latents, PCA-32, maps, and the control row of the number of foci."""
    rows, labels, groups = contrasts()
    maps = kernel_maps(rows, prepared.grid, FWHM_MM, dtype=np.float32)
    features = {
        "model": encoded(atlas, prepared.grid, maps, metadata_without_topics(atlas, rows))[0].numpy(),
        "pca": prepared.pca.transform(maps),
    }
    known = _titles(rows).isin(_titles(prepared.studies)).to_numpy()
    return _records(probes.task_probe(features, np.diff(rows.starts), labels, groups, known))


def _titles(studies: Studies) -> pd.Series:
    """Letters and digits of the titles, without case."""
    return studies.table["title"].str.lower().str.replace("[^a-z0-9]", "", regex=True)


def hcp(atlas: Atlas, grid: BrainGrid, root: str | Path | None) -> list[dict[str, Any]]:
    """Probe of the tasks of user-supplied contrast maps, from latents of their peaks, nothing else known."""
    maps = read_hcp_contrasts(root, grid)
    return _records(dense_maps.contrast_probe(maps, lambda x: encoded(atlas, grid, x, None)[0].numpy(), grid))


def metadata_without_topics(atlas: Atlas, studies: Studies) -> torch.Tensor | None:
    """Metadata of studies of which nothing is known but their coordinates: all entries missing but log_n_foci."""
    if atlas.schema is None:
        return None
    n_foci = np.diff(studies.starts)
    values, known = zip(*(encode_values(atlas.schema, n_foci=float(n)) for n in n_foci), strict=True)
    return metadata_tensor(np.stack(values), np.stack(known))


def pain(atlas: Atlas, prepared: Prepared, root: Path | None) -> dict[str, Any]:
    """Correlation with 14 pain maps: map decoded for the pain topic, mean map, KDE of pain studies, restored peaks."""
    if root is None:
        raise FileNotFoundError(NO_ROOT)
    grid, train, fitted = prepared.grid, prepared.split["train"], prepared.fitted
    maps = read_pain_maps(root, grid)
    predicted = {"mean_map": fitted.mean_map}
    for topic in dense_maps.topics_about(train.topic_words, ("pain",))[:1]:
        predicted |= {"topic_kde": fitted.topic_rates[topic], "topic_decoded": topic_map(atlas, grid, train, topic)}
    table = dense_maps.compare(maps, predicted, lambda peaks: restore(atlas, grid, peaks), grid)
    return {"maps": _records(table), "summary": _records(dense_maps.grouped_interval(table))}


def topic_map(atlas: Atlas, grid: BrainGrid, train: Studies, topic: int) -> NDArray[np.float64]:
    """Map (V,) of a topic: mean over latents of the prior, with metadata of the topic's own training studies."""
    rows = np.argsort(-train.topics[:, topic], kind="stable")[:N_MEAN]
    z = torch.randn((len(rows), atlas.z_dim), generator=torch.Generator().manual_seed(topic))
    return decoded(atlas, grid, z, metadata_of(atlas, train.take(rows))).mean(0)


def restore(atlas: Atlas, grid: BrainGrid, maps: NDArray) -> NDArray[np.float64]:
    """Maps (n, V) that a model decodes from the posterior means of kernel maps (n, V), nothing else known."""
    mu, _ = encoded(atlas, grid, maps, None)
    return decoded(atlas, grid, mu, None)


def button_press(atlas: Atlas, prepared: Prepared, root: Path | None) -> dict[str, Any]:
    """Rank, from 1, of the best motor topic for the latent of the map's peaks, those of both signs."""
    if root is None:
        raise FileNotFoundError(NO_ROOT)
    grid, train, maps = prepared.grid, prepared.split["train"], prepared.maps["train"]
    dense = read_statistical_map(root / BUTTON_PRESS, grid)
    peaks = dense_maps.peak_maps([replace(dense, values=np.abs(dense.values))], grid)
    latents = {
        "model": (encoded(atlas, grid, maps, None)[0].numpy(), encoded(atlas, grid, peaks, None)[0].numpy()),
        "pca": (prepared.pca_latents["train"], prepared.pca.transform(peaks)),
    }
    wanted = dense_maps.topics_about(train.topic_words, dense_maps.MOTOR)
    found = {}
    for name, (z, query) in latents.items():
        ranking = dense_maps.topic_ranking(z, train.topics, query[0])
        best = [train.topic_words[k] for k in ranking[:5]]
        found[name] = {"motor_rank": dense_maps.best_rank(ranking, wanted), "best": best}
    return found
