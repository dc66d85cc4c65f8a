"""Batches of kernel maps, foci counts and metadata, drawn from the coordinates of the studies.

Maps are computed from the foci on every access, about 1 ms per study at 6 mm, so each access draws its own kernel width
and, for completion, a random half of the foci. A draw depends on its random generator alone.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neuromf.atlas.kernel_maps import Combine, foci_counts, kernel_maps
from neuromf.atlas.studies import Studies
from neuromf.data.brain_grid import BrainGrid


class Batch(NamedTuple):
    """Rows of a batch: maps for the encoder, observed foci for the decoder, and foci to predict.

    image: Kernel maps, (B, 1, I, J, K). own: Kernel maps (B, V) of the foci that the decoder observes; zero where it
    predicts all foci. counts: Foci per voxel to predict, (B, V). target: Kernel maps (B, V) that reconstruction errors
    compare with. m, observed: Metadata (B, d_m) and its mask. kernels: FWHM in mm, (B,). ids: Study ids.
    """

    image: Tensor
    own: Tensor
    counts: Tensor
    target: Tensor
    m: Tensor
    observed: Tensor
    kernels: Tensor
    ids: list[str]


class MapDataModule:
    """Batches of studies on a grid.

    Arguments:
        studies: Studies of one split.
        grid: Brain grid.
        values, observed: Encoded metadata (n, d_m), see `metadata.encode`; values that are not finite count as missing.
        kernels: Kernel widths (FWHM) in mm, drawn per access.
        combine: How kernels combine: "noisy_or", "sum" or "max".
        completion: Fraction of rows that observe a random half of their foci and predict the others.
    """

    def __init__(
        self,
        studies: Studies,
        grid: BrainGrid,
        values: NDArray,
        observed: NDArray,
        *,
        kernels: Sequence[float],
        combine: Combine = "noisy_or",
        completion: float = 0.0,
    ) -> None:
        self.studies, self.grid, self.kernels = studies, grid, tuple(kernels)
        self.combine, self.completion = combine, completion
        finite = np.isfinite(values)
        self.values = torch.from_numpy(np.where(finite, values, 0).astype(np.float32))
        self.observed = torch.from_numpy(observed & finite)

    def __len__(self) -> int:
        return len(self.values)

    def batch(self, rows: Sequence[int] | NDArray, random: torch.Generator) -> Batch:
        """The studies of `rows` with drawn kernels and halves; a study that two epochs share in a batch counts once."""
        rows = np.asarray(list(dict.fromkeys(np.asarray(rows).tolist())))
        taken = self.studies.take(rows)
        drawn = torch.randint(len(self.kernels), (len(rows),), generator=random).numpy()
        halved = torch.rand(len(rows), generator=random).numpy() < self.completion
        first = self._halves(taken, halved, random)
        counts = foci_counts(taken.take_foci(~first | ~halved[taken.study_of_focus]), self.grid).toarray()
        maps = self._maps(taken.take_foci(first), drawn)
        own = np.where(halved[:, None], maps, 0)
        target = maps if not halved.any() else np.where(halved[:, None], self._maps(taken, drawn), maps)
        ids = [str(one) for one in taken.table["id"]]
        check_batch(maps, counts, ids)
        image = torch.from_numpy(self.grid.volume(maps))[:, None]
        own_maps, n_foci, targets = (torch.from_numpy(array.astype(np.float32)) for array in (own, counts, target))
        m, observed = self.values[rows], self.observed[rows]
        return Batch(image, own_maps, n_foci, targets, m, observed, torch.tensor(self.kernels)[drawn], ids)

    def _halves(self, taken: Studies, halved: NDArray, random: torch.Generator) -> NDArray:
        """Foci that the encoder gets, bool (n_foci,): a random half of each study of `halved`, all of the others."""
        first = np.ones(len(taken.points), bool)
        for k in np.flatnonzero(halved):
            n = int(taken.starts[k + 1] - taken.starts[k])
            first[taken.starts[k] + torch.randperm(n, generator=random)[n // 2 :].numpy()] = False
        return first

    def _maps(self, taken: Studies, drawn: NDArray) -> NDArray:
        """Kernel maps (n, V), float32, with the kernel of each row."""
        maps = np.zeros((len(drawn), self.grid.n_voxels), np.float32)
        for k, fwhm_mm in enumerate(self.kernels):
            if (rows := np.flatnonzero(drawn == k)).size:
                maps[rows] = kernel_maps(taken.take(rows), self.grid, fwhm_mm, combine=self.combine, dtype=np.float32)
        return maps


def check_batch(maps: NDArray, counts: NDArray, ids: Sequence[str]) -> None:
    """Raise ValueError that names the studies whose map is not finite or outside [0, 1], or that have no foci."""
    finite = np.isfinite(maps).all(1)
    bounded = (np.nan_to_num(maps).min(1) >= 0) & (np.nan_to_num(maps).max(1) <= 1 + 1e-6)
    for valid, what in ((finite, "not finite"), (bounded, "outside [0, 1]")):
        if not valid.all():
            raise ValueError(f"kernel maps are {what} for studies {[ids[k] for k in np.flatnonzero(~valid).tolist()]}")
    if not (counts.sum(1) > 0).all():
        raise ValueError(
            f"no foci in the mask: studies {[ids[k] for k in np.flatnonzero(counts.sum(1) == 0).tolist()]}"
        )
