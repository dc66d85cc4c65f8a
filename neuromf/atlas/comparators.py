"""Classical meta-analyses per topic by NiMARE: MKDA chi-square, ALE and CBMR, beside topic KDE and a model's map.

Per topic, training studies with a topic weight above .2 (at most `most`, the largest weights) are analysed; MKDA
chi-square compares them with as many studies of the smallest weights. Rates are scored on the test studies whose
dominant topic it is. The positive part of a map becomes a rate as maps of a model do: floored, normalised, mixed with
the global rate by a weight chosen on validation studies.

References:
    NiMARE: Neuroimaging Meta-Analysis Research Environment (Salo et al., 2023), Aperture Neuro
"""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from neuromf.atlas.baselines import Baselines, fit
from neuromf.atlas.dense_maps import topics_about
from neuromf.atlas.kernel_maps import foci_counts
from neuromf.atlas.studies import Studies, read_studies
from neuromf.core.files import atomic_write
from neuromf.data.brain_grid import BrainGrid, brain_grid
from neuromf.metrics import likelihood

MIN_WEIGHT, MOST = 0.2, 300
COLUMNS = ["topic", "method", "bits", "low", "high", "weight", "r_model", "r_kde", "n_train", "n_test", "seconds"]


def as_studyset(studies: Studies) -> Any:  # noqa: ANN401  # nimare.nimads.Studyset, an optional package
    """The studies as a NiMARE studyset, one analysis per study.

    Raises:
        ImportError: If NiMARE is not installed.
    """
    try:
        from nimare.nimads import Studyset
    except ImportError:
        raise ImportError("NiMARE is needed for comparisons: pip install 'neuromf[atlas]'") from None
    rows = [_study(studies, k) for k in range(len(studies))]
    return Studyset({"id": "atlas", "name": "atlas", "studies": rows})


def _study(studies: Studies, k: int) -> dict[str, Any]:
    name = str(studies.table["id"].iloc[k])
    points = [{"space": "MNI", "coordinates": row, "kind": None, "values": []} for row in studies.foci(k).tolist()]
    analysis = {"id": "1", "name": "1", "conditions": [], "weights": [], "images": [], "points": points,
                "metadata": {"sample_sizes": None}}  # fmt: skip
    return {"id": name, "name": name, "authors": "", "publication": "", "metadata": {}, "analyses": [analysis]}


def mkda_map(studies: Studies, others: Studies, grid: BrainGrid) -> NDArray[np.float64]:
    """z map (V,) of the association of foci with `studies` rather than `others`, by MKDA chi-square."""
    sets = as_studyset(studies), as_studyset(others)
    from nimare.meta.cbma.mkda import MKDAChi2

    return _map(MKDAChi2(mask=_mask_image(grid)).fit(*sets), "z_desc-association", grid)


def ale_map(studies: Studies, _: Studies, grid: BrainGrid) -> NDArray[np.float64]:
    """ALE statistic (V,) of studies, with a kernel of 12 mm, since sample sizes are unknown."""
    rows = as_studyset(studies)
    from nimare.meta.cbma.ale import ALE
    from nimare.meta.kernel import ALEKernel

    return _map(ALE(kernel_transformer=ALEKernel(fwhm=12.0), mask=_mask_image(grid)).fit(rows), "stat", grid)


def cbmr_map(studies: Studies, _: Studies, grid: BrainGrid) -> NDArray[np.float64]:
    """Spatial intensity (V,) of studies by a Poisson coordinate-based meta-regression without moderators."""
    rows = as_studyset(studies)
    from nimare.meta.cbmr import CBMR

    options = {"incidence_threshold": None, "spline_spacing": 5, "n_iter": 200, "random_state": 0}
    result = CBMR("~ 1", mask=_mask_image(grid), **options).fit(rows)
    (name,) = [key for key in result.maps if key.startswith("spatialIntensity")]
    return _map(result, name, grid)


METHODS: dict[str, Callable[[Studies, Studies, BrainGrid], NDArray[np.float64]]] = {
    "mkda_chi2": mkda_map,
    "ale": ale_map,
    "cbmr": cbmr_map,
}


def _mask_image(grid: BrainGrid) -> Any:  # noqa: ANN401  # an image of nibabel
    import nibabel as nib

    return nib.Nifti1Image(grid.mask.astype(np.uint8), grid.affine)


