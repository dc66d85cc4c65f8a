"""The average velocity as a network u(z, t, r): a 3D UNet for latents, an MLP for the torus, and their EMA.

Times enter RAW, in [0, 1]: multiplied by 1000, as diffusion code does, the sinusoids turn a thousand radians
over the path, du/dt drowns in their phase and one-step generation dies while the losses look normal.
The network is told t and h = t - r, each by an embedding of its own, summed.

A network predicts either u itself or the data x; `MeanVelocityNet` turns the latter into u = (z - x) / max(t, T_MIN).
"""

import math

import torch
from torch import Tensor, nn

CONDITIONINGS = {  # what a network is told of an interval, from its times t and r: two numbers or one
    "t-h": lambda t, r: (t, t - r),
    "t-r": lambda t, r: (t, r),
    "h": lambda t, r: (t - r,),
}
N_POSITIONS = 21  # channels of `positions`


class TimeEmbedding(nn.Module):
    """Sinusoids of a raw time in [0, 1] through a two-layer SiLU network: (B,) to (B, width)."""

    rates: Tensor

    def __init__(self, width: int, n_sinusoids: int = 64, max_period: float = 10_000.0) -> None:
        super().__init__()
        half = n_sinusoids // 2
        self.register_buffer("rates", torch.exp(-math.log(max_period) * torch.arange(half) / half), persistent=False)
        self.layers = nn.Sequential(nn.Linear(2 * half, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor) -> Tensor:
        angles = t[:, None] * self.rates
        return self.layers(torch.cat([angles.cos(), angles.sin()], dim=1))


class IntervalEmbedding(TimeEmbedding):
    """The same of h = t - r, as what it adds to h = 0; at first nothing.

    Flow matching alone (r = t) thus leaves it as it is, and when intervals open u(z, t, r) does not depend on r yet.
    Trained at h = 0 alone, an embedding is whatever it happens to be elsewhere.
    """

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.layers[-1] = last = nn.Linear(width, width, bias=False)
        nn.init.zeros_(last.weight)

    def forward(self, t: Tensor) -> Tensor:
        return super().forward(t) - super().forward(torch.zeros_like(t))


class Conditioning(nn.Module):
    """Times (B,), (B,) to (B, width): the sum of one embedding for each number of `CONDITIONINGS[name]`.

    Arguments:
        width: Of an embedding.
        name: Which numbers of the interval are told.
        flow_first: Whether training starts with r = t alone, so that h is best told by a `IntervalEmbedding`.
    """

    def __init__(self, width: int, name: str = "t-h", *, flow_first: bool = False) -> None:
        super().__init__()
        if name not in CONDITIONINGS:
            raise ValueError(f"conditioning must be one of {', '.join(CONDITIONINGS)}; got {name!r}")
        self.name = name
        gap = IntervalEmbedding if flow_first and name == "t-h" else TimeEmbedding
        self.embeddings = nn.ModuleList([TimeEmbedding(width), *(gap(width) for _ in name.split("-")[1:])])

    def forward(self, t: Tensor, r: Tensor) -> Tensor:
        told = CONDITIONINGS[self.name](t, r)
        return sum(embedding(number) for embedding, number in zip(self.embeddings, told, strict=True))


def positions(shape: tuple[int, ...], octaves: int = 3) -> Tensor:
    """Where each voxel of a grid lies: its coordinates in [-1, 1] and their sinusoids, (3 + 6 * octaves, I, J, K).

    Heads are aligned, so where a voxel lies says much of what it holds; a convolution alone cannot know.
    """
    axes = torch.meshgrid(*((2 * torch.arange(n) + 1) / n - 1 for n in shape), indexing="ij")
    where = torch.stack(axes)
    waves = [wave(math.pi * 2**k * where / 2) for k in range(octaves) for wave in (torch.sin, torch.cos)]
    return torch.cat([where, *waves])
