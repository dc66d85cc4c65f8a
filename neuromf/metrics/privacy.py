"""Does a generator give people away: copies of training heads among its samples, and who can be told to be in training.

Features have shape (N, F), one row per head; distances are Euclidean, in the features' unit. A head may have several
views, with shape (N, V, F), such as itself and its mirror image: its distance to another is that of the nearest view,
since a mirrored copy is a copy. Held-out heads are real, unseen, and treated in all as the training heads are; they say
what is usual.

Samples that are smoother than real heads lie nearer to every head without being copies, so a ratio of medians below 1
proves nothing alone. Copies are sought by how much nearer the nearest training head is than the second nearest, and
membership by comparing training with held-out heads: both treat smooth samples and sharp ones alike. A person who is in
training twice stands out for no copy: one scan each.

References:
    Extracting Training Data from Diffusion Models (Carlini et al., 2023), arXiv:2301.13188: nearest over next nearest
    Estimating the intrinsic dimension of datasets by a minimal neighborhood information (Facco et al., 2017)
    Comparing the areas under two or more correlated ROC curves (DeLong et al., 1988): interval of the AUC
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from neuromf.core import parallel
from neuromf.metrics.images.spectral import as_volumes
from neuromf.metrics.resampling import as_features

LEVEL = 0.01  # of the alarm


def pooled(volumes: ArrayLike, factor: int) -> NDArray:
    """Block means of each volume in one row, features for distances in image space.

    Arguments:
        volumes: Volumes in [0, 1], with shape (N, I, J, K).
        factor: Side of a block in voxels; it must divide I, J and K.

    Returns:
        Means with shape (N, I J K / factor³), float64.
    """
    volumes = as_volumes(volumes)
    shape = volumes.shape[1:]
    if factor < 1 or any(side % factor for side in shape):
        raise ValueError(f"factor must divide the shape {tuple(shape)}; got {factor}: crop or pad the volumes")
    i, j, k = (side // factor for side in shape)
    means = parallel.map_in_threads(
        lambda x: x.reshape(i, factor, j, factor, k, factor).mean(axis=(1, 3, 5), dtype=np.float64).ravel(), volumes
    )
    return np.stack(means)


def mirrored(volumes: ArrayLike, factor: int) -> NDArray:
    """Block means of each volume and of its left-right mirror image, two views with shape (N, 2, F).

    Arguments:
        volumes: Volumes in [0, 1], with shape (N, I, J, K), left-right along I, the midline in the middle.
        factor: Side of a block in voxels.
    """
    volumes = as_volumes(volumes)
    return np.stack([pooled(volumes, factor), pooled(volumes[:, ::-1], factor)], axis=1)


def as_views(heads: ArrayLike, name: str) -> NDArray:
    """Features of heads as a finite (N, V, F) array; (N, F) is one view each."""
    x = np.asarray(heads, dtype=np.float64)
    x = x[:, None] if x.ndim == 2 else x
    if x.ndim != 3 or 0 in x.shape:
        raise ValueError(f"{name} must have shape (N, F) or (N, views, F), at least one head; got {np.shape(heads)}")
    as_features(x.reshape(len(x), -1), name, 1)
    return x


# --- distances ---------------------------------------------------------------------------------------


def nearest(query: ArrayLike, reference: ArrayLike, block: int = 256) -> tuple[NDArray, NDArray]:
    """The closest reference to each query.

    Arguments:
        query: Features with shape (N, F).
        reference: Features with shape (M, F), or (M, V, F) for heads of several views.
        block: Queries compared at once; memory grows with block x M x V.

    Returns:
        Distances with shape (N,), and rows of the reference with shape (N,).
    """
    found = neighbours(query, reference, k=1, block=block)
    return found["distance"][:, 0], found["index"][:, 0]


def neighbours(query: ArrayLike, reference: ArrayLike, *, k: int = 2, block: int = 256) -> dict[str, NDArray]:
    """The k closest heads to each query, nearest first.

    Arguments:
        query: Features with shape (N, F).
        reference: Features of heads, with shape (M, F) or (M, V, F).

    Returns:
        distance, index of the head, and view of it, each with shape (N, min(k, M)).
    """
    query, heads = as_features(query, "query", 1), as_views(reference, "reference")
    m, v, f = heads.shape
    if query.shape[1] != f:
        raise ValueError(f"query and reference must have the same number of features; got {query.shape[1]} and {f}")
    centre = heads.mean(axis=(0, 1))  # distances do not change, the products below lose fewer digits
    r = (heads - centre).reshape(m * v, f)
    half_squares = 0.5 * np.sum(r**2, axis=1)
    parts = []
    for start in range(0, len(query), block):
        q = query[start : start + block]
        score = (half_squares - (q - centre) @ r.T).reshape(len(q), m, v)  # grows with the distance
        index = np.argsort(score.min(axis=2), axis=1, kind="stable")[:, :k]
        view = np.take_along_axis(score.argmin(axis=2), index, axis=1)
        # From the rows themselves, so that a copy is at distance 0 and not at a rounding error.
        parts.append((np.linalg.norm(q[:, None] - heads[index, view], axis=2), index, view))
    distance, index, view = (np.concatenate(part) for part in zip(*parts, strict=True))
    return {"distance": distance, "index": index, "view": view}


def to_any_view(heads: ArrayLike, reference: ArrayLike) -> NDArray:
    """Distance of each head, by its nearest view, to the closest row of a reference (M, F); shape (N,)."""
    heads = as_views(heads, "heads")
    return np.min([nearest(heads[:, view], reference)[0] for view in range(heads.shape[1])], axis=0)


def memorisation(fake: ArrayLike, train: ArrayLike, heldout: ArrayLike) -> dict[str, float]:
    """How much closer generated volumes are to the training set than unseen real ones are.

    A model that has learnt the population has a ratio near 1 (below it when its volumes are smoother than real ones)
    and a share near the one expected by chance; copies bring the ratio to 0 and the share to 1.

    Arguments:
        fake: Features of generated volumes, with shape (N, F).
        train: Features of the training heads, with shape (M, F) or (M, V, F).
        heldout: Features of real heads the model has not seen, with shape (L, F) or (L, V, F).

    Returns:
        fake_to_train and heldout_to_train, median distances to the nearest training head; ratio, the first over the
        second (NaN when both are 0); share_closer_to_train, the share of generated volumes nearer to a training head
        than to any held-out one; and share_by_chance, M / (M + L), what that share is when the two sets cannot be
        told apart.
    """
    train, heldout = as_views(train, "train"), as_views(heldout, "heldout")
    to_train, to_heldout = nearest(fake, train)[0], nearest(fake, heldout)[0]
    usual = nearest(heldout[:, 0], train)[0]
    return {
        "nearest_train_distance": float(np.median(to_train)),
        "nearest_train_distance_test": float(np.median(usual)),
        "nearest_train_ratio": ratio_of_medians(to_train, usual),
        "closer_to_train_fraction": float(np.mean(to_train < to_heldout)),
        "closer_to_train_expected": len(train) / (len(train) + len(heldout)),
    }


# --- statistics --------------------------------------------------------------------------------------


def ratio_of_medians(a: NDArray, b: NDArray) -> float:
    """Median of a over that of b; NaN when both are 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.divide(np.median(a), np.median(b)))


