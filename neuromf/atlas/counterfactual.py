"""Counterfactuals: how the decoded map changes when one metadata field changes, against a permutation control.

The change decode(z, m') - decode(z, m) is compared with the change that the training studies show: the slope of their
kernel maps on the field. The control permutes the field over the studies before slopes are computed.
"""

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from neuromf.atlas.rates import Atlas, decoded
from neuromf.data.brain_grid import BrainGrid

PERMUTATIONS = 100
MOST_STUDIES = 2000  # training studies whose maps slopes are computed from


def slopes(maps: NDArray, field: NDArray) -> NDArray[np.float64]:
    """Slope of maps (n, V) on a standardised field (n,), or on several (n, k): (V,) or (k, V)."""
    x = np.asarray(field, np.float64)
    x = (x - x.mean(0)) / np.maximum(x.std(0), 1e-12)
    return (x.T.astype(np.float32) @ np.asarray(maps, np.float32)).astype(np.float64) / len(x)


def map_change(atlas: Atlas, grid: BrainGrid, m: Tensor, column: int, low: float, high: float) -> NDArray[np.float64]:
    """Mean over studies of decode(0, m with the entry `high`) - decode(0, m with `low`), shape (V,).

    Arguments:
        m: Metadata (n, d_m), NaN for what is missing.
        column: Entry that changes.
    """
    z = torch.zeros(len(m), atlas.z_dim)
    changed = [m.clone(), m.clone()]
    for values, value in zip(changed, (low, high), strict=True):
        values[:, column] = value
    before, after = (decoded(atlas, grid, z, values) for values in changed)
    return (after - before).mean(0)


def effect(
    change: NDArray, maps: NDArray, field: NDArray, *, n_permutations: int = PERMUTATIONS, seed: int = 0
) -> dict[str, float]:
    """Agreement of a change (V,) with the training studies: r, its permutation null, p, size, sign.

    Arguments:
        change: Change of the decoded map.
        maps: Kernel maps of training studies, (n, V).
        field: Values of the field in these studies, (n,).

    Returns:
        r: correlation with the slope of the maps. null_95: 95th percentile of r for permuted fields. p: fraction of
        them that reach r. size: mean |change|. sign: mean change over mean |change|, -1 to 1.
    """
    random = np.random.default_rng([seed, 32])
    permuted = np.stack([random.permutation(field) for _ in range(n_permutations)], axis=1)
    null = _correlation(change, slopes(maps, permuted))
    r = float(_correlation(change, slopes(maps, field)[None])[0])
    size = float(np.abs(change).mean())
    return {
        "r": r,
        "null_95": float(np.percentile(null, 95)),
        "p": float((1 + (null >= r).sum()) / (1 + n_permutations)),
        "size": size,
        "sign": float(change.mean() / size) if size > 0 else 0.0,
    }


def _correlation(change: NDArray, others: NDArray) -> NDArray[np.float64]:
    """Correlation of a map (V,) with each row of others (k, V); 0 for constant maps."""
    x, y = change - change.mean(), others - others.mean(1, keepdims=True)
    return y @ x / np.maximum(np.linalg.norm(x) * np.linalg.norm(y, axis=1), 1e-300)


def effects(
    atlas: Atlas, grid: BrainGrid, m: NDArray, maps: NDArray, columns: dict[str, int], seed: int = 0
) -> pd.DataFrame:
    """One row of `effect` per field, which moves from its 10th to its 90th percentile in the training studies.

    Arguments:
        m: Metadata of training studies (n, d_m), NaN for what is missing. Slopes use 2,000 of them at most.
        maps: Their kernel maps, (n, V).
        columns: Entry of each field in m.
    """
    base = torch.from_numpy(m[:64].astype(np.float32))
    chosen = np.sort(np.random.default_rng([seed, 33]).permutation(len(m))[:MOST_STUDIES])
    m, maps = m[chosen], maps[chosen]
    rows = []
    for name, column in columns.items():
        known = np.isfinite(m[:, column])
        values = m[known, column].astype(np.float64)
        low, high = np.percentile(values, [10, 90])
        if high > low:
            change = map_change(atlas, grid, base, column, low, high)
            rows.append({"field": name, **effect(change, maps if known.all() else maps[known], values, seed=seed)})
    return pd.DataFrame(rows, columns=["field", "r", "null_95", "p", "size", "sign"])