def _map(result: Any, name: str, grid: BrainGrid) -> NDArray[np.float64]:  # noqa: ANN401  # nimare.results.MetaResult
    return np.nan_to_num(grid.vector(np.asarray(result.get_map(name).dataobj, np.float64)))


def compare_topics(
    *, studies: str | Path, out: str | Path, grid: str, topics: Sequence[str] | None, most: int = MOST, seed: int = 0
) -> None:
    """Write the table of `compare` as CSV for the studies of a folder.

    Arguments:
        topics: Words; every topic that one of them belongs to is analysed. None for all topics.
    """
    table, space = read_studies(studies), brain_grid(grid)
    wanted = list(range(len(table.topic_words)))
    if topics is not None:
        wanted = topics_about(table.topic_words, topics)
    if not wanted:
        raise ValueError(f"no topic has one of the words {topics}; topics are {', '.join(table.topic_words)}")
    fitted = fit(table.take(table.rows("train")), space)
    found = compare(table, space, fitted, wanted, most=most, seed=seed)
    with atomic_write(out) as part:
        found.assign(scale=table.scale).to_csv(part, index=False, float_format="%.6g")


def compare(
    studies: Studies, grid: BrainGrid, fitted: Baselines, topics: Sequence[int], *,
    model_maps: Mapping[int, NDArray] | None = None, most: int = MOST, seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """One row per topic and method: bits per focus with interval, correlation with model and topic KDE, seconds.

    Arguments:
        studies: All studies, with splits.
        fitted: Baselines of the training studies.
        topics: Topics to analyse.
        model_maps: Map (V,) that a model decodes for each topic; without, column r_model is empty.
        most: Most studies per analysis.
    """
    rows = [
        row for topic in topics for row in _compare_topic(studies, grid, fitted, topic, model_maps or {}, most, seed)
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def _compare_topic(
    studies: Studies, grid: BrainGrid, fitted: Baselines, topic: int, model_maps: Mapping[int, NDArray], most: int,
    seed: int,
) -> list[tuple]:  # fmt: skip
    weight = studies.topics[:, topic]
    train = studies.rows("train")
    order = train[np.argsort(-weight[train], kind="stable")]
    chosen = order[: max(2, min(most, int((weight[train] > MIN_WEIGHT).sum())))]
    with_topic, without = studies.take(chosen), studies.take(order[-len(chosen) :])
    kde = fitted.topic_rates[topic]
    held = {split: _dominant(studies, split, topic) for split in ("val", "test")}
    rows = []
    for name in ("topic_kde", *METHODS):
        begun = time.perf_counter()
        found = kde if name == "topic_kde" else METHODS[name](with_topic, without, grid)
        seconds = time.perf_counter() - begun
        score, mixed = _score(found, fitted.global_rate, grid, held, seed)
        model = _correlation(found, model_maps[topic]) if topic in model_maps else float("nan")
        rows.append((studies.topic_words[topic], name, *score, mixed, model, _correlation(found, kde), len(chosen),
                     len(held["test"]), seconds))  # fmt: skip
    return rows


def _dominant(studies: Studies, split: str, topic: int) -> Studies:
    rows = studies.rows(split)
    return studies.take(rows[studies.topics[rows].argmax(1) == topic])


def _score(
    found: NDArray, global_rate: NDArray, grid: BrainGrid, held: Mapping[str, Studies], seed: int
) -> tuple[likelihood.Score, float]:
    """Score on test studies of a map as a rate, and the weight chosen on validation studies (1 without any)."""
    rate = likelihood.normalised_rate(np.maximum(found, 0) / max(float(np.max(found)), 1e-12))
    counts = {split: foci_counts(part, grid) for split, part in held.items()}
    weight = 1.0
    if counts["val"].nnz:
        rates = np.broadcast_to(rate, (counts["val"].shape[0], grid.n_voxels))
        weight = likelihood.choose_weight(rates, global_rate, counts["val"])
    if not counts["test"].nnz:
        return likelihood.Score(*[float("nan")] * 3), weight
    bits = likelihood.bits_per_focus(np.log2(likelihood.mix(rate, global_rate, weight)), counts["test"])
    return likelihood.score(bits, likelihood.n_foci(counts["test"]), seed=seed), weight


def _correlation(a: NDArray, b: NDArray) -> float:
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 0 and b.std() > 0 else 0.0
