"""Heads from supervised slices of the posterior mean to normalised features of the tumour, and their targets.

A slice as wide as its targets has the identity as head, so the latent is the normalised quantity itself; the value in
its unit is std * z + mean. Wider or narrower slices have a small learned head.
"""

from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from neuromf.data.multimodal import SEG
from neuromf.data.semantic_features import FEATURES, LOCATION, fit_normaliser, normalised_targets, semantic_features
from neuromf.growth.partition import TARGETS, Partition
from neuromf.growth.probes import volume_and_centroid

DROPOUT = 0.1
OF_CROPS = ["log_volume_mass", *LOCATION]  # features that are measured in every random crop


class SemanticHeads(nn.ModuleDict):
    """One head per supervised slice; each sees its own slice alone."""

    def __init__(self, partition: Partition) -> None:
        super().__init__()
        self.partition = partition
        for name in partition.supervised:
            span = partition[name]
            self[name] = new_head(span.stop - span.start, len(TARGETS[name]))

    def forward(self, mu: Tensor) -> dict[str, Tensor]:
        """Predicted normalised targets (B, k) by name, of posterior means (B, d)."""
        return {name: head(mu[:, self.partition[name]]) for name, head in self.items()}


def new_head(width: int, n_targets: int) -> nn.Module:
    """Identity if the slice is as wide as its targets, else Linear, ReLU, dropout, Linear (Xavier-normal, bias 0)."""
    if width == n_targets:
        return nn.Identity()
    layers = nn.Linear(width, 2 * width), nn.ReLU(), nn.Dropout(DROPOUT), nn.Linear(2 * width, n_targets)
    for layer in (layers[0], layers[-1]):
        nn.init.xavier_normal_(layer.weight)  # type: ignore[arg-type]  # of a linear layer
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return nn.Sequential(*layers)


def masked_error(predicted: Tensor, targets: Tensor, present: Tensor) -> Tensor:
    """Mean squared error of the targets that are present, 0 if none is; all (B, k)."""
    squares = (predicted.float() - targets).square() * present
    return squares.sum() / present.sum().clamp(min=1)


# --- targets -----------------------------------------------------------------------------------------


def subject_features(dataset: Dataset, spacing_mm: Sequence[float]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Semantic features and presence flags of the subjects of a dataset, after preprocessing, by id."""
    subjects = (dataset[k] for k in range(len(dataset)))  # type: ignore[arg-type]  # a list of subjects
    rows = {one["id"]: semantic_features(one[SEG][0].numpy(), spacing_mm) for one in subjects}
    features, present = (pd.DataFrame({name: row[k] for name, row in rows.items()}).T for k in (0, 1))
    return features[FEATURES], present[FEATURES]


class SemanticTargets:
    """Normalised targets and presence flags of subjects by id; the normaliser is fitted on training subjects.

    Arguments:
        train, other: Datasets of training, and of further subjects.
        spacing_mm: Voxel size.
    """

    def __init__(self, train: Dataset, other: Dataset, spacing_mm: Sequence[float]) -> None:
        self.spacing_mm = spacing_mm
        features, present = subject_features(train, spacing_mm)
        self.normaliser = fit_normaliser(features, present)
        tables = [(features, present), subject_features(other, spacing_mm)]
        self.values = pd.concat([normalised_targets(*one, self.normaliser) for one in tables])
        self.present = pd.concat([one[1] for one in tables])

    def of(self, ids: Sequence[str], names: Sequence[str], like: Tensor) -> tuple[Tensor, Tensor]:
        """Targets and presence flags (B, k) of the features `names`, as float32 on the device of `like`."""
        tables = (self.values, self.present)
        values, present = (torch.tensor(one.loc[list(ids), list(names)].to_numpy("float32")) for one in tables)
        return values.to(like.device), present.to(like.device)

    def of_crops(self, seg: Tensor, names: Sequence[str], like: Tensor) -> tuple[Tensor, Tensor]:
        """As `of`, of ln V of the mass and the centroid in segmentations of crops (B, 1, I, J, K)."""
        found = dict(zip(OF_CROPS, volume_and_centroid(seg, self.spacing_mm).T, strict=True))
        values = torch.stack([found[name] for name in names], 1)
        present = values.isfinite() & (values > 0)
        mean, std = (torch.tensor([self.normaliser[key][name] for name in names]).to(values) for key in ("mean", "std"))
        scaled = torch.where(present, (values - mean) / std, 0.0)
        return scaled.to(like.device), present.float().to(like.device)
