"""A small segmentation network for one question: do generated pairs help it to find real lesions?

MONAI's BasicUNet on crops, three of four around a lesion. With and without generated pairs it takes equally many steps
from the same weights, so a difference is one of data.
"""

import logging
from collections.abc import Sequence

import numpy as np
import torch
from monai.losses import DiceCELoss
from monai.networks.nets import BasicUNet
from numpy.typing import NDArray
from torch import Tensor, nn

from neuromf.core.seeds import generator
from neuromf.metrics.lesions import as_masks, average, dices

logger = logging.getLogger(__name__)

FEATURES = (4, 8, 16, 32, 32, 4)  # of BasicUNet: 0.2 M parameters
CROP = 32  # side of crops in voxels, where the volume has so many
BATCH = 2
LR = 1e-2
WEIGHT = 10.0  # of voxels in a lesion, which are few, in the cross-entropy


def build(seed: int) -> nn.Module:
    """The network with fresh weights: an image (B, 1, I, J, K), sides multiples of 16, to logits of that shape."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return BasicUNet(spatial_dims=3, in_channels=1, out_channels=1, features=FEATURES, norm="batch")


def train(images: NDArray, masks: NDArray, *, steps: int, seed: int) -> nn.Module:
    """A network trained on pairs (N, I, J, K): Dice and cross-entropy, AdamW on one cycle, in evaluation mode."""
    if images.shape != masks.shape or not len(images):
        raise ValueError(f"images and masks must have one shape, N at least 1; got {images.shape} and {masks.shape}")
    pairs = torch.from_numpy(np.stack([images, masks], 1)).float()
    places = [torch.nonzero(pair[1] > 0.5) for pair in pairs]
    net, loss = build(seed).train(), DiceCELoss(sigmoid=True, batch=True, weight=torch.tensor([WEIGHT]))
    optimiser = torch.optim.AdamW(net.parameters(), lr=LR)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LR, total_steps=steps)
    for step in range(steps):
        chance = generator("segmenter", seed, step)
        x = torch.stack([crop(pairs, places, chance, lesion=(step + k) % 4 > 0) for k in range(BATCH)])
        optimiser.zero_grad()
        loss(net(x[:, :1]), x[:, 1:]).backward()
        optimiser.step()
        schedule.step()
    return net.eval()


def crop(pairs: Tensor, places: Sequence[Tensor], chance: torch.Generator, *, lesion: bool) -> Tensor:
    """A crop (2, i, j, k) of one of the pairs, mirrored half of the time, around a voxel of its lesion or anywhere."""
    pick = lambda n: int(torch.randint(n, (), generator=chance))  # noqa: E731
    number, size = pick(len(pairs)), torch.tensor([min(CROP, n) for n in pairs.shape[2:]])
    room = torch.tensor(pairs.shape[2:]) - size
    if lesion and len(places[number]):
        first = (places[number][pick(len(places[number]))] - size // 2).clamp(min=0).minimum(room)
    else:
        first = torch.tensor([pick(int(n) + 1) for n in room])
    cut = tuple(slice(int(a), int(a + s)) for a, s in zip(first, size, strict=True))
    found = pairs[number][(slice(None), *cut)]
    return found.flip(1) if pick(2) else found


@torch.no_grad()
def predict(net: nn.Module, images: NDArray) -> NDArray:
    """Masks (N, I, J, K) of images, one at a time."""
    return np.stack([net(torch.from_numpy(one).float()[None, None])[0, 0].numpy() > 0 for one in images])


def compare(
    real: tuple[NDArray, NDArray],
    generated: tuple[NDArray, NDArray],
    held: tuple[NDArray, NDArray],
    *,
    steps: int,
    seeds: Sequence[int],
) -> list[dict]:
    """Does training on generated pairs too help on held-out real ones: rows of Dice, as those of `metrics/table.py`.

    Arguments:
        real, generated, held: Images and masks (N, I, J, K); generated ones without a lesion count too.
        steps: Of training, the same with and without generated pairs.
        seeds: Of weights and batches; one network each, with and without.

    Returns:
        segmentation_dice with features real and real+generated: mean over held-out people (their number is n) of the
        mean over seeds, then of each seed; segmentation_gain, the difference of the two, person by person.
    """
    both = tuple(np.concatenate(parts) for parts in zip(real, generated, strict=True))
    truth, rows, means = as_masks(held[1], "held-out masks"), [], {}
    for name, pairs in (("real", real), ("real+generated", both)):
        scores = []
        for seed in seeds:
            found = predict(train(*pairs, steps=steps, seed=seed), held[0])
            scores.append([float(dices(a, b[None])[0]) for a, b in zip(found, truth, strict=True)])
            logger.info("%s, seed %d: Dice %.3f", name, seed, np.mean(scores[-1]))
            rows.append({**average("segmentation_dice", np.array(scores[-1])), "features": f"{name}, seed {seed}"})
        means[name] = np.mean(scores, 0)
        rows.append({**average("segmentation_dice", means[name]), "features": name})
    gain = average("segmentation_gain", means["real+generated"] - means["real"])
    return [*rows, {**gain, "features": f"{len(seeds)} seeds"}]
