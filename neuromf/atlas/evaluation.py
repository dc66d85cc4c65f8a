"""Evaluation of a trained model against the classical ladder on the same test studies; writes test_results.json.

Every number is computed here from the model's maps and latents: no number is copied from its training. Mixing weights
are chosen on validation studies, scores are those of test studies, and differences to the best classical model are
paired by study.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from neuromf.atlas import axes, baselines, counterfactual, probes, retrieval
from neuromf.atlas.baselines import Baselines
from neuromf.atlas.kernel_maps import combine_kernels, foci_counts
from neuromf.atlas.prepared import Prepared
from neuromf.atlas.rates import FWHM_MM, Atlas, decoded, draw_foci, encoded, metadata_of, posterior_rates, prior_rates
from neuromf.atlas.studies import Studies, read_studies
from neuromf.core.files import atomic_write, write_json
from neuromf.data.brain_grid import BrainGrid, brain_grid
from neuromf.metrics import likelihood
from neuromf.metrics.distances import prdc
from neuromf.metrics.images.similarity import ssim

CLASSICAL = ("uniform", "global", "topics", "ridge")
PCA_FEATURES = 64
K_RADIUS, K_DENSITY = 3, 5  # neighbours of precision and recall, and of density and coverage
N_SSIM = 200
Json = dict[str, Any]


def evaluate(
    atlas: Atlas, studies: Studies, grid: BrainGrid, *, n_z: int = 64, n_studies: int | None = None,
    n_validation: int | None = None, n_generated: int = 2000, n_permutations: int = 20, seed: int = 0,
    provenance: Mapping[str, Any] | None = None, prepared: Prepared | None = None,
) -> Json:  # fmt: skip
    """All measurements of a model as JSON values.

    Arguments:
        atlas: Trained model.
        studies: All studies, with splits.
        n_z: Latents per rate.
        n_studies, n_validation: Test and validation studies whose rates are decoded, at random; None for all.
        n_generated: Most maps of precision and recall.
        n_permutations: Permutations of the leakage null.
        provenance: Values to write beside the measurements.
        prepared: Maps and classical models of these studies, if they are computed already.
    """
    prepared = prepared or Prepared(studies, grid)
    split, fitted = prepared.split, prepared.fitted
    latents = all_latents(atlas, prepared)
    rated = {"val": _subset(split["val"], n_validation, seed), "test": _subset(split["test"], n_studies, seed)}
    conditional = conditional_bits(atlas, fitted, rated, n_z, seed)
    return {
        "provenance": {"scale": studies.scale, "grid": grid.name, "seed": seed, "n_z": n_z, **(provenance or {})},
        "bits": {"conditional": conditional, "completion": completion_bits(atlas, fitted, rated, n_z, seed)},
        "reconstruction": reconstruction(atlas, prepared, latents["test"]),
        "generation": generation(atlas, prepared, n_generated, seed),
        "leakage": records(leakage(split, latents, n_permutations, seed)),
        "probes": records(_probes(prepared, latents)),
        "retrieval": records(_retrieval(prepared, latents)),
        "axes": records(_axes(split, latents, seed)),
        "counterfactual": records(_counterfactual(atlas, prepared, seed)),
    }  # fmt: skip


def evaluate_run(
    *, studies: str | Path, checkpoint: str | Path, out: str | Path, grid: str, data_root: str | Path | None = None,
    hcp_root: str | Path | None = None, **settings: Any,  # noqa: ANN401  # arguments of `evaluate`
) -> None:  # fmt: skip
    """Evaluate a checkpoint on the studies of a folder, and write test_results.json.

    Arguments:
        data_root: Folder with statmaps, for the external maps; they are skipped with the reason if it is absent.
        hcp_root: Folder of user-supplied contrast maps, likewise.
    """
    from neuromf.atlas.external import evaluate_external
    from neuromf.atlas.inference import load_atlas

    atlas, table, space = load_atlas(checkpoint), read_studies(studies), brain_grid(grid)
    prepared = Prepared(table, space)
    found = evaluate(atlas, table, space, provenance={"checkpoint": dict(atlas.card)}, prepared=prepared, **settings)
    write_json(out, found | {"external": evaluate_external(atlas, prepared, data_root, hcp_root)})


def compare_leakage(
    *, studies: str | Path, before: str | Path, after: str | Path, out: str | Path, grid: str, **settings: int
) -> None:
    """Write the leakage of method fields into the latents of two runs as CSV: run, field, kind, score, null_95, leaks.

    Arguments:
        before, after: Checkpoints of runs without and with adversaries.
        settings: n_permutations and seed of `leakage`.
    """
    from neuromf.atlas.inference import load_atlas

    prepared, tables = Prepared(read_studies(studies), brain_grid(grid)), []
    for name, checkpoint in (("before", before), ("after", after)):
        latents = all_latents(load_atlas(checkpoint), prepared)
        tables.append(leakage(prepared.split, latents, **settings).assign(run=name))
    table = pd.concat(tables)
    with atomic_write(out) as path:
        table[["run", *table.columns.drop("run")]].to_csv(path, index=False, float_format="%.4f")


def all_latents(atlas: Atlas, prepared: Prepared) -> dict[str, NDArray[np.float64]]:
    """Posterior means (n, d) of all studies by split."""
    return {
        name: encoded(atlas, prepared.grid, prepared.maps[name], metadata_of(atlas, part))[0].double().numpy()
        for name, part in prepared.split.items()
    }


def _subset(studies: Studies, n: int | None, seed: int) -> Studies:
    if n is None or n >= len(studies):
        return studies
    return studies.take(np.sort(np.random.default_rng([seed, 64]).permutation(len(studies))[:n]))


def records(table: pd.DataFrame) -> list[Json]:
    """Rows of a table as JSON values."""
    return [{str(k): v.item() if hasattr(v, "item") else v for k, v in row.items()} for row in table.to_dict("records")]


def conditional_bits(atlas: Atlas, fitted: Baselines, rated: Mapping[str, Studies], n_z: int, seed: int) -> Json:
    """Bits per focus given metadata alone: classical models, and the model with latents of the prior."""
    counts = {name: foci_counts(part, fitted.grid) for name, part in rated.items()}
    rates = {name: prior_rates(atlas, fitted.grid, part, n_z, seed) for name, part in rated.items()}
    classical = {
        kind: {name: fitted.rates(kind, part) for name, part in rated.items()}
        for kind in CLASSICAL
    }  # fmt: skip
    return ladder(classical, rates, fitted.global_rate, counts, seed)


def completion_bits(atlas: Atlas, fitted: Baselines, rated: Mapping[str, Studies], n_z: int, seed: int) -> Json:
    """Bits per focus of the second half of each study's foci, given metadata and the first half."""
    half = {name: baselines.first_half(part, seed) for name, part in rated.items()}
    observed = {name: part.take_foci(half[name]) for name, part in rated.items()}
    counts = {name: foci_counts(part.take_foci(~half[name]), fitted.grid) for name, part in rated.items()}
    rates = {name: posterior_rates(atlas, fitted.grid, part, n_z, seed) for name, part in observed.items()}
    classical = {
        "global": dict.fromkeys(rated, fitted.global_rate),
        "own": {name: fitted.completion(part) for name, part in observed.items()},
    }
    return ladder(classical, rates, fitted.global_rate, counts, seed)


