"""Datasets with a cache, and loaders."""

import json
import logging

import pandas as pd
import pytest
import torch
from monai.data import CacheDataset, DataLoader, PersistentDataset
from monai.transforms import Compose, LoadImage, MapTransform

from neuromf.data.multimodal import MODALITIES, index_subjects
from neuromf.data.multimodal_loaders import EpochSampler, build_loaders, make_dataset, make_loader
from neuromf.data.multimodal_transforms import ImageSettings, train_transforms, val_transforms

SETTINGS = ImageSettings(roi_size=(8, 8, 8), spacing=(4.0, 4.0, 4.0))
GEOMETRY = {"roi_size": [16, 16, 16], "spacing": [12.0, 12.0, 12.0], "batch_size": 4, "seed": 0, "val_split": 0.2}


@pytest.fixture
def reads(monkeypatch):
    """Files that MONAI reads."""
    read, call = [], LoadImage.__call__

    def counted(self, filename, reader=None):
        read.append(str(filename))
        return call(self, filename, reader)

    monkeypatch.setattr(LoadImage, "__call__", counted)
    return read


def dataset(root, tmp_path, settings=SETTINGS, **options):
    return make_dataset(
        index_subjects(root)[0], val_transforms(settings), settings, cache_dir=tmp_path / "cache", **options
    )


def test_G07_the_second_epoch_does_not_read_the_source(subject_folder, tmp_path, reads):
    data = dataset(subject_folder("A", "B"), tmp_path)
    assert isinstance(data, PersistentDataset)
    first = [data[0], data[1]]
    assert len(reads) == 10 and len(list((tmp_path / "cache").iterdir())) == 2
    again = dataset(subject_folder(), tmp_path)
    assert all((again[k]["image"] == first[k]["image"]).all() for k in range(2))
    assert len(reads) == 10


@pytest.mark.parametrize("changed", [{"spacing": (3.0, 3.0, 3.0)}, {"nonzero": True}, {"label_map": {4: 3}}])
def test_G07_changed_transforms_never_read_an_old_cache(subject_folder, tmp_path, reads, changed):
    root = subject_folder("A")
    dataset(root, tmp_path)[0]
    item = dataset(root, tmp_path, ImageSettings(**{"roi_size": (8, 8, 8), "spacing": (4.0,) * 3} | changed))[0]
    assert len(reads) == 10 and item["image"].shape == (4, 8, 8, 8)


def test_G07_a_changed_file_never_reads_an_old_cache(subject_folder, tmp_path, reads):
    root = subject_folder("A")
    dataset(root, tmp_path)[0]
    path = root / "A" / "A-t1c.nii.gz"
    path.write_bytes((root / "A" / "A-t2w.nii.gz").read_bytes())
    item = dataset(root, tmp_path)[0]
    assert len(reads) == 10 and (item["image"][0] == item["image"][3]).all()


def test_G07_a_cache_in_memory_reads_once_and_none_reads_always(subject_folder, tmp_path, reads, caplog):
    root = subject_folder("A")
    data = dataset(root, tmp_path, cache="memory", cache_rate=1.0)
    assert isinstance(data, CacheDataset) and data[0].keys() == {"image", "seg", "id", "patient", "paths"}
    data[0]
    assert len(reads) == 5
    data = dataset(root, tmp_path, cache="none")
    assert (data[0]["image"] == data[0]["image"]).all() and len(reads) == 15
    assert not (tmp_path / "cache").exists()
    with caplog.at_level(logging.INFO):
        dataset(root, tmp_path, cache="disk", cache_rate=0.5)
    assert "cache_rate has no effect" in caplog.text
    with pytest.raises(ValueError, match="data.cache must be disk, memory or none"):
        dataset(root, tmp_path, cache="ram")


def test_G75_datasets_loaders_and_transforms_are_those_of_MONAI(subject_folder, tmp_path):
    data = dataset(subject_folder("A", "B"), tmp_path)
    assert isinstance(data, PersistentDataset) and isinstance(make_loader(data, 2, 0), DataLoader)
    for settings in (SETTINGS, ImageSettings(pad_value="background", label_map={4: 3})):
        for transforms in (train_transforms(settings), val_transforms(settings)):
            assert isinstance(transforms, Compose) and all(
                isinstance(step, MapTransform) for step in transforms.transforms
            )


# --- loaders -----------------------------------------------------------------------------------------


def test_G08_a_batch_carries_the_segmentation(tiny_cohort, tmp_path):
    train, val = build_loaders(tmp_path, root_dir=tiny_cohort, **GEOMETRY)
    for loader in (train, val):
        batch = next(iter(loader))
        n = len(batch["id"])
        assert batch["image"].shape == (n, 4, 16, 16, 16) and batch["image"].dtype == torch.float32
        assert batch["seg"].shape == (n, 1, 16, 16, 16) and batch["seg"].dtype == torch.int64
        assert set(batch["seg"].unique().tolist()) <= {0, 1, 2, 3} and batch["seg"].max() > 0


