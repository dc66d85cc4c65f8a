"""Trajectory tables."""

import numpy as np
import pandas as pd
import pytest

from neuromf.data.trajectories import read_trajectories


def write(path, t_months, volumes=(1000.0, 1200.0, 500.0, 0.0)):
    table = pd.DataFrame({"patient_id": ["A", "A", "B", "B"], "scan_id": ["A-0", "A-1", "B-0", "B-1"]})
    table["t_months"], table["V_mm3"] = t_months, volumes
    table.to_csv(path / "trajectories.tsv", sep="\t", index=False)
    return path / "trajectories.tsv"


def test_G11_a_table_with_real_time_is_read_with_log_volumes(tmp_path, tiny_cohort):
    table = read_trajectories(write(tmp_path, [0.0, 7.3, 0.0, 1.0]))
    np.testing.assert_allclose(table["y"], np.log1p([1000.0, 1200.0, 500.0, 0.0]))
    simulated = read_trajectories(tiny_cohort / "trajectories.tsv")
    assert simulated["patient_id"].nunique() == 8 and (simulated["sigma_v"] == 0.06).all()


@pytest.mark.parametrize("t_months", [[0.0, 0.0, 0.0, 3.0], [0.0, 5.0, 2.5, 1.5], [0.0, np.nan, 0.0, 1.5]])
def test_G11_time_that_does_not_increase_is_refused(tmp_path, t_months):
    with pytest.raises(ValueError, match="must increase from visit to visit; it does not for patient [AB]"):
        read_trajectories(write(tmp_path, t_months))


@pytest.mark.parametrize("t_months", [[0, 1, 0, 1], [1, 2, 1, 2]])
def test_G11_a_visit_index_is_refused_as_time_unless_it_is_asked_for(tmp_path, t_months):
    path = write(tmp_path, t_months)
    with pytest.raises(ValueError, match="a visit index, not time"):
        read_trajectories(path)
    assert read_trajectories(path, time="ordinal")["t_months"].tolist() == t_months
    with pytest.raises(ValueError, match="months or ordinal"):
        read_trajectories(path, time="years")


def test_G11_negative_volumes_and_missing_columns_are_refused(tmp_path):
    with pytest.raises(ValueError, match="V_mm3 of trajectories.tsv must be 0 or more; B-0 has -5"):
        read_trajectories(write(tmp_path, [0.0, 7.3, 0.0, 1.5], [1.0, 1.0, -5.0, 1.0]))
    pd.DataFrame({"patient_id": ["A"]}).to_csv(tmp_path / "trajectories.tsv", sep="\t", index=False)
    with pytest.raises(ValueError, match="lacks the columns scan_id, t_months, V_mm3"):
        read_trajectories(tmp_path / "trajectories.tsv")
