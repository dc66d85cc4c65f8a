"""Print the reference table of the atlas specification beside the values that this library measures.

    python -m tools.atlas_reference ../shared/data/neurosynth_v7 --seeds 5

Protocol of the table: every study labelled TAL is transformed, 70/15/15 by study at random, 6 mm grid, kernel maps of
12 mm, sums clipped to 1. The table does not say how seed 0 orders the studies, so the columns are: reference, the split
of numpy.random.default_rng(0) with the test studies first, their difference, and mean and standard deviation over
seeds.
The workflow's own splits are stratified and keep near-duplicates on one side: results/atlas/baselines/bits.csv.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from neuromf.atlas import baselines, probes, retrieval
from neuromf.atlas.cleaning import clean_tables
from neuromf.atlas.kernel_maps import foci_counts, kernel_maps, kernel_sums
from neuromf.atlas.studies import Studies
from neuromf.data.brain_grid import BrainGrid, brain_grid
from neuromf.data.neurosynth import read_neurosynth
from neuromf.metrics import likelihood

Row = tuple[str, float, float]  # quantity, reference, measured
PCA_MSE = {8: 0.00966, 16: 0.00898, 32: 0.00822, 64: 0.00726, 128: 0.00605}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of Neurosynth version 7, shared part")
    parser.add_argument("--seeds", type=int, default=1, help="number of random splits")
    args = parser.parse_args(argv)
    grid, studies = brain_grid("6mm"), read_studies(args.folder)
    print(f"{len(studies)} studies, {grid.n_voxels} voxels")
    columns = [list(rows(*split(studies, seed), grid)) for seed in range(args.seeds)]
    for several in zip(*columns, strict=True):
        name, reference, measured = several[0]
        values = np.array([value for _, _, value in several])
        print(f"{name:42s} {reference:10.5f} {measured:10.5f} {measured - reference:+9.5f} {values.mean():10.5f} "
              f"{values.std(ddof=1) if args.seeds > 1 else 0:9.5f}")  # fmt: skip
    print(f"{time.process_time():.0f} s of processor time")


def rows(train: Studies, test: Studies, grid: BrainGrid) -> Iterator[Row]:
    """All rows of the table on one split."""
    yield from bits(train, test, grid)
    yield from reconstruction(train, test, grid)


def read_studies(folder: Path) -> Studies:
    """All studies of the protocol."""
    options: dict = {"space": {"tal": "transform", "unknown": "keep"}, "max_rise": 1.0}
    return clean_tables(read_neurosynth(folder), brain_grid("2mm"), scale="full", **options)[0]


def split(studies: Studies, seed: int) -> tuple[Studies, Studies]:
    """Training and test studies of a random split."""
    order, n = np.random.default_rng(seed).permutation(len(studies)), len(studies)
    n_val, n_train = int(0.15 * n), int(0.7 * n)
    return studies.take(order[n - n_train :]), studies.take(order[: n - n_train - n_val])


def bits(train: Studies, test: Studies, grid: BrainGrid) -> Iterator[Row]:
    """Rows in bits per focus."""
    counts = foci_counts(test, grid)

    def mean(rate: np.ndarray) -> float:
        return likelihood.score(likelihood.bits_per_focus(np.log2(rate), counts), likelihood.n_foci(counts)).value

    yield "bits per focus: uniform", -13.367, mean(np.full(grid.n_voxels, 1 / grid.n_voxels))
    for fwhm_mm, reference in ((6.0, -12.725), (9.0, -12.745), (12.0, -12.782)):
        total = np.asarray(kernel_sums(train, grid, fwhm_mm).sum(0), float).ravel()
        rate = likelihood.normalised_rate(total, baselines.KDE_FLOOR)
        yield f"bits per focus: global KDE {fwhm_mm:g} mm", reference, mean(rate)
    fitted = baselines.fit(train, grid)
    yield "bits per focus: mixture of topic KDEs", -12.585, mean(fitted.rates("topics", test))
    yield "bits per focus: ridge from topics", -12.590, mean(fitted.rates("ridge", test))
    half = baselines.first_half(test, 0)
    observed, counts = test.take_foci(half), foci_counts(test.take_foci(~half), grid)
    yield "bits per focus: completion, global alone", -12.745, mean(fitted.global_rate)
    yield "bits per focus: completion, own half", -12.278, mean(fitted.completion(observed))


def reconstruction(train: Studies, test: Studies, grid: BrainGrid) -> Iterator[Row]:
    """Rows of mean map, principal components and what linear models read from them."""
    maps, test_maps = (kernel_maps(s, grid, 12.0, combine="sum", dtype=np.float32) for s in (train, test))
    mean = maps.mean(0)
    null = float(((test_maps - mean) ** 2).mean())
    yield "mean map: MSE", 0.01180, null
    yield "mean map: r", 0.170, baselines.map_correlation(test_maps, np.broadcast_to(mean, test_maps.shape))
    pca = baselines.fit_pca(maps, 128)
    z, z_test = pca.transform(maps), pca.transform(test_maps)
    for k, reference in PCA_MSE.items():
        predicted = mean + z_test[:, :k] @ pca.components_[:k]
        error = float(((test_maps - predicted) ** 2).mean())
        yield f"PCA-{k}: MSE", reference, error
        if k in (32, 128):
            r, variance = {32: (0.476, 0.304), 128: (0.651, 0.488)}[k]
            yield f"PCA-{k}: r", r, baselines.map_correlation(test_maps, predicted)
            yield f"PCA-{k}: explained variance", variance, 1 - error / null
    log_n = np.log(train.table["n_foci"].to_numpy(float))
    yield "|corr(PC1, log n_foci)|", 0.87, abs(float(np.corrcoef(z[:, 0], log_n)[0, 1]))
    yield from linear_probes(train, test, z[:, :32], z_test[:, :32])


def linear_probes(train: Studies, test: Studies, z: np.ndarray, z_test: np.ndarray) -> Iterator[Row]:
    """Rows of probes and retrieval from PCA-32."""
    year, year_test = train.table["year"].to_numpy(float), test.table["year"].to_numpy(float)
    yield "year from PCA-32: R2", 0.043, probes.ridge_r2(z, year, z_test, year_test)
    yield "year from topics: R2", 0.131, probes.ridge_r2(train.topics, year, test.topics, year_test)
    bins, bins_test = probes.year_bins(year, year), probes.year_bins(year_test, year)
    yield "year bin from PCA-32: accuracy", 0.152, probes.top_k(z, bins, z_test, bins_test, (1,))[0]
    yield "year bin, majority: accuracy", 0.152, probes.majority(bins, bins_test)
    labels, labels_test = (s.table["space"].to_numpy(str) for s in (train, test))
    known, known_test = labels != "UNKNOWN", labels_test != "UNKNOWN"
    model = probes.logistic().fit(z[known], labels[known] == "TAL")
    auc = probes.scores(labels_test[known_test] == "TAL", model.predict_proba(z_test[known_test])[:, 1])[1]
    yield "MNI against TAL from PCA-32: AUC", 0.578, auc
    topic, topic_test = train.topics.argmax(1), test.topics.argmax(1)
    found = probes.top_k(z, topic, z_test, topic_test)
    for k, reference, value in zip((1, 5, 10), (0.169, 0.398, 0.568), found, strict=True):
        yield f"dominant topic from PCA-32: top {k}", reference, value
    yield "dominant topic, majority", 0.055, probes.majority(topic, topic_test)
    scaled, scaled_test = retrieval.standardised(z, z_test)
    recall = retrieval.recall_at_k(retrieval.predict_latents(train.topics, scaled, test.topics), scaled_test)
    yield "topics to PCA-32: recall@10", 0.106, recall[10]
    yield "topics to PCA-32: recall@100", 0.456, recall[100]


if __name__ == "__main__":
    main()
