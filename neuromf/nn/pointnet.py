"""Networks on point sets: Gaussian random Fourier features and PointNet++ set abstraction, with masks for padding.

Points have shape (B, N, 3) in mm; masks (B, N) are True for real points. Every operation depends on the set of real
points alone: their order, and the number and place of padding points, change nothing. There is no normalisation over
points or batches. Everything is float32: with half precision, distances between points in mm lose their last digits.

References:
    Fourier features let networks learn high frequency functions in low dimensional domains (Tancik et al., 2020),
    arXiv:2006.10739
    PointNet++: deep hierarchical feature learning on point sets in a metric space (Qi et al., 2017), arXiv:1706.02413
    A linear optimal transportation framework for quantifying and visualizing variations in sets of images (Wang et al.,
    2013), International Journal of Computer Vision
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

TIE_BREAK = (0.6180340, 0.4142136, 0.7320508)  # direction that orders points at equal distances
FAR = 1e9  # mm


def check_float32(points: Tensor) -> None:
    """Raise ValueError unless points are float32."""
    if points.dtype != torch.float32:
        raise ValueError(f"points must be float32, also under autocast; got {points.dtype}")


class FourierFeatures(nn.Module):
    """cos(2 pi B x) and sin(2 pi B x) of points x, with rows of B drawn once from N(0, bandwidth^2 I).

    The expected product of the features of two points is the Gaussian kernel
    exp(-2 pi^2 bandwidth^2 |x - y|^2), in every direction alike.

    Arguments:
        n_frequencies: Number of rows of B.
        bandwidth: Standard deviation of B in 1/mm. Features of points closer than about 1 / (2 pi bandwidth) are alike.
        seed: Seed of B.
    """

    frequencies: Tensor

    def __init__(self, n_frequencies: int = 32, bandwidth: float = 0.01, seed: int = 0) -> None:
        super().__init__()
        drawn = torch.randn(3, n_frequencies, generator=torch.Generator().manual_seed(seed))
        self.register_buffer("frequencies", bandwidth * drawn)

    def forward(self, points: Tensor) -> Tensor:
        angles = 2 * math.pi * points @ self.frequencies
        return torch.cat([angles.cos(), angles.sin()], dim=-1)


def pairwise_distances(a: Tensor, b: Tensor) -> Tensor:
    """Distances between points (B, N, 3) and (B, M, 3), shape (B, N, M); exact for equal points, unlike torch.cdist."""
    return (a[:, :, None] - b[:, None]).square().sum(-1).clamp(min=1e-12).sqrt()


def farthest_points(points: Tensor, mask: Tensor, n: int) -> Tensor:
    """Indices (B, n) of points far from each other: each next one is the farthest from those before.

    The first point, and the choice among equally far ones, follow TIE_BREAK, not the order of the points. A set of
    fewer than n different points repeats points. Padding is never chosen.
    """
    rank = points @ points.new_tensor(TIE_BREAK)
    rank = torch.where(mask, rank, torch.full_like(rank, -FAR))
    distances = pairwise_distances(points, points)
    chosen = [rank.argmax(1)]
    nearest = torch.full_like(rank, FAR)
    for _ in range(n - 1):
        row = chosen[-1][:, None, None].expand(-1, 1, points.shape[1])
        nearest = torch.minimum(nearest, distances.gather(1, row)[:, 0])
        reach = torch.where(mask, nearest, torch.full_like(nearest, -1.0))
        farthest = reach >= reach.max(1, keepdim=True).values
        chosen.append(torch.where(farthest, rank, torch.full_like(rank, -2 * FAR)).argmax(1))
    return torch.stack(chosen, dim=1)


def pointwise_mlp(widths: Sequence[int]) -> nn.Sequential:
    """Linear, LayerNorm and SiLU for each pair of widths, on the last axis."""
    layers = ([nn.Linear(a, b), nn.LayerNorm(b), nn.SiLU()] for a, b in zip(widths, widths[1:], strict=False))
    return nn.Sequential(*(layer for three in layers for layer in three))


class SetAbstraction(nn.Module):
    """One level of PointNet++: centres by farthest point sampling, balls around them, a shared MLP, maximum pooling.

    The first layer acts on features and offsets from the centre, in radii; it is the sum of a layer on each, so that
    features pass it once per point, not once per ball. LayerNorm follows the pooling.

    Arguments:
        n_centres: Number of centres.
        radius_mm: Radius of the balls.
        in_channels: Features per point.
        hidden, out_channels: Widths of the MLP.
    """

    def __init__(self, n_centres: int, radius_mm: float, in_channels: int, hidden: int, out_channels: int) -> None:
        super().__init__()
        self.n_centres, self.radius_mm = n_centres, radius_mm
        self.of_features, self.of_offsets = nn.Linear(in_channels, hidden), nn.Linear(3, hidden, bias=False)
        self.second = nn.Linear(hidden, out_channels)
        self.normalise = nn.Sequential(nn.LayerNorm(out_channels), nn.SiLU())

    def forward(self, points: Tensor, features: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Centres (B, S, 3) and their features (B, S, F) of points (B, N, 3) with features (B, N, C)."""
        chosen = farthest_points(points, mask, self.n_centres)
        centres = points.gather(1, chosen[..., None].expand(-1, -1, 3))
        offsets = (points[:, None] - centres[:, :, None]) / self.radius_mm
        inside = (offsets.square().sum(-1) <= 1) & mask[:, None]
        hidden = nn.functional.silu(self.of_offsets(offsets) + self.of_features(features)[:, None])
        pooled = self.second(hidden).masked_fill(~inside[..., None], -FAR).amax(2)
        return centres, self.normalise(pooled)


