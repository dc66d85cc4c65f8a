"""Splits of multi-modal subjects by patient, and in the simulation by anatomy, as CSV files.

A CSV has the columns id, patient, one per modality in the order of channels, and seg.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from neuromf.core.files import atomic_write
from neuromf.data.multimodal import SEG, Subject, check_modality_order

FIELDS = ["id", "patient"]


def split_subjects(
    subjects: Sequence[Subject],
    *,
    val_split: float,
    test_split: float = 0.0,
    seed: int,
    groups: Mapping[str, str] | None = None,
) -> dict[str, list[Subject]]:
    """Subjects by split: a seeded permutation of patients, the first for validation, the next for test.

    Arguments:
        subjects: Subjects with id and patient.
        val_split, test_split: Fractions of the groups; each above 0 has at least one group.
        seed: Seed of the permutation.
        groups: Group of each patient, such as its anatomy; patients of one group are in one split.

    Returns:
        Subjects by "train", "val" and, if `test_split` is above 0, "test", each sorted by id.

    Raises:
        ValueError: If no group is left for training.
    """
    group_of = {one["patient"]: (groups or {}).get(one["patient"], one["patient"]) for one in subjects}
    names = sorted(set(group_of.values()))
    order = [names[k] for k in np.random.default_rng(seed).permutation(len(names))]
    n_val, n_test = (max(1, round(part * len(order))) if part > 0 else 0 for part in (val_split, test_split))
    if n_val + n_test >= len(order):
        raise ValueError(
            f"{len(order)} patients or anatomies are too few for val_split {val_split:g} and test_split "
            f"{test_split:g}: none is left for training"
        )
    chosen = {"train": order[n_val + n_test :], "val": order[:n_val], "test": order[n_val : n_val + n_test]}
    return {
        split: sorted((one for one in subjects if group_of[one["patient"]] in set(inside)), key=lambda one: one["id"])
        for split, inside in chosen.items()
        if split != "test" or test_split > 0
    }


def write_splits(folder: str | Path, splits: Mapping[str, Sequence[Subject]], modalities: Sequence[str]) -> None:
    """Write {split}.csv of each split, atomically."""
    import pandas as pd

    Path(folder).mkdir(parents=True, exist_ok=True)
    for split, subjects in splits.items():
        with atomic_write(Path(folder) / f"{split}.csv") as part:
            pd.DataFrame(subjects, columns=[*FIELDS, *modalities, SEG]).to_csv(part, index=False, lineterminator="\n")


def read_split(path: str | Path, modalities: Sequence[str]) -> list[Subject]:
    """Subjects of a CSV from `write_splits`.

    Raises:
        ValueError: If its modalities are not `modalities` in the same order.
    """
    import pandas as pd

    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    check_modality_order(modalities, [name for name in table if name not in {*FIELDS, SEG}], Path(path).name)
    return table.to_dict("records")  # type: ignore[return-value]  # all columns are text


def read_splits(folder: str | Path, modalities: Sequence[str]) -> dict[str, list[Subject]]:
    """Subjects by split, for the CSVs of a folder."""
    names = [name for name in ("train", "val", "test") if (Path(folder) / f"{name}.csv").exists()]
    if not {"train", "val"} <= set(names):
        raise ValueError(f"{folder} must hold train.csv and val.csv; got {names}")
    return {name: read_split(Path(folder) / f"{name}.csv", modalities) for name in names}
