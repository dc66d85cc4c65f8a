"""Privacy audit: memorised training scans among samples, and membership inference.

Features have shape (N, F), one row per scan; distances are Euclidean, in the unit of the features. A scan may have
several views, with shape (N, V, F), such as itself and its left-right mirror image: its distance to another scan is the
distance of the nearest view, because a mirrored copy is a copy. Scans of test participants, treated like the training
scans, give the expected values.

Samples that are smoother than real scans are closer to every scan without being copies, so a ratio of medians below 1
is no evidence alone. Two tests are insensitive to smoothness: memorised samples are those whose nearest training scan
is much nearer than the second nearest, and membership inference compares training with test scans. A participant with
two scans in the training set cannot be detected by the first test, so each participant contributes one scan.

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
from neuromf.metrics.resampling import check_features
from neuromf.metrics.table import row

LEVEL = 0.01  # significance level of the alarm
BLOCK = 4  # side in voxels of the blocks whose means are compared in image space
IMAGE_FEATURES = f"image-pool{BLOCK}"


def block_means(volumes: ArrayLike, factor: int = BLOCK) -> NDArray:
    """Block means of each volume, features for distances in image space.

    Arguments:
        volumes: Volumes in [0, 1], shape (N, I, J, K).
        factor: Side of a block in voxels; it must divide I, J and K.

    Returns:
        Means, shape (N, I J K / factor³), float64.
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


def mirrored_block_means(volumes: ArrayLike, factor: int = BLOCK) -> NDArray:
    """Block means of each volume and of its left-right mirror image: two views, shape (N, 2, F).

    Arguments:
        volumes: Volumes in [0, 1], shape (N, I, J, K), left-right along I with the midline in the middle.
        factor: Side of a block in voxels.
    """
    volumes = as_volumes(volumes)
    return np.stack([block_means(volumes, factor), block_means(volumes[:, ::-1], factor)], axis=1)


def check_views(scans: ArrayLike, name: str) -> NDArray:
    """Features of scans as a finite array (N, V, F); (N, F) is one view per scan."""
    x = np.asarray(scans, dtype=np.float64)
    x = x[:, None] if x.ndim == 2 else x
    if x.ndim != 3 or 0 in x.shape:
        raise ValueError(f"{name} must have shape (N, F) or (N, views, F), at least one scan; got {np.shape(scans)}")
    check_features(x.reshape(len(x), -1), name, 1)
    return x


def neighbours(query: ArrayLike, reference: ArrayLike, *, k: int = 2, block: int = 256) -> dict[str, NDArray]:
    """The k nearest scans of each query, nearest first.

    Arguments:
        query: Features, shape (N, F).
        reference: Features of scans, shape (M, F) or (M, V, F).
        k: Number of neighbours.
        block: Queries per block; memory grows with block x M x V.

    Returns:
        distance, index of the scan, and view of it, each of shape (N, min(k, M)).
    """
    query, scans = check_features(query, "query", 1), check_views(reference, "reference")
    m, v, f = scans.shape
    if query.shape[1] != f:
        raise ValueError(f"query and reference must have the same number of features; got {query.shape[1]} and {f}")
    centre = scans.mean(axis=(0, 1))  # products of centred features lose fewer digits
    r = (scans - centre).reshape(m * v, f)
    half_squares = 0.5 * np.sum(r**2, axis=1)
    parts = []
    for start in range(0, len(query), block):
        q = query[start : start + block]
        score = (half_squares - (q - centre) @ r.T).reshape(len(q), m, v)  # monotonic in the distance
        index = np.argsort(score.min(axis=2), axis=1, kind="stable")[:, :k]
        view = np.take_along_axis(score.argmin(axis=2), index, axis=1)
        # Distances of the rows themselves: exactly 0 for a copy, without rounding errors.
        parts.append((np.linalg.norm(q[:, None] - scans[index, view], axis=2), index, view))
    distance, index, view = (np.concatenate(part) for part in zip(*parts, strict=True))
    return {"distance": distance, "index": index, "view": view}


