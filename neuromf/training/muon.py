r"""Muon: momentum updates of matrices, replaced by the nearest semi-orthogonal matrix; AdamW for all other parameters.

For a momentum matrix M = U S V^T the update is U V^T, computed by Newton-Schulz iterations, times
sqrt(max(1, rows / columns)). The weight of a convolution is the matrix of its output channels by all else.

References:
    Muon: An optimizer for hidden layers in neural networks (Jordan et al., 2024), kellerjordan.github.io/posts/muon
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic iteration that converges fastest near 0
ITERATIONS = 5


class Muon(torch.optim.AdamW):
    """AdamW in which the parameters of groups with `momentum` are updated by Muon.

    Arguments:
        hidden: Parameters with two or more dimensions, for Muon.
        others: All other parameters, for AdamW.
        lr: Learning rate of Muon.
        adamw_lr: Learning rate of AdamW.
        momentum: Momentum of Muon (Nesterov).
        adamw: Further arguments of `torch.optim.AdamW`; its weight decay applies to both.
    """

    def __init__(
        self,
        hidden: Iterable[nn.Parameter],
        others: Iterable[nn.Parameter],
        *,
        lr: float,
        adamw_lr: float,
        momentum: float = 0.95,
        **adamw: Any,
    ) -> None:
        groups = [{"params": list(hidden), "lr": lr, "momentum": momentum}, {"params": list(others), "lr": adamw_lr}]
        super().__init__([group for group in groups if group["params"]], **adamw)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]  # noqa: ANN401
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"] if "momentum" in group else ():
                if parameter.grad is not None:
                    self._update(parameter, group)
                    parameter.grad = None  # AdamW leaves out parameters without gradient
        super().step()
        return loss

    def _update(self, parameter: nn.Parameter, group: dict) -> None:
        """One update of a hidden parameter, in place."""
        gradient = parameter.grad
        assert gradient is not None
        state = self.state[parameter]
        state.setdefault("step", torch.zeros(()))  # AdamW looks for it when a state is loaded
        average = state.setdefault("average", torch.zeros_like(parameter))
        average.lerp_(gradient, 1 - group["momentum"])
        update = orthogonalise(gradient.lerp(average, group["momentum"]).flatten(1))
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(update.view_as(parameter), alpha=-group["lr"] * max(1, len(update) / update.shape[1]) ** 0.5)


def orthogonalise(matrix: Tensor) -> Tensor:
    """Approximately U V^T for a matrix U S V^T: singular values between 0.7 and 1.2, except those near 0.

    Float32 matrices are iterated in bfloat16, whose rounding is small against this spread.
    """
    a, b, c = COEFFICIENTS
    x = matrix.mT if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / x.norm().clamp(min=1e-7)
    x = x.bfloat16() if x.dtype == torch.float32 else x
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if matrix.shape[0] > matrix.shape[1] else x).to(matrix)


def split_hidden(named: Iterable[tuple[str, nn.Parameter]], first_and_last: Sequence[str]) -> tuple[list, list]:
    """Trainable parameters for Muon and for AdamW.

    Arguments:
        named: Parameters with their names.
        first_and_last: Parts of names that go to AdamW: first and last layers, embeddings.
    """
    hidden: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in named:
        if parameter.requires_grad:
            matrix = parameter.ndim >= 2 and not any(part in name for part in first_and_last)
            (hidden if matrix else others).append(parameter)
    return hidden, others
