"""Benefit of generated pairs for segmentation: a small network is trained with and without them.

The network is MONAI's BasicUNet on crops, three of four around a lesion. Both trainings take the same number of steps
from the same initial weights, so a difference in Dice is due to the data.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from monai.losses import DiceCELoss
from monai.networks.nets import BasicUNet
from numpy.typing import NDArray
from torch import Tensor, nn

from neuromf.core.seeds import generator
from neuromf.data.participants import read_table
from neuromf.lesions.pairs import read_pair_volumes
from neuromf.metrics.lesions import average, dice

logger = logging.getLogger(__name__)

FEATURES = (4, 8, 16, 32, 32, 4)  # of BasicUNet: 0.2 M parameters
CROP = 32  # side of crops in voxels, or that of the volume if smaller
BATCH = 2
LR = 1e-2
LESION_WEIGHT = 10.0  # of lesion voxels in the cross-entropy


def compare(
    *, samples: Path, pairs: Path, arm: str, segmentation_steps: int, seeds: Sequence[int], out: Path
) -> pd.DataFrame:
    """Dice on real test pairs after training on real pairs, and on real and generated pairs, written as CSV.

    Arguments:
        samples: Folder of `sample.sample_pairs`.
        pairs: File pairs.tsv of the real pairs.
        arm: Name of the fine-tuned run in the table.
        segmentation_steps: Training steps of the segmentation network.
        seeds: Seeds of weights and batches; one network each, with and without generated pairs.
        out: CSV file.

    Returns:
        segmentation_dice with features real and real+generated: mean over test pairs of the mean over seeds, and of
        each seed; segmentation_gain: mean over test pairs of the difference of the two.
    """
    table = read_table(pairs)
    images, masks = read_pair_volumes(evaluation_pairs(table))
    real = read_pair_volumes(table[table["split"] == "train"])
    both = tuple(map(np.concatenate, zip(real, read_pair_volumes(read_table(samples / "samples.tsv")), strict=True)))
    rows, means = [], {}
    for name, training in (("real", real), ("real+generated", both)):
        dices = []
        for seed in seeds:
            predicted = predict(train(*training, steps=segmentation_steps, seed=seed), images)
            dices.append([float(dice(a, b)) for a, b in zip(predicted, masks, strict=True)])
            logger.info("%s, seed %d: Dice %.3f", name, seed, np.mean(dices[-1]))
            rows.append({**average("segmentation_dice", dices[-1]), "features": f"{name}, seed {seed}"})
        means[name] = np.mean(dices, 0)
        rows.append({**average("segmentation_dice", means[name]), "features": name})
    gain = average("segmentation_gain", means["real+generated"] - means["real"])
    result = pd.DataFrame([*rows, {**gain, "features": f"{len(seeds)} seeds"}]).assign(arm=arm)
    result.to_csv(out, index=False, float_format="%.6g")
    return result


def evaluation_pairs(table: pd.DataFrame) -> pd.DataFrame:
    """Pairs of the test split, or of validation if there are none."""
    for split in ("test", "val"):
        if len(part := table[table["split"] == split]):
            return part
    raise ValueError("no test or validation pair: set lesions.segmentation_steps to 0, or change lesions.split")


def train(images: NDArray, masks: NDArray, *, steps: int, seed: int) -> nn.Module:
    """Network in evaluation mode, trained on pairs (N, I, J, K) with Dice and cross-entropy by AdamW on one cycle."""
    if images.shape != masks.shape or not len(images):
        raise ValueError(f"images and masks must have one shape, N at least 1; got {images.shape} and {masks.shape}")
    pairs = torch.from_numpy(np.stack([images, masks], 1)).float()
    lesions = [torch.nonzero(pair[1] > 0.5) for pair in pairs]
    net, loss = build(seed).train(), DiceCELoss(sigmoid=True, batch=True, weight=torch.tensor([LESION_WEIGHT]))
    optimiser = torch.optim.AdamW(net.parameters(), lr=LR)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LR, total_steps=steps)
    for step in range(steps):
        rng = generator("segmenter", seed, step)
        x = torch.stack([crop(pairs, lesions, rng, around_lesion=(step + k) % 4 > 0) for k in range(BATCH)])
        optimiser.zero_grad()
        loss(net(x[:, :1]), x[:, 1:]).backward()
        optimiser.step()
        schedule.step()
    return net.eval()


def build(seed: int) -> nn.Module:
    """Network with random weights, from images (B, 1, I, J, K) to logits; sides are multiples of 16."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return BasicUNet(spatial_dims=3, in_channels=1, out_channels=1, features=FEATURES, norm="batch")


def crop(pairs: Tensor, lesions: Sequence[Tensor], rng: torch.Generator, *, around_lesion: bool) -> Tensor:
    """Crop (2, i, j, k) of a random pair, around a lesion voxel or anywhere, mirrored with probability 1/2.

    Arguments:
        pairs: Images and masks, shape (N, 2, I, J, K).
        lesions: Lesion voxels of each pair, shape (n, 3).
    """
    draw = lambda n: int(torch.randint(n, (), generator=rng))  # noqa: E731
    number, size = draw(len(pairs)), torch.tensor([min(CROP, n) for n in pairs.shape[2:]])
    last = torch.tensor(pairs.shape[2:]) - size
    if around_lesion and len(lesions[number]):
        first = (lesions[number][draw(len(lesions[number]))] - size // 2).clamp(min=0).minimum(last)
    else:
        first = torch.tensor([draw(int(n) + 1) for n in last])
    window = tuple(slice(int(a), int(a + s)) for a, s in zip(first, size, strict=True))
    cropped = pairs[number][(slice(None), *window)]
    return cropped.flip(1) if draw(2) else cropped


@torch.no_grad()
def predict(net: nn.Module, images: NDArray) -> NDArray:
    """Boolean masks (N, I, J, K) of images."""
    return np.stack([net(torch.from_numpy(image).float()[None, None])[0, 0].numpy() > 0 for image in images])
