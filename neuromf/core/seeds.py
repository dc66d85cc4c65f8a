"""Random generators with seeds that depend only on what is drawn, not on batch, worker or device."""

import numpy as np
import torch
from torch import Tensor


def generator(*key: int | str) -> torch.Generator:
    """A CPU generator seeded by a key such as ("noise", seed, step): equal keys draw equal numbers."""
    words = [byte for part in key for byte in (part.encode() if isinstance(part, str) else part.to_bytes(8, "little"))]
    return torch.Generator().manual_seed(
        int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> np.uint64(1))
    )


def noise(seed: int, numbers: list[int], shape: tuple[int, ...]) -> Tensor:
    """Standard normal noise, shape (len(numbers), *shape): sample k of a seed is the same in any batch."""
    return torch.stack([torch.randn(shape, generator=generator("sample", seed, k)) for k in numbers])