def ratio_p(fake: NDArray, heldout: NDArray, n_permutations: int, seed: int) -> float:
    """How often distances shuffled between the sets have a ratio of medians as small as theirs."""
    rng, both, value = np.random.default_rng(seed), np.concatenate([fake, heldout]), ratio_of_medians(fake, heldout)
    below = 0
    for _ in range(n_permutations):
        x = both[rng.permutation(len(both))]
        below += ratio_of_medians(x[: len(fake)], x[len(fake) :]) <= value
    return (1 + below) / (1 + n_permutations)


def below_all(values: NDArray, usual: NDArray) -> tuple[float, float]:
    """Share of values below every one of the m usual ones, and 1 / (m + 1), what it is by chance."""
    return float(np.mean(values < usual.min())), 1 / (len(usual) + 1)


def standing_out(relative: NDArray, usual: NDArray) -> NDArray:
    """How probable it is by chance that a nearest neighbour stands out as it does, with shape (n,).

    Where heads lie without order in d dimensions, minus the log of (nearest over second nearest distance) is
    exponential with mean 1 / d. That mean is measured on m held-out heads, so a value over it follows the F
    distribution with 2 and 2 m degrees of freedom, of which this is the upper tail.

    Arguments:
        relative: Nearest over second nearest distance of generated heads, in [0, 1], with shape (n,).
        usual: That of held-out heads, with shape (m,).
    """
    with np.errstate(divide="ignore"):
        value, mean = -np.log(relative), -np.log(np.maximum(usual, 1e-12)).mean()
    return stats.f.sf(value / mean, 2, 2 * len(usual)) if mean > 0 else np.where(value > 0, 0.0, 1.0)


def membership(train: NDArray, heldout: NDArray) -> dict[str, float]:
    """Can one tell who was in training, from the distance of a head to the nearest generated one?

    Arguments:
        train: Distances of training heads, with shape (M,).
        heldout: Those of held-out heads, with shape (L,).

    Returns:
        auc, the probability that a training head is nearer than a held-out one (0.5: it cannot be told); low and
        high, the ends of its 95 % interval; p, one-sided against 0.5.
    """
    nearer = (train[:, None] < heldout) + 0.5 * (train[:, None] == heldout)
    auc = float(nearer.mean())
    ranks = stats.rankdata(np.concatenate([train, heldout]))
    test = stats.mannwhitneyu(train, heldout, alternative="less") if np.ptp(ranks) else None
    if min(nearer.shape) < 2:
        return {"auc": auc, "low": np.nan, "high": np.nan, "p": test.pvalue if test else 1.0}
    variance = nearer.mean(axis=1).var(ddof=1) / len(train) + nearer.mean(axis=0).var(ddof=1) / len(heldout)
    half = stats.norm.ppf(0.975) * np.sqrt(variance)
    ends = {"low": float(max(0.0, auc - half)), "high": float(min(1.0, auc + half))}
    return {"auc": auc, **ends, "p": float(test.pvalue) if test else 1.0}