class PointNetEncoder(nn.Module):
    """Global feature (B, width) of point sets: Fourier features, two set abstractions, maximum over the last centres.

    Arguments:
        n_frequencies, bandwidth, seed: See `FourierFeatures`.
        centres: Number of centres of both levels.
        radii_mm: Radius of their balls.
        width: Width of the global feature.
    """

    def __init__(
        self,
        *,
        n_frequencies: int = 64,
        bandwidth: float = 0.01,
        seed: int = 0,
        centres: Sequence[int] = (16, 4),
        radii_mm: Sequence[float] = (25.0, 60.0),
        width: int = 128,
    ) -> None:
        super().__init__()
        self.fourier = FourierFeatures(n_frequencies, bandwidth, seed)
        half, n_features = width // 2, 2 * n_frequencies
        self.first = SetAbstraction(centres[0], radii_mm[0], n_features, half // 2, half)
        self.second = SetAbstraction(centres[1], radii_mm[1], half + n_features, width, width)
        self.last = pointwise_mlp([width + n_features, width])

    def forward(self, points: Tensor, mask: Tensor) -> Tensor:
        check_float32(points)
        if not mask.any(1).all():
            raise ValueError(f"sets {(~mask.any(1)).nonzero().flatten().tolist()} of the batch have no points")
        points = torch.where(mask[..., None], points, torch.zeros_like(points))
        centres, features = self.first(points, self.fourier(points), mask)
        valid = torch.ones_like(centres[..., 0], dtype=torch.bool)
        centres, features = self.second(centres, torch.cat([features, self.fourier(centres)], -1), valid)
        return self.last(torch.cat([features, self.fourier(centres)], -1)).amax(1)


@torch.no_grad()
def transport_embedding(
    points: Tensor, mask: Tensor, template: Tensor, blur_mm: float = 8.0, n_iterations: int = 20
) -> Tensor:
    """Points (B, K, 3) to which optimal transport with entropy moves the points of a template (K, 3); no gradient.

    Each template point gets the mean of the points (B, N, 3) of its transport plan: sets get an order, and sets of any
    size become vectors of one length (linear optimal transport embedding). Template points, and the points of the mask,
    have equal weights.
    """
    log_kernel = -(points[:, :, None] - template).square().sum(-1) / (2 * blur_mm**2)
    log_kernel = log_kernel.masked_fill(~mask[..., None], -FAR)
    log_mass = math.log(len(template)) - mask.sum(1).float().log()  # of a point, relative to a template point
    g = torch.zeros_like(log_kernel[:, 0])
    for _ in range(n_iterations):
        f = log_mass[:, None] - torch.logsumexp(log_kernel + g[:, None], 2)
        f = f.masked_fill(~mask, -FAR)
        g = -torch.logsumexp(log_kernel + f[..., None], 1)
    plan = (log_kernel + f[..., None] + g[:, None]).exp()  # columns sum to 1
    return plan.transpose(1, 2) @ torch.where(mask[..., None], points, torch.zeros_like(points))