def ladder(
    classical: Mapping[str, Mapping[str, NDArray]], rates: Mapping[str, NDArray], global_rate: NDArray,
    counts: Mapping[str, Any], seed: int,
) -> Json:  # fmt: skip
    """Scores of classical models and of a model, and the paired difference to the best classical one.

    Arguments:
        classical: Rates by model and split (val, test).
        rates: Rates of the model by split.
        counts: Foci to predict by split.

    Returns:
        Score by model; of "model" with its weight; "difference" of model and `best`, the classical model with the most
        bits on validation studies; numbers of studies and foci.
    """
    n = likelihood.n_foci(counts["test"])
    bits = {name: likelihood.bits_per_focus(np.log2(part["test"]), counts["test"]) for name, part in classical.items()}
    weight = likelihood.choose_weight(rates["val"], global_rate, counts["val"])
    bits["model"] = likelihood.bits_per_focus(
        np.log2(likelihood.mix(rates["test"], global_rate, weight)), counts["test"]
    )
    validation = {name: _mean_bits(part["val"], counts["val"]) for name, part in classical.items()}
    best = max(validation, key=validation.__getitem__)
    found = {name: likelihood.score(values, n, seed=seed)._asdict() for name, values in bits.items()}
    found["model"]["weight"] = weight
    difference = likelihood.score(bits["model"] - bits[best], n, seed=seed)._asdict()
    return {**found, "difference": difference, "best": best, "n_studies": int((n > 0).sum()), "n_foci": int(n.sum())}


