"""Mock coordinate tables with a known truth, in the layout of Neurosynth: planted topics, year drift, space shift.

Each topic is a Gaussian mixture of three centres in the brain. The share of the first topics falls and that of the last
ones rises with the year. Studies labelled TAL report Talairach coordinates; some are mislabelled and report MNI
coordinates. A tenth of the foci is reported twice. Study k of a seed is the same in any number of studies.
"""

import nibabel as nib
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage

from neuromf.data.brain_grid import brain_grid
from neuromf.data.neurosynth import CoordinateTables
from neuromf.data.talairach import mni_to_tal

N_CENTRES, SPREAD_MM = 3, 8.0
DEPTH = 6  # of centres below the surface, in voxels of 2 mm
YEARS = (1997, 2018)
DRIFT = 1.5  # change of log weight over all years, first to last topic
SPACES, SPACE_PROBABILITY = ("MNI", "TAL", "UNKNOWN"), (0.7, 0.17, 0.13)
MISLABELLED = 0.2  # fraction of TAL studies in MNI coordinates
MEDIAN_FOCI, SIGMA_FOCI, MOST_FOCI = 22.0, 0.9, 200
REPEATED = 0.1
WORDS = ("memory", "motor", "reward", "language", "pain", "vision", "emotion", "attention", "resting", "auditory")
TITLES = ("An fMRI study of {0}", "Functional connectivity and {0}", "A PET study of {0}", "Resting state and {0}",
          "Voxel-based morphometry of {0}")  # fmt: skip
JOURNALS = ("NeuroImage", "Cerebral cortex", "PloS one", "Neuropsychologia")


def simulate_foci(n_studies: int = 100, n_topics: int = 10, seed: int = 0) -> CoordinateTables:
    """Mock tables of `n_studies` studies; coordinates in mm.

    Arguments:
        n_studies: Number of studies.
        n_topics: Number of planted topics, at most 10.
        seed: Seed of topics and studies.
    """
    if not 2 <= n_topics <= len(WORDS):
        raise ValueError(f"n_topics must be 2 to {len(WORDS)}; got {n_topics}")
    centres = topic_centres(n_topics, seed)
    rows, foci, topics = zip(*(_study(k, centres, seed) for k in range(n_studies)), strict=True)
    weights = np.stack(topics).astype(np.float32)
    coordinates = pd.concat(foci, ignore_index=True)
    return CoordinateTables(coordinates, pd.DataFrame(rows), weights, WORDS[:n_topics], "mock", "simulated, no licence")


def topic_centres(n_topics: int, seed: int) -> NDArray:
    """Centres of the topics in mm, shape (n_topics, N_CENTRES, 3), at least 12 mm below the surface of the brain."""
    grid = brain_grid("2mm")
    voxels = nib.affines.apply_affine(grid.affine, np.argwhere(ndimage.binary_erosion(grid.mask, iterations=DEPTH)))
    return np.stack(
        [np.random.default_rng([seed, 1, topic]).permutation(voxels)[:N_CENTRES] for topic in range(n_topics)]
    )


def _study(k: int, centres: NDArray, seed: int) -> tuple[dict, pd.DataFrame, NDArray]:
    """Metadata row, foci and topic weights of study k."""
    random = np.random.default_rng([seed, 2, k])
    year = int(random.integers(YEARS[0], YEARS[1] + 1))
    weights = _topic_weights(random, year, len(centres))
    n = int(np.clip(np.rint(random.lognormal(np.log(MEDIAN_FOCI), SIGMA_FOCI)), 2, MOST_FOCI))
    space = str(random.choice(SPACES, p=SPACE_PROBABILITY))
    points = _draw_points(random, weights, centres, n)
    if space == "TAL" and random.random() >= MISLABELLED:
        points = mni_to_tal(points)
    again = random.choice(n, int(REPEATED * n), replace=False)
    points = np.rint(np.concatenate([points, points[again]]))
    name, tables = f"mock{k:05d}", np.sort(random.integers(1, 4, len(points)))
    foci = pd.DataFrame({"id": name, "table_id": [f"{name}-{t}" for t in tables]}).assign(
        **dict(zip("xyz", points.T, strict=True))
    )
    title = TITLES[int(random.integers(len(TITLES)))].format(WORDS[int(weights.argmax())])
    row = {"id": name, "space": space, "title": title, "year": year, "journal": str(random.choice(JOURNALS))}
    return row, foci, weights


def _topic_weights(random: np.random.Generator, year: int, n_topics: int) -> NDArray:
    """Dirichlet weights whose mean drifts linearly in the log with the year."""
    time = (year - YEARS[0]) / (YEARS[1] - YEARS[0]) - 0.5
    return random.dirichlet(0.3 * np.exp(DRIFT * time * np.linspace(-1, 1, n_topics)))


def _draw_points(random: np.random.Generator, weights: NDArray, centres: NDArray, n: int) -> NDArray:
    topics = random.choice(len(weights), n, p=weights)
    chosen = centres[topics, random.integers(N_CENTRES, size=n)]
    return chosen + SPREAD_MM * random.standard_normal((n, 3))
