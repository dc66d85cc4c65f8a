r"""Local orthonormal bases of latents: overlapping blocks, and the eigenvectors of the covariance in each block.

A latent (C, I, J, K) is cut into P blocks of b^3 positions, D = C b^3 numbers each. Cutting alone leaves seams: samples
of neighbouring blocks are independent. So samples at equal distance from a border are rotated into each other first,
by up to 45 degrees at the border and less with distance (a lapped transform). Each basis function then overlaps the
neighbouring blocks smoothly, and the basis is still orthonormal. Blocks of one position have no borders to smooth.

References:
    Signal Processing with Lapped Transforms (Malvar, 1992)
"""

import math

import torch
from einops import rearrange
from torch import Tensor


def eigenbasis(
    residual: Tensor, block: int = 1, *, shrinkage: float = 0.0, floor: float | Tensor = 0.0
) -> tuple[Tensor, Tensor]:
    """Eigenvalues (C, I, J, K) and eigenvectors (P, D, D), in columns, of the covariance in each block.

    Arguments:
        residual: Centred data, shape (N, C, I, J, K).
        block: Positions of a block along each axis; must divide I, J and K.
        shrinkage: Factor by which covariances between different positions are reduced, in [0, 1].
        floor: Variance to add to each channel, scalar or shape (C,).
    """
    if odd := [n for n in residual.shape[2:] if n % block]:
        raise ValueError(f"blocks of {block} do not divide a latent axis of {odd[0]} positions")
    x = to_blocks(residual, block)
    covariance = torch.stack([part.double() @ part.double().T for part in x]) / len(residual)
    n_positions = block**3
    same = torch.eye(n_positions, dtype=torch.bool).repeat(len(residual[0]), len(residual[0]))
    covariance *= torch.where(same, 1.0, 1 - shrinkage).to(covariance)
    added = torch.as_tensor(floor, dtype=torch.float64).expand(len(residual[0])).repeat_interleave(n_positions)
    covariance.diagonal(dim1=1, dim2=2).add_(added.to(covariance))
    values, vectors = torch.linalg.eigh(covariance)
    values = from_blocks(values.clamp(min=0)[..., None], residual.shape[1:], block, lapped=False)[0]
    return values.to(residual), vectors.to(residual)


def to_eigenbasis(a: Tensor, eigenvectors: Tensor) -> Tensor:
    """Coefficients (B, C, I, J, K) of `a` (B, C, I, J, K) in eigenvectors (P, D, D).

    Channels beyond those of the eigenvectors remain as they are.
    """
    block, channels = _sizes(a, eigenvectors)
    modelled, others = a[:, :channels], a[:, channels:]
    coefficients = eigenvectors.mT @ to_blocks(modelled, block)
    return torch.cat([from_blocks(coefficients, modelled.shape[1:], block, lapped=False), others], dim=1)


def from_eigenbasis(a: Tensor, eigenvectors: Tensor) -> Tensor:
    """Inverse of `to_eigenbasis`."""
    block, channels = _sizes(a, eigenvectors)
    modelled, others = a[:, :channels], a[:, channels:]
    field = eigenvectors @ to_blocks(modelled, block, lapped=False)
    return torch.cat([from_blocks(field, modelled.shape[1:], block), others], dim=1)


def _sizes(a: Tensor, eigenvectors: Tensor) -> tuple[int, int]:
    """Positions of a block along each axis, and channels, of eigenvectors (P, D, D) for latents like `a`."""
    n_positions = a[0, 0].numel() // len(eigenvectors)
    return round(n_positions ** (1 / 3)), eigenvectors.shape[1] // n_positions


def to_blocks(a: Tensor, block: int, *, lapped: bool = True) -> Tensor:
    """Blocks (P, D, B) of latents (B, C, I, J, K), after rotation across their borders if `lapped`."""
    a = rotate_across_borders(a, block) if lapped else a
    return rearrange(a, "b c (i p) (j q) (k s) -> (i j k) (c p q s) b", p=block, q=block, s=block)


def from_blocks(blocks: Tensor, shape: torch.Size, block: int, *, lapped: bool = True) -> Tensor:
    """Inverse of `to_blocks`: latents (B, *shape) of blocks (P, D, B)."""
    c, i, j, k = shape
    sizes = {"c": c, "i": i // block, "j": j // block, "k": k // block, "p": block, "q": block, "s": block}
    a = rearrange(blocks, "(i j k) (c p q s) b -> b c (i p) (j q) (k s)", **sizes)
    return rotate_across_borders(a, block, inverse=True) if lapped else a


def rotate_across_borders(a: Tensor, block: int, *, inverse: bool = False) -> Tensor:
    """Rotate the values at equal distance from each border between blocks into each other, along each axis.

    Arguments:
        a: Latents (B, C, I, J, K).
        block: Positions of a block along each axis; blocks of odd size are not rotated.
        inverse: Rotate back.
    """
    half = block // 2
    if block % 2:
        return a
    for axis in (2, 3, 4) if not inverse else (4, 3, 2):
        inner = a.narrow(axis, half, a.shape[axis] - block).unflatten(axis, (-1, block))
        angle = _angles(block).to(a).view(-1, *[1] * (4 - axis))
        rotated = angle.cos() * inner + (-1 if inverse else 1) * angle.sin() * inner.flip(axis + 1)
        ends = a.narrow(axis, 0, half), a.narrow(axis, a.shape[axis] - half, half)
        a = torch.cat([ends[0], rotated.flatten(axis, axis + 1), ends[1]], dim=axis)
    return a


def _angles(block: int) -> Tensor:
    """Angle of the rotation at each position of a window centred on a border, antisymmetric, shape (block,)."""
    distance = torch.arange(block, dtype=torch.float64) + 0.5 - block / 2
    return -math.pi / 4 * distance.sign() * (1 - 2 * distance.abs() / block)
