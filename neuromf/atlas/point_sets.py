"""Foci of studies as point sets of one size, with a mask of the foci that are originals."""

import numpy as np
from numpy.typing import NDArray

from neuromf.atlas.studies import Studies
from neuromf.core.seeds import generator

N_POINTS = 30


def normalise_points(
    foci: NDArray[np.float32], random: np.random.Generator, n: int = N_POINTS
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Exactly n points (n, 3) of foci (k, 3), in random order, and a mask (n,) of the originals.

    Fewer foci: all originals, and copies of random ones, which the mask excludes. More: a random selection.

    Raises:
        ValueError: If there are no foci.
    """
    if not len(foci):
        raise ValueError("a point set needs at least one focus; got none")
    order = random.permutation(len(foci))[:n]
    copies = random.integers(len(foci), size=n - len(order))
    chosen, mask = np.concatenate([order, copies]), np.arange(n) < len(order)
    shuffled = random.permutation(n)
    return foci[chosen[shuffled]].astype(np.float32), mask[shuffled]


def point_sets(
    studies: Studies, n: int = N_POINTS, seed: int = 0, access: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Point sets (n_studies, n, 3) in mm and masks (n_studies, n) of all studies.

    The draw of a study depends on its id, the seed and the number of the access alone.
    """
    sets = [normalise_points(studies.foci(k), study_random(str(name), seed, access), n)
            for k, name in enumerate(studies.table["id"])]  # fmt: skip
    points, masks = zip(*sets, strict=True)
    return np.stack(points), np.stack(masks)


def study_random(name: str, seed: int, access: int = 0) -> np.random.Generator:
    """Random generator of one study."""
    return np.random.default_rng(generator("points", name, seed, access).initial_seed())
