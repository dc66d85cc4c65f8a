"""Embeddings of times and of voxel positions.

Times enter raw, in [0, 1]. Multiplied by 1000, as in diffusion code, the phases of the sinusoids turn a thousand
radians along the path and dominate du/dt: one-step generation fails although the losses look normal.
"""

import math

import torch
from torch import Tensor, nn

CONDITIONINGS = {  # scalars that a network is conditioned on, from t and r
    "t-h": lambda t, r: (t, t - r),
    "t-r": lambda t, r: (t, r),
    "h": lambda t, r: (t - r,),
}
N_POSITIONS = 21  # channels of `positions`


class TimeEmbedding(nn.Module):
    """Sinusoids of a raw time, then a two-layer SiLU network: (B,) to (B, width)."""

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
    """Embedding of the interval length h minus its value at h = 0; zero at initialisation.

    Flow matching (h = 0) does not train it, so u(z, t, r) does not depend on r when the intervals open. A plain
    embedding trained at h = 0 alone would be arbitrary elsewhere.
    """

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.layers[-1] = last = nn.Linear(width, width, bias=False)
        nn.init.zeros_(last.weight)

    def forward(self, t: Tensor) -> Tensor:
        return super().forward(t) - super().forward(torch.zeros_like(t))


class Conditioning(nn.Module):
    """Sum of one embedding per scalar of `CONDITIONINGS[name]`: times (B,), (B,) to (B, width).

    Arguments:
        width: Embedding width.
        name: Key of `CONDITIONINGS`.
        flow_first: Whether training starts with r = t alone; h then gets an `IntervalEmbedding`.
    """

    def __init__(self, width: int, name: str = "t-h", *, flow_first: bool = False) -> None:
        super().__init__()
        if name not in CONDITIONINGS:
            raise ValueError(f"conditioning must be one of {', '.join(CONDITIONINGS)}; got {name!r}")
        self.name = name
        second = IntervalEmbedding if flow_first and name == "t-h" else TimeEmbedding
        self.embeddings = nn.ModuleList([TimeEmbedding(width), *(second(width) for _ in name.split("-")[1:])])

    def forward(self, t: Tensor, r: Tensor) -> Tensor:
        scalars = CONDITIONINGS[self.name](t, r)
        return sum(embedding(scalar) for embedding, scalar in zip(self.embeddings, scalars, strict=True))


def positions(shape: tuple[int, ...], octaves: int = 3) -> Tensor:
    """Voxel coordinates in [-1, 1] and their sinusoids, shape (3 + 6 * octaves, I, J, K).

    Brains are aligned, so latents depend on the position, which a convolution alone cannot represent.
    """
    axes = torch.meshgrid(*((2 * torch.arange(n) + 1) / n - 1 for n in shape), indexing="ij")
    coordinates = torch.stack(axes)
    waves = [wave(math.pi * 2**k * coordinates / 2) for k in range(octaves) for wave in (torch.sin, torch.cos)]
    return torch.cat([coordinates, *waves])