def nearest_distance(query: ArrayLike, reference: ArrayLike) -> NDArray:
    """Distance of each query (N, F) to the nearest scan of a reference (M, F) or (M, V, F); shape (N,)."""
    return neighbours(query, reference, k=1)["distance"][:, 0]


def nearest_distance_of_views(scans: NDArray, reference: ArrayLike) -> NDArray:
    """Distance of the nearest view of each scan (N, V, F) to the nearest row of a reference (M, F); shape (N,)."""
    return np.min([nearest_distance(scans[:, view], reference) for view in range(scans.shape[1])], axis=0)


def nearest_training_scans(query: NDArray, train: NDArray) -> pd.DataFrame:
    """Nearest training scan of each query (N, F), a row per query.

    Returns:
        index of the query; distance to the nearest training scan; train, its index; view, 1 for its mirror image;
        relative, the distance over the distance to the second nearest scan (1 if both are 0).
    """
    found = neighbours(query, train, k=2)
    first, second = found["distance"].T
    relative = np.divide(first, second, out=np.ones_like(first), where=second > 0)
    columns = {"distance": first, "train": found["index"][:, 0], "view": found["view"][:, 0], "relative": relative}
    return pd.DataFrame(columns).rename_axis("index").reset_index()


def ratio_of_medians(a: NDArray, b: NDArray) -> float:
    """Median of a over median of b; NaN if both are 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.divide(np.median(a), np.median(b)))


def ratio_p(fake: NDArray, test: NDArray, n_permutations: int, seed: int) -> float:
    """One-sided permutation p-value of `ratio_of_medians`: small if the distances of samples are smaller."""
    rng, both, value = np.random.default_rng(seed), np.concatenate([fake, test]), ratio_of_medians(fake, test)
    below = 0
    for _ in range(n_permutations):
        x = both[rng.permutation(len(both))]
        below += ratio_of_medians(x[: len(fake)], x[len(fake) :]) <= value
    return (1 + below) / (1 + n_permutations)


def memorisation_p(relative: NDArray, expected: NDArray) -> NDArray:
    """Probability, per sample, of a nearest neighbour that is as much nearer than the second nearest, shape (n,).

    For points without structure in d dimensions, minus the log of (nearest over second nearest distance) is exponential
    with mean 1 / d. The mean is estimated from m test scans, so a value over the mean follows the F distribution with 2
    and 2 m degrees of freedom; this is its upper tail.

    Arguments:
        relative: Nearest over second nearest distance of samples, in [0, 1], shape (n,).
        expected: The same of test scans, shape (m,).
    """
    with np.errstate(divide="ignore"):
        value, mean = -np.log(relative), -np.log(np.maximum(expected, 1e-12)).mean()
    return stats.f.sf(value / mean, 2, 2 * len(expected)) if mean > 0 else np.where(value > 0, 0.0, 1.0)


def membership(train: NDArray, test: NDArray) -> dict[str, float]:
    """Membership inference from the distance of a scan to the nearest sample.

    Arguments:
        train: Distances of training scans, shape (M,).
        test: Distances of test scans, shape (L,).

    Returns:
        auc, the probability that a training scan is nearer than a test scan (0.5: no inference possible); low and high,
        its 95 % interval; p, one-sided against 0.5.
    """
    nearer = (train[:, None] < test) + 0.5 * (train[:, None] == test)
    auc = float(nearer.mean())
    ranks = stats.rankdata(np.concatenate([train, test]))
    p = float(stats.mannwhitneyu(train, test, alternative="less").pvalue) if np.ptp(ranks) else 1.0
    if min(nearer.shape) < 2:
        return {"auc": auc, "low": np.nan, "high": np.nan, "p": p}
    variance = nearer.mean(axis=1).var(ddof=1) / len(train) + nearer.mean(axis=0).var(ddof=1) / len(test)
    half = stats.norm.ppf(0.975) * np.sqrt(variance)
    return {"auc": auc, "low": float(max(0.0, auc - half)), "high": float(min(1.0, auc + half)), "p": p}


def audit(
    fake: ArrayLike, train: ArrayLike, test: ArrayLike, *, n_permutations: int = 1000, seed: int = 0
) -> tuple[dict[str, float], pd.DataFrame]:
    """Privacy of the training scans, given one set of samples.

    Arguments:
        fake: Features of samples, shape (N, F).
        train: Features of training scans, shape (M, F), or (M, V, F) with their mirror images.
        test: Features of test scans, with the same views.
        n_permutations: Permutations for the p-value of the ratio.
        seed: Seed of the permutations.

    Returns:
        A dict of
        nearest_train_distance and nearest_train_distance_test, median distance of samples and of test scans to the
        nearest training scan; nearest_train_ratio, the first over the second, and nearest_train_ratio_p. A model that
        learnt the population has a ratio near 1; copies bring it to 0.
        closer_to_train_fraction, fraction of samples nearer to a training scan than to any test scan, and
        closer_to_train_expected, M / (M + L), its value if training and test scans are exchangeable.
        closer_than_test_fraction, fraction of samples nearer to a training scan than any test scan is, and
        closer_than_test_expected.
        memorised_fraction, fraction of samples with significant `memorisation_p`, and memorised_p, the smallest
        of these p-values times their number.
        membership_auc, membership_low, membership_high and membership_p, see `membership`.
        privacy_alarm, 1 if memorised_p or membership_p is significant at 0.01 for both together.

        And a table with a row per sample and test scan: set ("samples" or "test") and the columns of
        `nearest_training_scans`.

    Raises:
        ValueError: If there are fewer than two training scans, or features or views do not match.
    """
    query, train, test = check_features(fake, "fake", 1), check_views(train, "train"), check_views(test, "test")
    if len(train) < 2 or train.shape[1:] != test.shape[1:]:
        raise ValueError(
            "train must have at least 2 scans, with the views and features of test; "
            f"got shapes {train.shape} and {test.shape}"
        )
    samples, expected = nearest_training_scans(query, train), nearest_training_scans(test[:, 0], train)
    distance, usual = samples["distance"].to_numpy(), expected["distance"].to_numpy()
    p = len(query) * memorisation_p(samples["relative"].to_numpy(), expected["relative"].to_numpy())
    attack = membership(nearest_distance_of_views(train, query), nearest_distance_of_views(test, query))
    result = {
        "nearest_train_distance": float(np.median(distance)),
        "nearest_train_distance_test": float(np.median(usual)),
        "nearest_train_ratio": ratio_of_medians(distance, usual),
        "closer_to_train_fraction": float(np.mean(distance < nearest_distance(query, test))),
        "closer_to_train_expected": len(train) / (len(train) + len(test)),
        "nearest_train_ratio_p": ratio_p(distance, usual, n_permutations, seed),
        "closer_than_test_fraction": float(np.mean(distance < usual.min())),
        "closer_than_test_expected": 1 / (len(usual) + 1),
        "memorised_fraction": float(np.mean(p < LEVEL / 2)),
        "memorised_p": float(min(1.0, p.min())),
        **{f"membership_{name}": attack[name] for name in ("auc", "low", "high", "p")},
    }
    alarm = float(min(result["memorised_p"], result["membership_p"]) < LEVEL / 2)
    table = pd.concat([samples.assign(set="samples"), expected.assign(set="test")], ignore_index=True)
    return result | {"privacy_alarm": alarm}, table


def rows(result: Mapping[str, float], n: int, features: str) -> list[dict]:
    """The dict of `audit` as rows of metrics.csv; the AUC has its interval.

    Arguments:
        result: Values of `audit`.
        n: Number of samples.
        features: Name of the features between which distances were computed.
    """
    ends = {"membership_auc": {"low": result["membership_low"], "high": result["membership_high"]}}
    names = [name for name in result if name not in ("membership_low", "membership_high")]
    return [row(name, result[name], n, features=features, **ends.get(name, {})) for name in names]


def closest_pairs(table: pd.DataFrame, n: int = 3) -> pd.DataFrame:
    """Rows of the table of `audit` for the n samples with the smallest `relative`."""
    return table[table["set"] == "samples"].nsmallest(n, ["relative", "distance"]).reset_index(drop=True)
