"""Samples from N(0, I) against samples from the one-step prior of `latent_prior`: overlap, bits per focus, flow.

Both priors turn the same noise into latents, and the same model decodes them with the metadata of the same studies:
every difference is paired by test study. Overlap of latents is measured in the active dimensions, those whose posterior
mean varies over studies (variance above .01): all others are N(0, 1) in both sets.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neuromf.atlas import baselines, evaluation
from neuromf.atlas.evaluation import _subset as some_studies
from neuromf.atlas.guards import LAST_STAGE, require_stage, statement
from neuromf.atlas.inference import load_atlas
from neuromf.atlas.kernel_maps import foci_counts, kernel_maps
from neuromf.atlas.latent_prior import LatentPrior, load_prior, posterior_samples
from neuromf.atlas.rates import FWHM_MM, Atlas, decoded, encoded, metadata_of, prior_rates
from neuromf.atlas.studies import Studies, read_studies
from neuromf.core.files import sha256, write_json
from neuromf.core.seeds import generator
from neuromf.data.brain_grid import BrainGrid, brain_grid
from neuromf.metrics import likelihood
from neuromf.metrics.distances import prdc
from neuromf.metrics.distances.frechet import frechet_distance
from neuromf.metrics.resampling import mean_interval
from neuromf.vae.collapse import ACTIVE_VARIANCE

NORMAL, ONE_STEP, GAUSSIAN = "normal", "one_step", "gaussian"  # both priors, and the start of the second one
NEIGHBOURS = {"precision": evaluation.K_RADIUS, "recall": evaluation.K_RADIUS,
              "density": evaluation.K_DENSITY, "coverage": evaluation.K_DENSITY}  # fmt: skip
NFE = (1, 2, 4)
N_STEPS = 10  # of paths
N_BOOT = 1000
N_DRAWN, N_PATHS, N_PICTURES = 400, 12, 3  # latents per set, paths and maps that a figure draws
Json = dict[str, Any]
Prior = Callable[[Tensor], Tensor] | None


def compare_priors(
    atlas: Atlas, prior: LatentPrior, studies: Studies, grid: BrainGrid, *, n_z: int = 32, n_studies: int | None = 200,
    n_generated: int = 2000, seed: int = 0,
) -> Json:  # fmt: skip
    """All comparisons of both priors as JSON values.

    Arguments:
        atlas: Trained volume model.
        prior: One-step prior of its latents.
        studies: All studies, with splits.
        n_z: Latents per rate.
        n_studies: Studies per split whose rates are decoded, at random; None for all.
        n_generated: Most maps of precision, recall, density and coverage.
    """
    split = {name: studies.take(studies.rows(name)) for name in ("train", "val", "test")}
    shared = baselines.global_rate(split["train"], grid)
    maps = {name: kernel_maps(part, grid, FWHM_MM, dtype=np.float32) for name, part in split.items()}
    posterior = {name: encoded(atlas, grid, maps[name], metadata_of(atlas, part)) for name, part in split.items()}
    rated = {name: some_studies(split[name], n_studies, seed) for name in ("val", "test")}
    active = active_dimensions(posterior["train"][0])
    return {
        "active": active.tolist(),
        "bits": prior_bits(atlas, prior, grid, shared, rated, n_z, seed),
        "maps": map_overlap(atlas, prior, grid, split, maps, n_generated, seed),
        "latents": latent_overlap(prior, posterior, split, active, n_generated, seed),
        "flow": flow_table(prior, posterior, active, seed),
        "drawn": drawn_latents(prior, posterior, active, seed),
        "pictures": pictures(atlas, prior, split["test"], grid, seed),
    }


def active_dimensions(mu: Tensor) -> NDArray[np.int64]:
    """Dimensions whose posterior mean (n, d) varies, or the two of largest variance if fewer do."""
    variance = mu.double().var(0).numpy()
    found = np.flatnonzero(variance > ACTIVE_VARIANCE)
    return found if len(found) > 1 else np.sort(np.argsort(-variance)[:2])


def prior_bits(
    atlas: Atlas, prior: LatentPrior, grid: BrainGrid, shared: NDArray, rated: Mapping[str, Studies], n_z: int,
    seed: int,
) -> Json:  # fmt: skip
    """Bits per focus given metadata alone with latents of each prior, and their paired difference.

    The mixing weight with the global rate `shared` (V,) is chosen for each prior on validation studies.
    """
    counts = {name: foci_counts(part, grid) for name, part in rated.items()}
    n, bits, out = likelihood.n_foci(counts["test"]), {}, {}
    for name, transform in priors(prior).items():
        rates = {part: prior_rates(atlas, grid, one, n_z, seed, transform) for part, one in rated.items()}
        weight = likelihood.choose_weight(rates["val"], shared, counts["val"])
        mixed = likelihood.mix(rates["test"], shared, weight)
        bits[name] = likelihood.bits_per_focus(np.log2(mixed), counts["test"])
        out[name] = {**likelihood.score(bits[name], n, seed=seed)._asdict(), "weight": weight}
    difference = likelihood.score(bits[ONE_STEP] - bits[NORMAL], n, seed=seed)._asdict()
    return {**out, "difference": difference, "n_studies": int((n > 0).sum()), "n_foci": int(n.sum()), "n_z": n_z}


def priors(prior: LatentPrior) -> dict[str, Prior]:
    """Functions from noise to latents of both priors; None is the identity."""
    return {NORMAL: None, ONE_STEP: prior}


def map_overlap(
    atlas: Atlas, prior: LatentPrior, grid: BrainGrid, split: Mapping[str, Studies],
    maps: Mapping[str, NDArray], n: int, seed: int,
) -> Json:  # fmt: skip
    """Overlap of maps of foci drawn from decoded rates with maps of test studies, in PCA-64 of training maps."""
    n = min(n, len(maps["val"]), len(maps["test"]))
    like = split["test"].take(np.arange(n))
    pca = baselines.fit_pca(maps["train"], evaluation.PCA_FEATURES)
    sets = {
        name: evaluation.drawn_maps(prior_rates(atlas, grid, like, 1, seed, transform), like, grid, seed)
        for name, transform in priors(prior).items()
    }
    sets["real"] = maps["val"][:n]
    return overlaps(pca.transform(maps["test"][:n]), {name: pca.transform(one) for name, one in sets.items()}, seed)


def latent_overlap(
    prior: LatentPrior, posterior: Mapping[str, tuple[Tensor, Tensor]], split: Mapping[str, Studies], active: NDArray,
    n: int, seed: int,
) -> Json:  # fmt: skip
    """Overlap of latents of each prior with posterior samples of test studies, in the active dimensions."""
    n = min(n, len(split["val"]), len(split["test"]))
    noise = torch.randn((n, prior.z_dim), generator=generator("prior overlap", seed))
    sets = {NORMAL: noise, ONE_STEP: prior(noise), GAUSSIAN: prior.gaussian(noise)}
    sets["real"] = samples(posterior["val"], seed)[:n]
    reference = samples(posterior["test"], seed)[:n, active].double().numpy()
    return overlaps(reference, {name: z[:, active].double().numpy() for name, z in sets.items()}, seed)


def samples(posterior: tuple[Tensor, Tensor], seed: int) -> Tensor:
    """One sample (n, d) of the posterior of each study."""
    mu, logvar = posterior
    return posterior_samples(mu, logvar, torch.arange(len(mu)), generator("posterior", seed, len(mu)))


def overlaps(reference: NDArray, sets: Mapping[str, NDArray], seed: int = 0) -> Json:
    """Overlap of each set with the reference, with intervals, and paired differences of one-step prior and N(0, I).

    Arguments:
        reference: Features of test studies, shape (n, F).
        sets: Features (n, F) by name, with "normal" and "one_step", whose row k belongs to test study k.

    Returns:
        Measure by set: value, low, high; "difference" likewise, and "network", one-step prior minus its Gaussian
        start, where `sets` has "gaussian"; number of rows n.
    """
    parts = {name: contributions(reference, values) for name, values in sets.items()}
    parts["difference"] = {name: parts[ONE_STEP][name] - parts[NORMAL][name] for name in NEIGHBOURS}
    if GAUSSIAN in parts:
        parts["network"] = {name: parts[ONE_STEP][name] - parts[GAUSSIAN][name] for name in NEIGHBOURS}
    return {
        name: {measure: interval(values, seed) for measure, values in rows.items()} for name, rows in parts.items()
    } | {"n": len(reference)}


def contributions(real: NDArray, fake: NDArray) -> dict[str, NDArray]:
    """Contribution of each row to precision, recall (k = 3), density and coverage (k = 5)."""
    found = {k: prdc.contributions(real, fake, k) for k in set(NEIGHBOURS.values())}
    return {name: found[k][name] for name, k in NEIGHBOURS.items()}


def interval(values: NDArray, seed: int) -> dict[str, float]:
    """Mean of values (n,) and its 95 % bootstrap interval over studies."""
    low, high = mean_interval(values, N_BOOT, seed)
    return {"value": float(values.mean()), "low": low, "high": high}


def flow_table(prior: LatentPrior, posterior: Mapping[str, tuple[Tensor, Tensor]], active: NDArray, seed: int) -> Json:
    """Frechet distance to test latents by network evaluations, and monotonicity of the one-step map.

    Returns:
        frechet: of N(0, I) ("normal"), of the Gaussian start ("gaussian"), of the prior with 1, 2 and 4 network
        evaluations ("nfe_1", ...), and of validation studies ("real", the floor at this n). monotone_fraction: see
        `monotone_fraction`.
    """
    n = min(len(posterior["test"][0]), len(posterior["val"][0]))
    reference = samples(posterior["test"], seed)[:n]
    noise = torch.randn((n, prior.z_dim), generator=generator("prior flow", seed))
    sets = {NORMAL: noise, GAUSSIAN: prior.gaussian(noise), "real": samples(posterior["val"], seed)[:n]}
    sets |= {f"nfe_{nfe}": prior(noise, nfe) for nfe in NFE}
    real, *others = (z[:, active].double().numpy() for z in (reference, *sets.values()))
    distances = {name: frechet_distance(real, z) for name, z in zip(sets, others, strict=True)}
    return {"frechet": distances, "monotone_fraction": monotone_fraction(prior, seed), "n": n}


def monotone_fraction(prior: LatentPrior, seed: int = 0, n: int = 200, n_steps: int = N_STEPS) -> float:
    """Fraction of steps along straight paths between noise points in which the one-step latents move forward.

    A step d of the noise moves the latents by D; it is forward if D d > 0. A map of a Gaussian to a Gaussian that flows
    along straight paths, C^(1/2), is forward everywhere; a map that folds is not.
    """
    ends = torch.randn((2, n, prior.z_dim), generator=generator("prior monotone", seed))
    weights = torch.linspace(0, 1, n_steps + 1)[:, None, None]
    moved = prior(((1 - weights) * ends[0] + weights * ends[1]).flatten(0, 1)).unflatten(0, (n_steps + 1, n))
    return float((((moved[1:] - moved[:-1]) * (ends[1] - ends[0])).sum(2) > 0).float().mean())


def drawn_latents(
    prior: LatentPrior, posterior: Mapping[str, tuple[Tensor, Tensor]], active: NDArray, seed: int
) -> Json:
    """Latents of test studies and of both priors on the two principal axes of training latents, for a figure."""
    train = samples(posterior["train"], seed)[:, active].double().numpy()
    _, _, axes = np.linalg.svd(train - train.mean(0), full_matrices=False)
    noise = torch.randn((N_DRAWN, prior.z_dim), generator=generator("prior figure", seed))
    sets = {"test": samples(posterior["test"], seed)[:N_DRAWN], NORMAL: noise, ONE_STEP: prior(noise)}
    paths = prior.path(noise[:N_PATHS], N_STEPS)
    flat = {name: ((z[:, active].double().numpy() - train.mean(0)) @ axes[:2].T).round(4) for name, z in sets.items()}
    moved = ((paths[..., active].double().numpy() - train.mean(0)) @ axes[:2].T).round(4)
    return {name: values.tolist() for name, values in flat.items()} | {"paths": moved.tolist()}


def pictures(atlas: Atlas, prior: LatentPrior, test: Studies, grid: BrainGrid, seed: int) -> Json:
    """Axial maximum projections (N_PICTURES, I, J) of maps decoded from the same noise through each prior.

    The metadata are those of the first test study, and 1 is the largest value of all projections.
    """
    m = metadata_of(atlas, test.take(np.arange(1)))
    known = None if m is None else m.expand(N_PICTURES, -1)
    noise = torch.randn((N_PICTURES, prior.z_dim), generator=generator("prior pictures", seed))
    sets = {name: noise if one is None else one(noise) for name, one in priors(prior).items()}
    flat = {name: grid.volume(decoded(atlas, grid, z, known)).max(3) for name, z in sets.items()}
    top = max(float(values.max()) for values in flat.values())
    return {name: (values / top).round(3).tolist() for name, values in flat.items()}


def evaluate_prior(
    *, studies: str | Path, checkpoint: str | Path, prior: str | Path, out: str | Path, grid: str, seed: int = 0,
    **settings: Any,  # noqa: ANN401  # arguments of `compare_priors`
) -> None:  # fmt: skip
    """Compare both priors on the studies of a folder, and write the result as JSON.

    Raises:
        ValueError: If the prior belongs to another checkpoint, or the checkpoint is one of development.
    """
    atlas, table, loaded = load_atlas(checkpoint), read_studies(studies), load_prior(prior)
    require_stage(str(atlas.card["scale"]), LAST_STAGE, str(checkpoint))
    if loaded.card["checkpoint"] != (digest := sha256(checkpoint)):
        raise ValueError(f"{prior} is the prior of checkpoint {loaded.card['checkpoint'][:12]}, not of {digest[:12]}")
    found = compare_priors(atlas, loaded, table, brain_grid(grid), seed=seed, **settings)
    scale = table.scale
    write_json(out, {"scale": scale, "statement": statement(scale), "seed": seed, "checkpoint": digest, **found})
