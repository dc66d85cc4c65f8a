"""What several measurements of one data set need, computed once: splits, kernel maps, classical models, components."""

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from neuromf.atlas import baselines
from neuromf.atlas.baselines import Baselines
from neuromf.atlas.kernel_maps import kernel_maps
from neuromf.atlas.rates import FWHM_MM
from neuromf.atlas.studies import SPLITS, Studies
from neuromf.data.brain_grid import BrainGrid

if TYPE_CHECKING:
    from sklearn.decomposition import PCA

PCA_BASELINE = 32  # components of the row that a model is compared with


@dataclass(frozen=True)
class Prepared:
    """All studies on a grid; every property is computed at its first use."""

    studies: Studies
    grid: BrainGrid

    @functools.cached_property
    def split(self) -> dict[str, Studies]:
        """Studies by split."""
        return {name: self.studies.take(self.studies.rows(name)) for name in SPLITS}

    @functools.cached_property
    def fitted(self) -> Baselines:
        """Classical models of the training studies."""
        return baselines.fit(self.split["train"], self.grid)

    @functools.cached_property
    def maps(self) -> dict[str, NDArray[np.float32]]:
        """Kernel maps (n, V) by split."""
        return {name: kernel_maps(part, self.grid, FWHM_MM, dtype=np.float32) for name, part in self.split.items()}

    @functools.cached_property
    def pca(self) -> "PCA":
        """32 principal components of the training maps."""
        return baselines.fit_pca(self.maps["train"], PCA_BASELINE)

    @functools.cached_property
    def pca_latents(self) -> dict[str, NDArray]:
        """Latents of training and test maps by `pca`, (n, 32)."""
        return {name: self.pca.transform(self.maps[name]) for name in ("train", "test")}
