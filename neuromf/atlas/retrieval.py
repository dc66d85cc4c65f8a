"""Retrieval: from the topics of a study to its map among all maps of the test studies."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

KS = (10, 100)


def ranks(predicted: NDArray, candidates: NDArray) -> NDArray[np.int64]:
    """Rank, from 0, of row k of the candidates (n, d) by correlation with row k of the predictions (n, d).

    Ties count as better, so a constant prediction ranks last, not first.
    """
    similarity = _standardise(predicted) @ _standardise(candidates).T
    own = np.diag(similarity)[:, None]
    return (similarity >= own).sum(1) - 1


def _standardise(x: NDArray) -> NDArray[np.float64]:
    """Rows with mean 0 and norm 1; constant rows are 0."""
    centred = np.asarray(x, np.float64) - np.mean(x, axis=1, keepdims=True)
    return centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)


def recall_at_k(predicted: NDArray, candidates: NDArray, ks: Sequence[int] = KS) -> dict[int, float]:
    """Fraction of rows whose own candidate is among the k best ones, by k."""
    found = ranks(predicted, candidates)
    return {k: float((found < k).mean()) for k in ks}


def standardised(latents: NDArray, test: NDArray) -> tuple[NDArray, NDArray]:
    """Latents of training and test studies, divided by their standard deviations over the training studies."""
    std = np.maximum(np.std(latents, axis=0), 1e-12)
    return latents / std, test / std


def predict_latents(topics: NDArray, latents: NDArray, test_topics: NDArray) -> NDArray[np.float64]:
    """Latents (n_test, d) of test studies by ridge regression from the square roots of their topic weights."""
    from sklearn.linear_model import RidgeCV

    return RidgeCV(np.logspace(-2, 4, 13)).fit(np.sqrt(topics), latents).predict(np.sqrt(test_topics))


def recall_table(
    topics: NDArray, test_topics: NDArray, latents: dict[str, tuple[NDArray, NDArray]], ks: Sequence[int] = KS
) -> pd.DataFrame:
    """Recall of topics -> standardised latents by model, with the row chance; columns model, k, recall, n.

    Arguments:
        topics, test_topics: Topic weights of training and test studies, (n, n_topics) and (n_test, n_topics).
        latents: Latents of training and test studies by model.
    """
    n = len(test_topics)
    rows = [("chance", k, min(k / n, 1.0), n) for k in ks]
    for name, pair in latents.items():
        train, test = standardised(*pair)
        found = recall_at_k(predict_latents(topics, train, test_topics), test, ks)
        rows += [(name, k, value, n) for k, value in found.items()]
    return pd.DataFrame(rows, columns=["model", "k", "recall", "n"])
