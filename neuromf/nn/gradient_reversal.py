"""Gradient reversal: identity forward, gradient times -strength backward.

Reference:
    Domain-adversarial training of neural networks (Ganin et al., 2016), arXiv:1505.07818
"""

from typing import Any

import torch
from torch import Tensor


class _Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, strength: float) -> Tensor:  # noqa: ANN401  # the context of autograd
        ctx.strength = strength
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        return -ctx.strength * gradients[0], None


def reverse_gradient(x: Tensor, strength: float) -> Tensor:
    """x, whose gradient is multiplied by -`strength`."""
    return _Reverse.apply(x, strength)