def test_G08_the_run_folder_holds_splits_exclusions_retention_and_cache(tiny_cohort, tmp_path):
    train, val = build_loaders(tmp_path, root_dir=tiny_cohort, test_split=0.2, **GEOMETRY)
    assert len(list(val)) > 0
    names = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    wanted = {f"splits/{name}.csv" for name in ("train", "val", "test")} | {"splits/subjects.tsv"}
    assert wanted | {"diagnostics/retention.csv"} <= names
    assert sum(name.startswith("cache/") for name in names) == len(val.dataset)
    splits = {name: pd.read_csv(tmp_path / f"splits/{name}.csv") for name in ("train", "val", "test")}
    anatomy = pd.read_csv(tiny_cohort / "trajectories.tsv", sep="\t").set_index("patient_id")["anatomy"]
    found = [set(anatomy[table["patient"]]) for table in splits.values()]
    assert len(set().union(*found)) == sum(map(len, found)) == 4
    again, _ = build_loaders(tmp_path / "again", root_dir="/nowhere", splits=tmp_path / "splits", **GEOMETRY)
    assert [one["id"] for one in again.dataset.data] == [one["id"] for one in train.dataset.data]


def test_G87_pinned_memory_only_with_cuda_and_persistent_workers_only_with_workers(
    subject_folder, tmp_path, monkeypatch
):
    data = dataset(subject_folder("A", "B"), tmp_path)
    for cuda in (False, True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda cuda=cuda: cuda)
        for workers in (0, 2):
            loader = make_loader(data, 2, workers)
            assert isinstance(loader, DataLoader)
            assert (loader.pin_memory, loader.persistent_workers) == (cuda, workers > 0)


def test_G87_batch_keys_are_intact(subject_folder, tmp_path):
    root = subject_folder("A-000", "B-000")
    batch = next(iter(make_loader(dataset(root, tmp_path), 2, 0)))
    assert batch.keys() == {"image", "seg", "id", "patient", "paths"}
    assert batch["id"] == ["A-000", "B-000"] and batch["patient"] == ["A", "B"]
    assert batch["paths"].keys() == {*MODALITIES, "seg"}
    assert batch["paths"]["t1c"] == [str(root / name / f"{name}-t1c.nii.gz") for name in ("A-000", "B-000")]


def test_G87_batches_depend_on_seed_and_epoch_only():
    sampler, other = EpochSampler(20, seed=0), EpochSampler(20, seed=0)
    first = list(sampler)
    sampler.set_epoch(3)
    other.set_epoch(3)
    assert sorted(first) == list(range(20)) and list(sampler) == list(other) != first
    assert list(EpochSampler(20, seed=1)) != first


@pytest.mark.parametrize("cache, workers", [("disk", 0), ("memory", 0), ("disk", 2)])
def test_G38_random_crops_depend_on_seed_subject_and_epoch_alone(tiny_cohort, tmp_path, cache, workers):
    def epoch(number, seed=0):
        settings = GEOMETRY | {"seed": seed, "train_margin": 4, "cache": cache, "num_workers": workers}
        train, _ = build_loaders(tmp_path, root_dir=tiny_cohort, **settings)
        train.sampler.set_epoch(number)
        return {name: image for batch in train for name, image in zip(batch["id"], batch["image"], strict=True)}

    first, resumed, third = epoch(1), epoch(1), epoch(2)
    assert first.keys() == resumed.keys() and all(torch.equal(first[name], resumed[name]) for name in first)
    shared = first.keys() & third.keys()
    assert shared and not all(torch.equal(first[name], third[name]) for name in shared)


def test_G28_processes_divide_every_batch_of_one_process(monkeypatch):
    batches = torch.tensor(list(EpochSampler(13, seed=0)))[:12].view(3, 4)
    for rank in (0, 1):
        monkeypatch.setattr("neuromf.data.multimodal_loaders.world", lambda rank=rank: (rank, 2))
        assert torch.equal(torch.tensor(list(EpochSampler(13, seed=0))).view(3, 2), batches[:, rank::2])


def test_G87_a_smaller_last_batch_of_training_is_dropped(tiny_cohort, tmp_path):
    train, val = build_loaders(tmp_path, root_dir=tiny_cohort, **GEOMETRY)
    assert {len(batch["id"]) for batch in train} == {4}
    assert sum(len(batch["id"]) for batch in val) == len(val.dataset)
    assert json.dumps([*train.sampler]) != json.dumps([*range(len(train.dataset))])