def _mean_bits(rates: NDArray, counts: Any) -> float:  # noqa: ANN401  # a sparse matrix
    return likelihood.mean_over_foci(likelihood.bits_per_focus(np.log2(rates), counts), likelihood.n_foci(counts))


def reconstruction(atlas: Atlas, prepared: Prepared, z: NDArray) -> dict[str, Json]:
    """MSE, mean Pearson r, explained variance about the training mean and SSIM of test maps, beside mean map and PCA.

    A model whose maps are intensities is compared by r alone: its other columns depend on its unit.

    Arguments:
        z: Latents of the test studies, (n, d).
    """
    grid, maps = prepared.grid, prepared.maps["test"]
    mean = prepared.maps["train"].mean(0)
    metadata = metadata_of(atlas, prepared.split["test"])
    predicted = {
        "mean": np.broadcast_to(mean, maps.shape),
        "pca": prepared.pca.inverse_transform(prepared.pca_latents["test"]),
        "model": decoded(atlas, grid, torch.from_numpy(z.astype(np.float32)), metadata),
    }
    return {name: _errors(maps, values, mean, grid) for name, values in predicted.items()}


def _errors(maps: NDArray, predicted: NDArray, mean: NDArray, grid: BrainGrid) -> Json:
    error, total = float(((maps - predicted) ** 2).mean()), float(((maps - mean) ** 2).mean())
    volumes = (grid.volume(np.clip(part[:N_SSIM], 0, 1).astype(np.float32)) for part in (maps, np.asarray(predicted)))
    return {"mse": error, "r": baselines.map_correlation(maps, predicted), "explained_variance": 1 - error / total,
            "ssim": float(ssim(*volumes).mean()), "n": len(maps)}  # fmt: skip


def generation(atlas: Atlas, prepared: Prepared, n: int, seed: int) -> dict[str, Json]:
    """Precision, recall (k = 3), density and coverage (k = 5) of generated maps, in PCA-64 of training maps.

    The reference are maps of test studies, all rows have as many maps: real (validation studies: the ceiling), model
    (foci drawn from its rates with z of the prior, one z per study, with metadata and number of foci of the test
    studies), global (foci drawn from the global KDE), mean_map.
    """
    maps, fitted = prepared.maps, prepared.fitted
    n = min(n, len(maps["val"]), len(maps["test"]))
    like = prepared.split["test"].take(np.arange(n))
    pca = baselines.fit_pca(maps["train"], PCA_FEATURES)
    sets = {
        "real": maps["val"][:n],
        "model": drawn_maps(prior_rates(atlas, fitted.grid, like, 1, seed), like, fitted.grid, seed),
        "global": drawn_maps(fitted.global_rate, like, fitted.grid, seed),
        "mean_map": np.broadcast_to(fitted.mean_map, (n, fitted.grid.n_voxels)),
    }
    reference = pca.transform(maps["test"][:n])
    return {name: _overlap(reference, pca.transform(values)) | {"n": n} for name, values in sets.items()}


