"""Named partition of the latent vector: contiguous index ranges that tile [0, d) without gaps."""

from collections.abc import Mapping
from itertools import pairwise

from neuromf.data.semantic_features import LOCATION, SHAPE

RESIDUAL = "residual"
TARGETS = {"vol": ["log_volume_mass"], "loc": LOCATION, "shape": SHAPE}  # features that supervise a partition


class Partition(dict[str, slice]):
    """Slice of the latent vector by name.

    Arguments:
        ranges: First and last index + 1 of every name.
        z_dim: Latent dimensions d.

    Raises:
        ValueError: If the ranges, in their order, do not tile [0, d).
    """

    def __init__(self, ranges: Mapping[str, tuple[int, int]], z_dim: int) -> None:
        edges = [0, *(stop for _, stop in ranges.values())]
        tiles = [tuple(span) for span in ranges.values()] == [*pairwise(edges)] and edges[-1] == z_dim
        if not tiles or any(start >= stop for start, stop in pairwise(edges)):
            raise ValueError(f"model.partition must tile [0, {z_dim}) without gaps; got {dict(ranges)}")
        super().__init__({name: slice(*span) for name, span in ranges.items()})

    @classmethod
    def of_widths(cls, widths: Mapping[str, int], z_dim: int) -> "Partition":
        """Partition of supervised dimensions by their widths, in order; all other dimensions are the residual.

        Raises:
            ValueError: If a name has no targets, or no dimension is left for the residual.
        """
        if unknown := widths.keys() - TARGETS.keys():
            raise ValueError(f"model.partition names {sorted(unknown)}; allowed are {', '.join(TARGETS)}")
        ranges, start = {}, 0
        for name, width in {**widths, RESIDUAL: z_dim - sum(widths.values())}.items():
            ranges[name], start = (start, start + width), start + width
        return cls(ranges, z_dim)

    @property
    def supervised(self) -> list[str]:
        """Names with targets."""
        return [name for name in self if name in TARGETS]

    def ranges(self) -> dict[str, list[int]]:
        """First and last index + 1 by name, for JSON."""
        return {name: [span.start, span.stop] for name, span in self.items()}
