"""Nearest neighbours between sets of volumes: has the model copied a head it was trained on?

Features have shape (N, F), one row per volume; distances are Euclidean, in the features' unit.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neuromf.metrics.frechet import as_features
from neuromf.metrics.spectral import as_volumes


def pooled(volumes: ArrayLike, factor: int) -> NDArray:
    """Block means of each volume in one row, features for distances in image space.

    Arguments:
        volumes: Volumes in [0, 1], with shape (N, I, J, K).
        factor: Side of a block in voxels; it must divide I, J and K.

    Returns:
        Means with shape (N, I J K / factor³), float64.
    """
    volumes = as_volumes(volumes)
    n, *shape = volumes.shape
    if factor < 1 or any(side % factor for side in shape):
        raise ValueError(f"factor must divide the shape {tuple(shape)}; got {factor}: crop or pad the volumes")
    i, j, k = (side // factor for side in shape)
    blocks = volumes.reshape(n, i, factor, j, factor, k, factor)
    return blocks.mean(axis=(2, 4, 6), dtype=np.float64).reshape(n, -1)


def nearest(query: ArrayLike, reference: ArrayLike, block: int = 256) -> tuple[NDArray, NDArray]:
    """The closest reference to each query.

    Arguments:
        query: Features with shape (N, F).
        reference: Features with shape (M, F).
        block: Queries compared at once; memory grows with block x M.

    Returns:
        Distances with shape (N,), and rows of the reference with shape (N,).
    """
    query, reference = as_features(query, "query", 1), as_features(reference, "reference", 1)
    if query.shape[1] != reference.shape[1]:
        raise ValueError(
            f"query and reference must have the same number of features; got {query.shape[1]} and {reference.shape[1]}"
        )
    centre = reference.mean(axis=0)  # distances do not change, the products below lose fewer digits
    q, r = query - centre, reference - centre
    half_squares = 0.5 * np.sum(r**2, axis=1)
    starts = range(0, len(q), block)
    index = np.concatenate([(half_squares - q[s : s + block] @ r.T).argmin(axis=1) for s in starts])
    # From the rows themselves, so that a copy is at distance 0 and not at a rounding error.
    distance = [np.linalg.norm(query[s : s + block] - reference[index[s : s + block]], axis=1) for s in starts]
    return np.concatenate(distance), index


def memorisation(fake: ArrayLike, train: ArrayLike, heldout: ArrayLike) -> dict[str, float]:
    """How much closer generated volumes are to the training set than unseen real ones are.

    A model that has learnt the population has a ratio near 1 (below it when its volumes are
    smoother than real ones) and a share near the one expected by chance; copies bring the ratio
    to 0 and the share to 1.

    Arguments:
        fake: Features of generated volumes, with shape (N, F).
        train: Features of the training volumes, with shape (M, F).
        heldout: Features of real volumes the model has not seen, with shape (L, F).

    Returns:
        fake_to_train and heldout_to_train, median distances to the nearest training volume;
        ratio, the first over the second (NaN when both are 0); share_closer_to_train, the share of
        generated volumes nearer to a training volume than to any held-out one; and
        share_by_chance, M / (M + L), what that share is when the two sets cannot be told apart.
    """
    to_train, to_heldout = nearest(fake, train)[0], nearest(fake, heldout)[0]
    fake_to_train = float(np.median(to_train))
    heldout_to_train = float(np.median(nearest(heldout, train)[0]))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = float(np.divide(fake_to_train, heldout_to_train))
    return {
        "fake_to_train": fake_to_train,
        "heldout_to_train": heldout_to_train,
        "ratio": ratio,
        "share_closer_to_train": float(np.mean(to_train < to_heldout)),
        "share_by_chance": len(train) / (len(train) + len(heldout)),
    }
