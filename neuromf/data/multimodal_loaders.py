"""Datasets with a cache and loaders of multi-modal subjects.

A batch is a dict: image, float32 (B, C, R, R, R); seg, int64 (B, 1, R, R, R); id and patient, lists of B; paths, a dict
of lists by modality and seg.
"""

import functools
import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import torch
from monai.data import CacheDataset, DataLoader, Dataset, PersistentDataset, list_data_collate
from monai.transforms import Compose
from torch.utils.data import Sampler

from neuromf.core.distributed import world
from neuromf.core.files import atomic_write
from neuromf.core.parallel import map_in_threads
from neuromf.core.seeds import generator
from neuromf.data.multimodal import MODALITIES, PATIENT, SEG, Subject, usable_subjects
from neuromf.data.multimodal_transforms import (
    ImageSettings,
    train_transforms,
    tumour_retention,
    val_transforms,
    warn_of_padding,
)
from neuromf.data.subject_splits import read_splits, split_subjects, write_splits

logger = logging.getLogger(__name__)


def build_loaders(
    run_dir: str | Path,
    *,
    root_dir: str | Path,
    roi_size: Sequence[int],
    spacing: Sequence[float],
    batch_size: int,
    seed: int,
    modalities: Sequence[str] = MODALITIES,
    orientation: str = "RAS",
    num_workers: int = 0,
    cache_rate: float = 1.0,
    val_split: float = 0.1,
    test_split: float = 0.0,
    persistent_cache_subdir: str = "cache",
    nonzero: bool = False,
    pad_value: float | str = 0.0,
    train_margin: int = 0,
    label_map: Mapping[int, int] | None = None,
    cache: str = "disk",
    suffixes: Mapping[str, str] | None = None,
    patient_regex: str = PATIENT,
    splits: str | Path | None = None,
) -> tuple[DataLoader, DataLoader]:
    """Loaders of training and validation subjects; splits, excluded subjects and tumour retention go to the run folder.

    Arguments:
        run_dir: Folder of the run: splits/{train,val,test}.csv, splits/subjects.tsv, diagnostics/retention.csv, cache.
        root_dir: Folder with one folder per subject, indexed and checked; not read if `splits` is given.
        batch_size: Subjects per batch. The last batch of training is dropped if it is smaller.
        seed: Seed of the split and of the order of batches.
        cache_rate: Fraction of subjects in memory; has an effect with `cache` "memory" only.
        persistent_cache_subdir: Folder of the cache on disk below `run_dir`.
        cache: "disk" (PersistentDataset), "memory" (CacheDataset) or "none".
        splits: Folder of the CSVs of an earlier index, in place of `root_dir` and the fractions.
        modalities, roi_size, spacing, orientation, nonzero, pad_value, train_margin, label_map: See `ImageSettings`.
        suffixes, patient_regex: See `index_subjects`.

    Raises:
        ValueError: If a setting is invalid or no subject can be used.
    """
    run_dir, modalities = Path(run_dir), list(modalities)
    settings = ImageSettings(modalities, roi_size, spacing, orientation, nonzero, pad_value, train_margin, label_map)
    if splits is not None:
        parts = read_splits(splits, modalities)
    else:
        parts = index_and_split(
            run_dir / "splits",
            settings,
            root_dir=root_dir,
            val_split=val_split,
            test_split=test_split,
            seed=seed,
            suffixes=suffixes,
            patient_regex=patient_regex,
        )
    write_splits(run_dir / "splits", parts, modalities)
    write_retention(run_dir / "diagnostics" / "retention.csv", parts, settings)
    warn_of_padding(parts["train"][0], settings)
    store: dict[str, Any] = {"cache": cache, "cache_dir": run_dir / persistent_cache_subdir, "cache_rate": cache_rate}
    train = make_dataset(parts["train"], train_transforms(settings), settings, seed=seed, **store)
    val = make_dataset(parts["val"], val_transforms(settings), settings, **store)
    sampler = EpochSampler(len(train), seed)
    drop = len(train) > batch_size
    return (
        make_loader(train, batch_size, num_workers, sampler=sampler, drop_last=drop),
        make_loader(val, batch_size, num_workers),
    )


