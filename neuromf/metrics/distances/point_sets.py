"""Distances between point sets in mm: Chamfer distance, and the earth mover's distance by Sinkhorn's algorithm.

Sets have shape (B, N, 3) and (B, M, 3); masks are True for points that count, which have equal weights. Distances are
float32 and differentiable.

References:
    A point set generation network for 3D object reconstruction from a single image (Fan et al., 2017), arXiv:1612.00603
    Interpolating between optimal transport and MMD using Sinkhorn divergences (Feydy et al., 2019), arXiv:1810.08278
"""

import functools
from typing import Any

import torch
from torch import Tensor

BLUR_MM = 2.0
DIAMETER_MM = 300.0  # above the largest distance in a brain; that of the batch would make a value depend on its batch
FAST, ACCURATE = 0.5, 0.9  # ratio of successive blurs of the annealing: for training, and for reported values
EXCLUDED = 1e12  # squared distance of points that do not count


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Squared distances (..., N, M) of points (..., N, 3) and (..., M, 3).

    Raises:
        ValueError: If points are not float32.
    """
    for points in (a, b):
        if points.dtype != torch.float32:
            raise ValueError(f"point sets must be float32; got {points.dtype}")
    return (a[..., :, None, :] - b[..., None, :, :]).square().sum(-1)


def chamfer(
    a: Tensor, b: Tensor, mask_a: Tensor | None = None, mask_b: Tensor | None = None, *, squared: bool = True
) -> Tensor:
    """mean_a min_b |a - b|^2 + mean_b min_a |a - b|^2 of each pair of sets, shape (B,), in mm^2.

    Arguments:
        a, b: Points in mm.
        mask_a, mask_b: Points that count; None: all.
        squared: False for |a - b|, in mm.
    """
    distances = squared_distances(a, b)
    if mask_a is not None:
        distances = distances.masked_fill(~mask_a[..., :, None], EXCLUDED)
    if mask_b is not None:
        distances = distances.masked_fill(~mask_b[..., None, :], EXCLUDED)
    to_b, to_a = distances.amin(-1), distances.amin(-2)
    if not squared:
        to_b, to_a = (to_b + 1e-12).sqrt(), (to_a + 1e-12).sqrt()
    return _masked_mean(to_b, mask_a) + _masked_mean(to_a, mask_b)


def _masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return values.mean(-1)
    return (values * mask).sum(-1) / mask.sum(-1)


def sinkhorn(
    a: Tensor,
    b: Tensor,
    mask_a: Tensor | None = None,
    mask_b: Tensor | None = None,
    *,
    blur_mm: float = BLUR_MM,
    scaling: float = FAST,
) -> Tensor:
    """Sinkhorn divergence of order 1 of each pair of sets, shape (B,), in mm; 0 for equal sets.

    It is the earth mover's distance up to a few percent: 8 % less with FAST, 2 % less with ACCURATE at blur 0.5 mm.
    """
    squared_distances(a[:, :1], b[:, :1])  # refuses other types than float32
    return _loss(blur_mm, scaling)(_weights(a, mask_a), a.contiguous(), _weights(b, mask_b), b.contiguous())


def _weights(points: Tensor, mask: Tensor | None) -> Tensor:
    weights = torch.ones_like(points[..., 0]) if mask is None else mask.to(points)
    return weights / weights.sum(-1, keepdim=True)


@functools.cache
def _loss(blur_mm: float, scaling: float) -> Any:  # noqa: ANN401  # a module of geomloss
    try:
        from geomloss import SamplesLoss
    except ImportError as error:
        raise ImportError(f"{error}; Sinkhorn distances need it: pip install 'neuromf[atlas]'") from error
    return SamplesLoss("sinkhorn", p=1, blur=blur_mm, scaling=scaling, diameter=DIAMETER_MM, backend="tensorized")
