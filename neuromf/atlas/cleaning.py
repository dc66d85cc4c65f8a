"""Cleaning of coordinate tables: duplicates, Talairach coordinates, mislabelled spaces, foci outside the brain; a log.

A focus is reported once per study, cubic millimetre and sign of its statistic. Labels of spaces are automatic, so a
study is transformed only if that does not move many of its foci out of the brain; otherwise it is flagged, not moved.
"""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from neuromf.atlas.metadata import modality_flags
from neuromf.atlas.studies import Studies
from neuromf.data.brain_grid import BrainGrid
from neuromf.data.neurosynth import CoordinateTables
from neuromf.data.talairach import tal_to_mni

Policy = Literal["transform", "keep", "drop"]

COLUMNS = ["id", "year", "space", "title", "journal"]
OPTIONAL = ["n_subjects", "task", "study"]  # of the NeuroStore extract


def deduplicate(foci: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Foci without repetitions, in the same order, and the counts.

    Of foci with equal study, position at 1 mm and sign, the one with the largest `n` is kept, or the first.

    Arguments:
        foci: Table with id, x, y, z; sign and n where the source has them. Without a sign, 0 is compared.
    """
    key = foci[["id"]].assign(**{axis: np.rint(foci[axis]) for axis in "xyz"}, sign=foci.get("sign", 0))
    if "n" in foci:
        key = key.loc[foci["n"].fillna(-1).sort_values(ascending=False, kind="stable").index]
    kept = foci.loc[~key.duplicated().reindex(foci.index)]
    n, n_kept = len(foci), len(kept)
    return kept, {"original": n, "kept": n_kept, "rate": (n - n_kept) / max(n, 1), "signed": "sign" in foci}


def clean_tables(
    tables: CoordinateTables,
    grid: BrainGrid,
    *,
    scale: str,
    space: Mapping[str, Policy],
    max_rise: float = 0.10,
    min_foci: int = 5,
    exclude_modalities: tuple[str, ...] = (),
) -> tuple[Studies, dict[str, Any]]:
    """Studies in MNI space without a split, and the coordinate log.

    Arguments:
        tables: Tables as published.
        grid: Grid whose mask foci must be in.
        scale: Scale of the studies.
        space: What to do with studies of space "tal" and "unknown": transform, keep or drop.
        max_rise: Rise of a study's fraction of foci outside the mask above which its label counts as wrong.
        min_foci: Studies with fewer foci after cleaning are excluded.
        exclude_modalities: Studies with one of these flags are excluded.
    """
    foci, counts = deduplicate(tables.coordinates)
    study = pd.Index(tables.metadata["id"]).get_indexer(foci["id"])
    points = foci[["x", "y", "z"]].to_numpy(float)
    moved, log = transform_spaces(points, study, tables.metadata, grid, space, max_rise)
    table = _study_table(tables, foci, study)
    keep = grid.in_mask(moved) & (log["decision"].to_numpy() != "dropped")[study]
    n_foci = np.bincount(study[keep], minlength=len(table))
    excluded = table[list(exclude_modalities)].any(axis=1).to_numpy() if exclude_modalities else False
    rows = np.flatnonzero((n_foci >= min_foci) & ~np.asarray(excluded))
    studies = _assemble(tables, table.assign(n_foci=n_foci), moved, study, keep, rows, scale, foci.get("sign"))
    log = log.assign(id=table["id"], n_foci=n_foci, included=np.isin(np.arange(len(table)), rows))
    return studies, {"deduplication": counts, "summary": summarise(log, studies), "studies": log.to_dict("records")}


def _study_table(tables: CoordinateTables, foci: pd.DataFrame, study: NDArray) -> pd.DataFrame:
    """Metadata of all studies with the number of tables and modality flags."""
    columns = [*COLUMNS, *(name for name in OPTIONAL if name in tables.metadata)]
    n_tables = foci.groupby(study)["table_id"].nunique().reindex(range(len(tables.metadata)), fill_value=0)
    table = tables.metadata[columns].reset_index(drop=True)
    return table.assign(n_tables=n_tables.to_numpy(), **modality_flags(table["title"]), split="")


def _assemble(
    tables: CoordinateTables, table: pd.DataFrame, points: NDArray, study: NDArray, keep: NDArray, rows: NDArray,
    scale: str, sign: pd.Series | None,
) -> Studies:  # fmt: skip
    """Studies of these rows with the foci of the mask `keep`, sorted by study."""
    keep = keep & np.isin(study, rows)
    order = np.flatnonzero(keep)[np.argsort(study[keep], kind="stable")]
    lengths = np.bincount(study[order], minlength=len(table))[rows]
    return Studies(
        table=table.iloc[rows].reset_index(drop=True),
        points=points[order].astype(np.float32),
        starts=np.concatenate([[0], np.cumsum(lengths)]),
        topics=tables.topics[rows],
        topic_words=tables.topic_words,
        scale=scale,
        signs=None if sign is None else sign.to_numpy(np.int8)[order],
    )


def transform_spaces(
    points: NDArray,
    study: NDArray,
    metadata: pd.DataFrame,
    grid: BrainGrid,
    space: Mapping[str, Policy],
    max_rise: float,
) -> tuple[NDArray, pd.DataFrame]:
    """Points (n, 3) in MNI space, and per study space, decision, displacement and fractions inside the mask.

    Arguments:
        study: Row of the study of each point.
        space: Policy for "tal" and "unknown"; MNI studies are never moved.
        max_rise: As in `clean_tables`.
    """
    policies = metadata["space"].str.lower().map({**space, "mni": "keep"}).to_numpy()
    transformed = tal_to_mni(points)
    before, after = (_study_mean(grid.in_mask(these), study, len(metadata)) for these in (points, transformed))
    wrong = (policies == "transform") & (before - after > max_rise)
    decision = np.where(wrong, "flagged", pd.Series(policies).map(
        {"transform": "transformed", "keep": "kept", "drop": "dropped"}).to_numpy())  # fmt: skip
    moves = decision == "transformed"
    squared = ((transformed - points) ** 2).sum(1)
    log = pd.DataFrame({
        "id": metadata["id"].to_numpy(),
        "space": metadata["space"].to_numpy(),
        "decision": decision,
        "n_reported": np.bincount(study, minlength=len(metadata)),
        "displacement_rms_mm": np.where(moves, np.sqrt(_study_mean(squared, study, len(metadata))), 0).round(3),
        "in_mask_before": before.round(4),
        "in_mask_after": np.where(moves, after, before).round(4),
        "in_mask_if_transformed": after.round(4),
    })  # fmt: skip
    return np.where(moves[study][:, None], transformed, points), log


def _study_mean(values: NDArray, study: NDArray, n: int) -> NDArray:
    """Mean of a value over the foci of each study, 0 without foci."""
    return np.bincount(study, values, n) / np.maximum(np.bincount(study, minlength=n), 1)


def summarise(log: pd.DataFrame, studies: Studies) -> dict[str, Any]:
    """Per space: studies by decision, fractions of foci outside the mask, displacement of transformed studies."""
    out: dict[str, Any] = {"n_studies": len(studies), "n_foci": len(studies.points)}
    for space, rows in log.groupby("space"):
        weights, moved = rows["n_reported"].to_numpy(float), rows[rows["decision"] == "transformed"]
        means = {
            name: float(1 - np.average(rows[column], weights=weights)) if weights.sum() else 0.0
            for name, column in (("out_of_mask_before", "in_mask_before"), ("out_of_mask_after", "in_mask_after"))
        }
        displacement = moved["displacement_rms_mm"].to_numpy()
        out[str(space)] = {
            "decisions": rows["decision"].value_counts().to_dict(),
            **{name: round(value, 5) for name, value in means.items()},
            "displacement_rms_mm": round(float(displacement.mean()), 3) if len(moved) else 0.0,
            "displacement_rms_max_mm": round(float(displacement.max()), 3) if len(moved) else 0.0,
        }
    return out