def prepare_index(
    out: Path,
    *,
    root_dir: str | Path,
    roi_size: Sequence[int],
    spacing: Sequence[float],
    val_split: float,
    test_split: float,
    seed: int,
    modalities: Sequence[str] = MODALITIES,
    orientation: str = "RAS",
    label_map: Mapping[int, int] | None = None,
    suffixes: Mapping[str, str] | None = None,
    patient_regex: str = PATIENT,
) -> dict[str, list[Subject]]:
    """The index that several trainings share: `index_and_split`, and retention.csv for the ROI; see `build_loaders`."""
    settings = ImageSettings(list(modalities), roi_size, spacing, orientation, label_map=label_map)
    names: Any = {"suffixes": suffixes, "patient_regex": patient_regex}
    fractions: Any = {"val_split": val_split, "test_split": test_split, "seed": seed}
    parts = index_and_split(Path(out), settings, root_dir=root_dir, **fractions, **names)
    write_retention(Path(out) / "retention.csv", parts, settings)
    return parts


def index_and_split(
    out: Path,
    settings: ImageSettings,
    *,
    root_dir: str | Path,
    val_split: float,
    test_split: float,
    seed: int,
    suffixes: Mapping[str, str] | None = None,
    patient_regex: str = PATIENT,
) -> dict[str, list[Subject]]:
    """Subjects by split; writes {split}.csv and subjects.tsv, which has status and reason of every folder, to `out`.

    A table trajectories.tsv in `root_dir` with the columns patient_id and anatomy groups patients by anatomy.
    """
    subjects, report = usable_subjects(
        root_dir, settings.modalities, suffixes=suffixes, patient_regex=patient_regex, label_map=settings.label_map
    )
    groups = _anatomies(Path(root_dir) / "trajectories.tsv")
    parts = split_subjects(subjects, val_split=val_split, test_split=test_split, seed=seed, groups=groups)
    write_splits(out, parts, settings.modalities)
    with atomic_write(out / "subjects.tsv") as part:
        report.to_csv(part, sep="\t", index=False, lineterminator="\n")
    logger.info("%s", ", ".join(f"{len(part)} {name}" for name, part in parts.items()))
    return parts


def _anatomies(path: Path) -> dict[str, str]:
    """Anatomy of each patient in a table of simulated scans; empty if there is none."""
    import pandas as pd

    if not path.exists():
        return {}
    table = pd.read_csv(path, sep="\t", dtype=str)
    return dict(zip(table["patient_id"], table["anatomy"], strict=True)) if "anatomy" in table else {}


def write_retention(path: Path, parts: Mapping[str, Sequence[Subject]], settings: ImageSettings) -> None:
    """Write the fraction of segmented voxels inside the ROI, one row per subject: id, split, retention."""
    import pandas as pd

    rows = [(one, split) for split, subjects in parts.items() for one in subjects]
    fractions = map_in_threads(lambda row: tumour_retention(row[0], settings), rows)
    table = pd.DataFrame({"id": [one["id"] for one, _ in rows], "split": [split for _, split in rows]})
    table["retention"] = fractions
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as part:
        table.to_csv(part, index=False, float_format="%.5f", lineterminator="\n")


# --- cache -------------------------------------------------------------------------------------------


def make_dataset(
    subjects: Sequence[Subject],
    transforms: Compose,
    settings: ImageSettings,
    *,
    cache: str = "disk",
    cache_dir: Path,
    cache_rate: float = 1.0,
    seed: int = 0,
) -> Dataset:
    """A dataset whose deterministic transforms run once, as `cache` says: "disk", "memory" or "none".

    Random transforms depend on `seed`, subject and epoch.
    """
    items = [{**one, "paths": {key: one[key] for key in [*settings.modalities, SEG]}} for one in subjects]
    if cache == "memory":
        return SubjectMemory(items, transforms, cache_rate=cache_rate, num_workers=0, progress=False).seeded(seed)
    if cache not in ("disk", "none"):
        raise ValueError(f"data.cache must be disk, memory or none; got {cache!r}")
    if cache == "disk" and cache_rate != 1.0:
        logger.info("data.cache_rate has no effect with data.cache: disk")
    names = [type(step).__name__ for step in transforms.transforms]
    key = functools.partial(cache_key, configuration=json.dumps([names, asdict(settings)], default=str))
    return SubjectCache(items, transforms, cache_dir if cache == "disk" else None, hash_func=key).seeded(seed)


