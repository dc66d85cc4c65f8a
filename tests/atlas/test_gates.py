"""Gates of the stages: measured values, a planted failure, the status table."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from atlas.atlas_helpers import SPACE

from neuromf.atlas.criteria import measure
from neuromf.atlas.preparation import prepare_studies, write_maps
from neuromf.workflow.criteria import read_criteria
from neuromf.workflow.status import status_table
from workflow_scripts import atlas_gate

CRITERIA = {name: row._asdict() for name, row in read_criteria({}, []).items() if name.startswith("S1-")}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    prepare_studies(folder / "studies", scale="mock", data_root="", space=SPACE, split=[0.7, 0.15, 0.15], seed=0)
    write_maps(folder / "studies", folder / "12.npy", grid="6mm", fwhm_mm=12.0, combine="noisy_or")
    return {"studies": str(folder / "studies"), "maps": str(folder / "12.npy")}


def gate(files, out, **more):
    values = {"study": "test", "phase": 1, "files": files, "criteria": CRITERIA, **more}
    atlas_gate.main(["--out", str(out), "--config", json.dumps(values)])
    return json.loads(out.read_text())


def test_A78_the_gate_of_the_first_stage_has_every_measured_row(files, tmp_path):
    found = gate(files, tmp_path / "stage_1.json")
    assert found["status"] == "OPEN", found
    assert {row["id"] for row in found["rows"]} == CRITERIA.keys() - {"S1-A03"}  # the mock has no published rate


def test_A78_a_planted_failure_blocks_the_gate_with_its_remedy(files, tmp_path):
    maps = np.load(files["maps"])
    maps[3] = 0
    maps[4, 7] = np.nan
    np.save(tmp_path / "maps.npy", maps)
    found = gate({**files, "maps": str(tmp_path / "maps.npy")}, tmp_path / "stage_1.json")
    assert found["status"] == "BLOCKED" and found["blocked_by"] == ["S1-A08", "S1-A08b"]
    criteria = {**CRITERIA, "S1-A07": {**CRITERIA["S1-A07"], "bound": 1.1}}
    gate(files, tmp_path / "stage_1.json", criteria=criteria)
    text = status_table([tmp_path / "stage_1.json"])
    assert "| 1 | BLOCKED | 5 of 6 | 2 of 2 |" in text
    assert "S1-A07 fraction of cleaned foci inside the brain mask: 1.0, bound >= 1.1" in text
    assert "S1-A07: check the sign of x and the offset of the grid" in text


def test_A78_a_blocked_stage_blocks_the_next_one(files, tmp_path):
    (tmp_path / "before.json").write_text('{"phase": 0, "status": "BLOCKED"}')
    assert gate(files, tmp_path / "stage_1.json", previous=str(tmp_path / "before.json"))["status"] == "BLOCKED"


def test_criteria_of_the_stages_belong_to_features_of_the_table():
    page = (Path(__file__).parents[2] / "docs/atlas_criteria.md").read_text()
    for name in read_criteria({}, []):
        if name.startswith("S"):
            assert re.fullmatch(r"S[1-4]-A\d\d[a-z]?", name) and f"| {name[3:6]} |" in page, name


def test_measured_values_name_their_files(files):
    rows = measure(1, {name: Path(path) for name, path in files.items()})
    assert {row["source"] for row in rows} == set(files.values())
