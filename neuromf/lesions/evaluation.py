"""Evaluation of a fine-tuned run: its pairs against training pairs, next to real validation and test pairs."""

import logging
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from neuromf.data.participants import read_table
from neuromf.lesions.pairs import read_pair_volumes
from neuromf.metrics.distances.table import distances
from neuromf.metrics.features.registry import extract, feature_scales, open_feature_sets
from neuromf.metrics.lesions import evaluate_lesions
from neuromf.vae.weights import load

logger = logging.getLogger(__name__)

COLUMNS = ["arm", "metric", "features", "n", "value", "low", "high"]
MIN_IMAGES = 4  # smallest set of images between which distances are computed
REAL = "real"  # arm of real validation and test pairs


def evaluate_pairs(
    *,
    samples: Path,
    pairs: Path,
    weights: Path,
    arm: str,
    features: Sequence[dict],
    spacing_mm: float,
    n_boot: int,
    seed: int,
    metrics: Path,
    lesions: Path,
) -> None:
    """Write metrics of generated and of real pairs, and a table of their lesions, as CSV.

    Arguments:
        samples: Folder of `sample.sample_pairs`.
        pairs: File pairs.tsv of the real pairs.
        weights: Autoencoder weights.
        arm: Name of the fine-tuned run in the tables.
        features: Feature sets of image distances, as arguments of `features.registry.open_features`.
        spacing_mm: Isotropic voxel size in mm.
        n_boot: Bootstrap resamples of the intervals of distances.
        metrics: CSV file of metrics, with the columns `COLUMNS`.
        lesions: CSV file with one row per pair.
    """
    vae, table = load(weights), read_table(pairs)
    train = read_pair_volumes(table[table["split"] == "train"])
    if len(train[0]) < MIN_IMAGES:
        logger.warning("%d training pairs: no image distances, which need %d", len(train[0]), MIN_IMAGES)
        features = []
    sets = open_feature_sets(features, vae=vae, scales=feature_scales(features, vae=vae, train=train[0]))
    reference, rows, tables = extract(sets, train[0]), [], []
    listed = {REAL: table[table["split"] != "train"], arm: read_table(samples / "samples.tsv")}
    for name, some in listed.items():
        images, masks = read_pair_volumes(some)
        extracted = extract(sets, images) if len(images) >= MIN_IMAGES else {}
        for kind, x in extracted.items():
            rows += [{"arm": name, **row} for row in distances(reference[kind], x, kind, n_boot=n_boot, seed=seed)]
        lesion_rows, each = evaluate_lesions(images, masks, train, spacing_mm, seed=seed)
        rows += [{"arm": name, **row} for row in lesion_rows]
        tables.append(each.assign(arm=name, scan=some["scan"].to_numpy()))
    pd.DataFrame(rows)[COLUMNS].to_csv(metrics, index=False, float_format="%.6g")
    pd.concat(tables).to_csv(lesions, index=False, float_format="%.6g")