def cache_key(item: Mapping[str, Any], configuration: str) -> bytes:
    """Key of a cached subject: configuration of the transforms; path, size and time of every file."""
    files = [(path, os.stat(path).st_size, os.stat(path).st_mtime_ns) for path in item["paths"].values()]
    return hashlib.sha256(json.dumps([configuration, item["id"], files]).encode()).hexdigest().encode()


def _without_modalities(item: dict[str, Any]) -> dict[str, Any]:
    """A transformed subject without its single modalities, which image holds; seg as uint8."""
    fields = {key: item[key] for key in ("id", "patient", "paths")}
    return fields | {"image": item["image"].clone(), SEG: item[SEG].to(torch.uint8)}


class Draw(int):
    """Number of a subject, with the epoch in which it is drawn."""

    epoch = 0


class _SeededTransforms(Dataset):
    """Random transforms that depend on seed, subject and epoch, not on order, worker or an interruption."""

    seed = 0

    def seeded(self, seed: int) -> Self:
        """This dataset with a seed."""
        self.seed = seed
        return self

    def _transform(self, index: int) -> Any:  # noqa: ANN401  # as in MONAI
        random = generator("growth crop", self.seed, self.data[index]["id"], getattr(index, "epoch", 0))
        self.transform.set_random_state(random.initial_seed() % 2**32)
        return super()._transform(index)


class SubjectCache(_SeededTransforms, PersistentDataset):
    """PersistentDataset of images and segmentations without the single modalities."""

    def _pre_transform(self, item_transformed: Any) -> Any:  # noqa: ANN401  # as in MONAI
        return _without_modalities(super()._pre_transform(item_transformed))


class SubjectMemory(_SeededTransforms, CacheDataset):
    """CacheDataset of images and segmentations without the single modalities."""

    def _load_cache_item(self, idx: int) -> Any:  # noqa: ANN401  # as in MONAI
        return _without_modalities(super()._load_cache_item(idx))


# --- loaders -----------------------------------------------------------------------------------------


class EpochSampler(Sampler[int]):
    """Permutation of the subjects by seed and epoch, so that a resumed training sees the batches of an unbroken one.

    Process r of W takes every W-th subject: together, batch k of all processes is batch k of one process with batches
    W times as large. Subjects that cannot be divided evenly are left out of the epoch.
    """

    def __init__(self, n: int, seed: int) -> None:
        self.n, self.seed, self.epoch = n, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch; Lightning calls it."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.n // world()[1]

    def __iter__(self) -> Iterator[int]:
        rank, size = world()
        order = torch.randperm(self.n, generator=generator("growth batches", self.seed, self.epoch)).tolist()
        for number in order[: size * len(self)][rank::size]:
            draw = Draw(number)
            draw.epoch = self.epoch
            yield draw


def make_loader(
    dataset: Dataset, batch_size: int, num_workers: int, *, sampler: EpochSampler | None = None, drop_last: bool = False
) -> DataLoader:
    """A loader that pins memory only with CUDA and keeps workers alive only if there are any."""
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        drop_last=drop_last,
        num_workers=num_workers,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=num_workers > 0,
        collate_fn=collate,
    )


def collate(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A batch of subjects, with seg as int64."""
    batch = list_data_collate([{key: one[key] for key in ("image", SEG, "id", "patient", "paths")} for one in items])
    return batch | {"image": torch.as_tensor(batch["image"]).float(), SEG: torch.as_tensor(batch[SEG]).long()}
