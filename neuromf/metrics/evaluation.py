"""Entry points of the evaluation: `reference` once per study, then `evaluate_run` per run, then `join_tables`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from torch import Tensor

from neuromf.data.nifti import read_volumes
from neuromf.data.participants import read_table
from neuromf.data.preprocessing import volumes_of_split
from neuromf.metrics import controls, privacy, table
from neuromf.metrics.anatomy import morphometry
from neuromf.metrics.evaluator import Evaluator, Reference
from neuromf.metrics.features.registry import extract, feature_scales, open_feature_sets
from neuromf.metrics.table import row
from neuromf.vae import latents as vae_latents
from neuromf.vae import shards
from neuromf.vae import weights as vae_weights

FORMAT: dict[str, Any] = {"index": False, "float_format": "%.6g"}
NEAREST = ["set", "file", "distance", "train", "view", "relative"]
REGIONAL = ["scan", "set", "region", "ml"]
SPECTRUM = ["set", "nfe", "frequency", "power"]


@threadpool_limits.wrap(limits=1)  # volumes are processed in parallel, see core.parallel
def reference(
    *,
    latents: Sequence[Path],
    qc: Path,
    weights: Path,
    real_features: Path,
    table: Path,
    spectra: Path,
    regions: Path,
    features: Sequence[dict],
    spacing_mm: float,
    **settings: Any,  # noqa: ANN401 - of `Evaluator`
) -> None:
    """Features of the training and test scans, and metrics of test, reconstructed and control sets.

    Arguments:
        latents: Latent shards of all scans.
        qc: Table of the volumes with their splits.
        weights: Weights of the autoencoder.
        real_features: Output, features of real scans (`evaluator.Reference`, npz).
        table: Output, metrics (csv).
        spectra: Output, power spectra (csv).
        regions: Output, regional volumes in ml (csv).
        features: Feature sets, dicts of arguments of `features.registry.open_features`; the first is the primary one.
        spacing_mm: Isotropic voxel size in mm.
        settings: segmentation, n_pairs, n_anatomy, n_boot, two_sample and seed, see `Evaluator`.
    """
    vae, scans = vae_weights.load(weights), read_table(qc)
    train, test = (read_volumes(volumes_of_split(scans, split))[:, 0].numpy() for split in ("train", "test"))
    splits = scans.set_index("scan")["split"]
    by_split = {split: shards.load_split(latents, splits, split) for split in ("train", "test")}
    scales = feature_scales(features, vae=vae, train=train)
    sets = open_feature_sets(features, vae=vae, scales=scales)
    decoded = vae_latents.decode(vae, by_split["test"]["mean"]).numpy()
    known = Reference(
        train=extract(sets, train),
        test=extract(sets, test),
        reconstruction=extract(sets, decoded),
        train_images=privacy.mirrored_block_means(train),
        test_images=privacy.mirrored_block_means(test),
        channel_std=by_split["train"]["mean"].double().transpose(0, 1).flatten(1).std(1).numpy(),
        scales=scales,
    )
    known.save(real_features)

    evaluator = Evaluator(known, sets, spacing_mm=spacing_mm, **settings)
    _add_controls(evaluator, test)
    evaluator.add("reconstruction", decoded, features=known.reconstruction, paired=True)
    for name, volumes in (("test", test), ("reconstruction", decoded)):
        evaluator.diversity(name, np.asarray(volumes, np.float32))
        evaluator.anatomy(name, np.asarray(volumes, np.float32))
    # The reconstruction is compared with as many volumes as a run.
    parts = {"test": evaluator.segment(test), "reconstruction": evaluator.segment(decoded[: evaluator.n_anatomy])}
    evaluator.compare_regions("reconstruction", parts["test"], parts["reconstruction"])
    names = by_split["test"]["scans"]
    regional = [part.assign(set=name, scan=names[: len(part)]) for name, part in parts.items()]
    pd.concat(regional).to_csv(regions, **FORMAT)
    _write(evaluator, "", table, spectra)


def _add_controls(evaluator: Evaluator, test: NDArray) -> None:
    """Distances of training halves and control sets, and whether these are in order."""
    evaluator.add_train_halves()
    sets = controls.control_sets(test, seed=evaluator.seed)
    mean = {key: x.repeat(len(test), axis=0) for key, x in extract(evaluator.sets, sets["mean"][:1]).items()}
    known = {"test": evaluator.reference.test, "mean": mean}
    for name, volumes in sets.items():
        evaluator.add(name, volumes, features=known.get(name), paired=True)
    evaluator.rows += controls.order_rows(pd.DataFrame(evaluator.rows))


@threadpool_limits.wrap(limits=1)  # volumes are processed in parallel, see core.parallel
def evaluate_run(
    *,
    samples: Sequence[Path],
    real_features: Path,
    regions: Path,
    qc: Path,
    weights: Path,
    run: str,
    metrics: Path,
    spectra: Path,
    nearest: Path,
    regional: Path,
    privacy: Path,
    features: Sequence[dict],
    n: int,
    spacing_mm: float,
    baselines: Mapping[str, Tensor] | None = None,
    in_depth: bool = True,
    **settings: Any,  # noqa: ANN401 - of `Evaluator`
) -> None:
    """Metrics of one run: its samples at each number of network evaluations (NFE), against real scans.

    Anatomy, the privacy audit, regional volumes and baselines need `in_depth`; without it the metrics are feature
    distances, diversity and latent standard deviations, and the tables of nearest scans and regions are empty.

    Arguments:
        samples: Sample folders, named nfe-{NFE}.
        real_features: Features of real scans, output of `reference`.
        regions: Regional volumes of test scans, output of `reference`.
        qc: Table of the volumes with their splits.
        weights: Weights of the autoencoder.
        run: Name of the run.
        metrics: Output, metrics (csv).
        spectra: Output, power spectra (csv).
        nearest: Output, nearest training scan of each one-step sample (csv).
        regional: Output, regional volumes of test scans and one-step samples, a row per region (csv).
        privacy: Output, nearest training scan of each one-step sample and test scan (csv).
        features: Feature sets, dicts of arguments of `features.registry.open_features`; the first is the primary one.
        n: Number of samples that were requested per NFE.
        spacing_mm: Isotropic voxel size in mm.
        baselines: Latents of further sets by name, of the same noise as the samples
            (`meanflow.baselines.baseline_latents`).
        in_depth: Whether all metrics are computed.
        settings: segmentation, n_pairs, n_anatomy, n_boot, two_sample and seed, see `Evaluator`.
    """
    vae, known = vae_weights.load(weights), Reference.load(real_features)
    sets = open_feature_sets(features, vae=vae, scales=known.scales)
    evaluator = Evaluator(known, sets, spacing_mm=spacing_mm, **settings)
    pairs, regional_rows = pd.DataFrame(columns=NEAREST), pd.DataFrame(columns=REGIONAL)
    for folder in samples:
        nfe, files = int(folder.name.removeprefix("nfe-")), read_table(folder / "samples.tsv")["file"]
        volumes = read_volumes(files)[:, 0].float().numpy()
        evaluator.add(nfe, volumes)
        evaluator.record(nfe, [row("valid_fraction", len(volumes) / n, len(volumes))])
        evaluator.diversity(nfe, volumes)
        evaluator.latent_std(nfe, torch.load(folder / "latents.pt", weights_only=True).double().numpy())
        if in_depth:
            evaluator.anatomy(nfe, volumes)
        if in_depth and nfe == 1:
            pairs = _nearest_scans(evaluator, volumes, files.tolist(), read_table(qc))
            regional_rows = _regional_volumes(evaluator, volumes, pd.read_csv(regions))
    for name, latents in (baselines or {}).items() if in_depth else ():
        evaluator.add(name, vae_latents.decode(vae, latents).numpy())
    if in_depth and {1, "online"} <= evaluator.features.keys():
        evaluator.compare_sets(1, "online")
    pairs.to_csv(privacy, **FORMAT)
    own = pairs[pairs["set"] == "samples"].rename(columns={"file": "generated"})
    own[["distance", "train", "view", "relative", "generated"]].to_csv(nearest, **FORMAT)
    regional_rows.to_csv(regional, **FORMAT)
    _write(evaluator, run, metrics, spectra)


def _nearest_scans(evaluator: Evaluator, volumes: NDArray, files: list[str], scans: pd.DataFrame) -> pd.DataFrame:
    """Privacy audit of one-step samples, and their similarity to the nearest training scans."""
    train, by_set = volumes_of_split(scans, "train"), {"samples": files, "test": volumes_of_split(scans, "test")}
    pairs = evaluator.audit_privacy(1, volumes)
    file = [by_set[name][k] for name, k in zip(pairs["set"], pairs["index"], strict=True)]
    pairs = pairs.assign(file=file, train=[train[k] for k in pairs["train"]])[NEAREST]
    own = pairs[pairs["set"] == "samples"].head(evaluator.n_pairs)
    nearest = read_volumes(own["train"])[:, 0].float().numpy()
    nearest = np.stack([one[::-1] if view else one for one, view in zip(nearest, own["view"], strict=True)])
    evaluator.nearest_similarity(1, volumes[: len(nearest)], nearest)
    return pairs


def _regional_volumes(evaluator: Evaluator, volumes: NDArray, known: pd.DataFrame) -> pd.DataFrame:
    """Regional volumes of test scans and one-step samples, a row per volume and region."""
    fake = evaluator.segment(volumes[: evaluator.n_anatomy])
    real = known[known["set"] == "test"].set_index("scan")[fake.columns]
    evaluator.compare_regions(1, real, fake)
    names = [f"sample-{number:05d}" for number in range(len(fake))]
    parts = (real, "test", real.index), (fake, "samples", names)
    return pd.concat([morphometry.tidy(part, name, scans) for part, name, scans in parts])


def _write(evaluator: Evaluator, run: str, metrics: Path, spectra: Path) -> None:
    pd.DataFrame(evaluator.rows).assign(run=run).to_csv(metrics, **FORMAT)
    pd.DataFrame(evaluator.spectra, columns=SPECTRUM).assign(run=run).to_csv(spectra, **FORMAT)


def join_tables(*, tables: Sequence[Path], out: Path) -> None:
    """Write the metrics of the reference and of all runs to one table, without metrics that fail on the controls.

    Arguments:
        tables: Tables of `reference` and `evaluate_run`.
        out: Joint table (csv).
    """
    table.valid_rows(table.read(tables))[["run", *table.COLUMNS]].to_csv(out, index=False)