# --- the audit ---------------------------------------------------------------------------------------


def audit(
    fake: ArrayLike, train: ArrayLike, heldout: ArrayLike, *, n_permutations: int = 1000, seed: int = 0
) -> tuple[dict[str, float], pd.DataFrame]:
    """All that can be said about the privacy of training heads from one set of generated ones.

    Arguments:
        fake: Features of generated volumes, with shape (N, F).
        train: Features of the training heads, with shape (M, F), or (M, V, F) with their mirror images.
        heldout: Features of unseen real heads, with the views that the training heads have.
        n_permutations: Shuffles for the p-value of the ratio.

    Returns:
        One row: what `memorisation` gives; ratio_p; share_below_heldout, the share of generated heads nearer to a
        training head than any held-out head is, and share_below_by_chance; copies, the share of generated heads whose
        nearest training head stands out beyond chance, and copies_p, that of the clearest one times their number;
        auc, auc_low, auc_high and auc_p of `membership`; alarm, 1 where copies or membership are beyond chance at
        0.01 for both together. And a table for drawing: set ("generated" or "held out"), index in its set, distance
        to the nearest training head, train (its index), view (1 for its mirror image), and relative, that distance
        over the one to the second nearest.

    Raises:
        ValueError: If there are fewer than two training heads, or the features or views do not match.
    """
    query, train, heldout = as_features(fake, "fake", 1), as_views(train, "train"), as_views(heldout, "heldout")
    if len(train) < 2 or train.shape[1:] != heldout.shape[1:]:
        raise ValueError(
            "train must have at least 2 heads, with the views and features of heldout; "
            f"got shapes {train.shape} and {heldout.shape}"
        )
    table = pd.concat(
        [_to_train(query, train).assign(set="generated"), _to_train(heldout[:, 0], train).assign(set="held out")],
        ignore_index=True,
    )
    of_fake, usual = (table[table["set"] == name] for name in ("generated", "held out"))
    below, by_chance = below_all(of_fake["distance"].to_numpy(), usual["distance"].to_numpy())
    chance = len(query) * standing_out(of_fake["relative"].to_numpy(), usual["relative"].to_numpy())
    attack = membership(to_any_view(train, query), to_any_view(heldout, query))
    row = {
        **memorisation(query, train, heldout),
        "nearest_train_ratio_p": ratio_p(of_fake["distance"].to_numpy(), usual["distance"].to_numpy(), n_permutations, seed),
        **{"closer_than_test_fraction": below, "closer_than_test_expected": by_chance},
        **{"memorised_fraction": float(np.mean(chance < LEVEL / 2)), "memorised_p": float(min(1.0, chance.min()))},
        **{f"membership_{name}": attack[name] for name in ("auc", "low", "high", "p")},
    }
    return row | {"privacy_alarm": float(min(row["memorised_p"], attack["p"]) < LEVEL / 2)}, table


def _to_train(query: NDArray, train: NDArray) -> pd.DataFrame:
    """Nearest training head of each query, and how much it stands out."""
    found = neighbours(query, train, k=2)
    first, second = found["distance"].T
    relative = np.divide(first, second, out=np.ones_like(first), where=second > 0)
    columns = {"distance": first, "train": found["index"][:, 0], "view": found["view"][:, 0], "relative": relative}
    return pd.DataFrame(columns).rename_axis("index").reset_index()


def closest_pairs(table: pd.DataFrame, n: int = 3) -> pd.DataFrame:
    """Rows of the table of `audit` for the n generated heads whose nearest training head stands out most."""
    return table[table["set"] == "generated"].nsmallest(n, ["relative", "distance"]).reset_index(drop=True)


def rows(row: Mapping[str, float], n: int, features: str) -> list[dict]:
    """The row of `audit` as rows of metrics.csv, the AUC with its interval.

    Arguments:
        n: Generated heads that were compared.
        features: What the distances were taken between.
    """
    interval = {"membership_auc": {"low": row["membership_low"], "high": row["membership_high"]}}
    blank = {"low": np.nan, "high": np.nan}
    names = [name for name in row if name not in ("membership_low", "membership_high")]
    start = {"features": features, "n": n}
    return [{"metric": name, **start, "value": row[name], **interval.get(name, blank)} for name in names]
