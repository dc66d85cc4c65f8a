"""The mock studies, cleaned and split, and the folder of real data."""

import pytest
from atlas.atlas_helpers import REAL_DATA, SPACE

from neuromf.atlas.cleaning import clean_tables
from neuromf.atlas.studies import assign_splits
from neuromf.data.brain_grid import brain_grid
from neuromf.simulation.foci import simulate_foci


@pytest.fixture(scope="session")
def mock_tables():
    return simulate_foci(100, seed=0)


@pytest.fixture(scope="session")
def mock_studies(mock_tables):
    studies, _ = clean_tables(mock_tables, brain_grid("2mm"), scale="mock", space=SPACE)
    return assign_splits(studies, [0.7, 0.15, 0.15], seed=0)


@pytest.fixture(scope="session")
def real_folder():
    """Folder of Neurosynth version 7; the test is skipped without it."""
    folder = REAL_DATA / "neurosynth_v7"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent; set NEUROMF_REAL_DATA")
    return folder