def drawn_maps(rates: NDArray, like: Studies, grid: BrainGrid, seed: int) -> NDArray[np.float32]:
    """Kernel maps (n, V) of foci drawn from rates, as many as the studies of `like` have."""
    foci = draw_foci(rates, np.diff(like.starts), grid, seed)
    return np.concatenate(
        [combine_kernels(points, np.zeros(len(points), np.int64), 1, grid, FWHM_MM, "noisy_or") for points in foci]
    )


def _overlap(real: NDArray, fake: NDArray) -> dict[str, float]:
    near, wide = prdc.measures(real, fake, K_RADIUS), prdc.measures(real, fake, K_DENSITY)
    return {name: near[name] for name in ("precision", "recall")} | {
        name: wide[name] for name in ("density", "coverage")
    }


def _probes(prepared: Prepared, latents: Mapping[str, NDArray]) -> pd.DataFrame:
    """What linear probes read from latents, dominant topic and year: columns model, quantity, value."""
    split = prepared.split
    topic, year = (
        {name: get(split[name]) for name in ("train", "test")}
        for get in (lambda s: s.topics.argmax(1), lambda s: s.table["year"].to_numpy(float))
    )
    rows = [("majority", "topic_top_1", probes.majority(topic["train"], topic["test"]))]
    bins = {name: probes.year_bins(values, year["train"]) for name, values in year.items()}
    rows.append(("majority", "year_bin", probes.majority(bins["train"], bins["test"])))
    for name, z in (("model", latents), ("pca", prepared.pca_latents)):
        found = probes.top_k(z["train"], topic["train"], z["test"], topic["test"])
        rows += [(name, f"topic_top_{k}", value) for k, value in zip((1, 5, 10), found, strict=True)]
        rows.append((name, "year_r2", probes.ridge_r2(z["train"], year["train"], z["test"], year["test"])))
        rows.append((name, "year_bin", probes.top_k(z["train"], bins["train"], z["test"], bins["test"], (1,))[0]))
    return pd.DataFrame(rows, columns=["model", "quantity", "value"])


def _retrieval(prepared: Prepared, latents: Mapping[str, NDArray]) -> pd.DataFrame:
    found, split = {"pca": prepared.pca_latents, "model": latents}, prepared.split
    candidates = {name: (z["train"], z["test"]) for name, z in found.items()}
    return retrieval.recall_table(split["train"].topics, split["test"].topics, candidates)


def leakage(
    split: Mapping[str, Studies], latents: Mapping[str, NDArray], n_permutations: int = 20, seed: int = 0
) -> pd.DataFrame:
    """Audit of the latents of all studies, of which two thirds train the probes and one third tests them."""
    fields = {name: probes.recorded_fields(part) for name, part in split.items()}
    joined = {
        name: (kind, np.concatenate([fields[part][name][1] for part in split]))
        for name, (kind, _) in fields["train"].items()
    }
    return probes.audit(np.concatenate([latents[part] for part in split]), joined, n_permutations, seed)


def _axes(split: Mapping[str, Studies], latents: Mapping[str, NDArray], seed: int) -> pd.DataFrame:
    train, test = split["train"], split["test"]
    return axes.annotate(latents["train"], train.topics, latents["test"], test.topics, train.topic_words, seed=seed)


def _counterfactual(atlas: Atlas, prepared: Prepared, seed: int) -> pd.DataFrame:
    """Effects of all entries of the metadata but journals; empty for an unconditional model."""
    m = metadata_of(atlas, prepared.split["train"])
    if m is None or atlas.schema is None:
        return pd.DataFrame(columns=["field", "r", "null_95", "p", "size", "sign"])
    columns = {name: k for k, name in enumerate(atlas.schema.names) if not name.startswith("journal")}
    return counterfactual.effects(atlas, prepared.grid, m.numpy(), prepared.maps["train"], columns, seed)
