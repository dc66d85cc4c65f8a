"""Random projection of a long vector to n features.

References:
    Feature Hashing for Large Scale Multitask Learning (Weinberger et al., 2009), arXiv:0902.2206
"""

import numpy as np
import torch
from torch import Tensor


class FeatureHashing:
    """Sums of values with random signs: n features from a vector of any length.

    Each value is added to one random feature with a random sign. Squared distances between vectors are preserved up to
    the factor n / size, in all directions alike; principal axes fitted to real scans would miss artefacts that real
    scans never show.

    Arguments:
        size: Length of the vectors.
        n: Number of features.
        seed: Seed of the random features and signs.
    """

    def __init__(self, size: int, *, n: int, seed: int) -> None:
        if n < 1:
            raise ValueError(f"n, the number of features, must be at least 1; got {n}")
        rng = np.random.default_rng(seed)
        self.n, self.bucket = n, torch.from_numpy(rng.integers(n, size=size))
        self.sign = torch.from_numpy(rng.choice([-1.0, 1.0], size)).float() * (n / size) ** 0.5

    def __call__(self, values: Tensor) -> Tensor:
        """Features (n,) of a vector (size,)."""
        return values.new_zeros(self.n).index_add(0, self.bucket, values * self.sign)
