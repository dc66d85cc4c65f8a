"""Choice of the Gaussian prior among candidates, by its likelihood on validation participants."""

import logging
from collections.abc import Sequence
from itertools import product

import pandas as pd
from torch import Tensor

from neuromf.meanflow.gaussian_prior import MAX_ROWS, GaussianPrior, Rows, principal_axes
from neuromf.meanflow.posterior_error import nats_per_element, posterior_error

logger = logging.getLogger(__name__)


def fit_prior(
    data: Rows,
    validation: Tensor | None,
    *,
    axes: Sequence[int],
    block: Sequence[int],
    shrinkage: Sequence[float],
    seed: int,
) -> tuple[GaussianPrior, pd.DataFrame]:
    """The candidate prior with the highest likelihood on validation participants, and the table of all candidates.

    Candidates are all combinations of `axes`, `block` and `shrinkage` (which does nothing in blocks of one position).
    A single candidate is fitted without comparison.

    Arguments:
        data: Normalised training latents (N, C, I, J, K), see `GaussianPrior.fit`.
        validation: Normalised latents of validation participants (M, C, I, J, K).
        axes: Numbers of principal axes.
        block: Positions of a block of the residual covariance along each axis.
        shrinkage: Factors by which residual covariances between different positions are reduced.
        seed: Seed of the noise.

    Returns:
        The prior, and one row per candidate: axes, block, shrinkage, nats per element, and the error at each t.

    Raises:
        ValueError: If there are several candidates and no validation participants.
    """
    candidates = sorted({(n, size, by if size > 1 else 0.0) for n, size, by in product(axes, block, shrinkage)})
    if len(candidates) == 1:
        n, size, by = candidates[0]
        return GaussianPrior.fit(data, n, block=size, shrinkage=by), pd.DataFrame()
    if validation is None or not len(validation):
        raise ValueError(
            f"flow.prior has {len(candidates)} candidates, which are compared on validation participants; "
            "set cohort.split.val above 0, or one value each for axes, block and shrinkage"
        )
    x = data[:: -(-len(data) // MAX_ROWS)]
    decomposition, best, rows = principal_axes(x, max(axes)), None, []
    for n, size, by in candidates:
        prior = GaussianPrior.fit(x, n, block=size, shrinkage=by, decomposition=decomposition)
        errors = posterior_error(lambda z, t: prior(z, t, t), validation, seed=seed)  # noqa: B023 - called at once
        nats = nats_per_element(errors)
        by_time = {f"error_t{time:g}": float(error.mean()) for time, error in errors.items()}
        rows.append({"axes": n, "block": size, "shrinkage": by, "nats": nats, **by_time})
        logger.info("prior of %d axes, blocks of %d, shrinkage %g: %.4f nats per element", n, size, by, nats)
        if best is None or nats < best[0]:
            best = nats, prior
    assert best is not None
    return best[1], pd.DataFrame(rows)
