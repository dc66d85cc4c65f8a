"""Gates of the stages: measured values, a planted failure, the status table."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from atlas.atlas_helpers import SPACE

from neuromf.atlas.baselines import measure as measure_baselines
from neuromf.atlas.criteria import measure
from neuromf.atlas.preparation import prepare_studies, write_maps
from neuromf.workflow.criteria import read_criteria
from neuromf.workflow.status import status_table
from workflow_scripts import atlas_gate

ALL = {name: row._asdict() for name, row in read_criteria({}, []).items()}
CRITERIA, SECOND = ({name: row for name, row in ALL.items() if name.startswith(stage)} for stage in ("S1-", "S2-"))
RESULTS = {
    "bits": {mode: {"difference": {"low": 0.02}} for mode in ("conditional", "completion")},
    "generation": {"model": {"recall": 0.4}, "mean_map": {"recall": 0.0}},
    "counterfactual": [{"p": 0.01}, {"p": 0.4}],
    "leakage": [{"leaks": True}, {"leaks": False}],
    "external": {
        "task": [{"features": "model", "protocol": "cross", "balanced_accuracy": 0.6},
                 {"features": "n_foci", "protocol": "cross", "balanced_accuracy": 0.55}],
        "button_press": {"model": {"motor_rank": 1}},
        "pain": {"summary": [{"model": "topic_decoded", "r": 0.3}, {"model": "mean_map", "r": 0.25}]},
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    prepare_studies(folder / "studies", scale="mock", data_root="", space=SPACE, split=[0.7, 0.15, 0.15], seed=0)
    write_maps(folder / "studies", folder / "12.npy", grid="6mm", fwhm_mm=12.0, combine="noisy_or")
    measure_baselines(studies=folder / "studies", out=folder / "bits.csv", grid="6mm")
    write_history(folder / "history.csv", [160, 150, 140, 130, 120])
    return {"studies": str(folder / "studies"), "maps": str(folder / "12.npy"), "ladder": str(folder / "bits.csv"),
            "history": str(folder / "history.csv")}  # fmt: skip


def write_history(path, recon):
    pd.DataFrame({"recon": recon, "kl": 5.0}).to_csv(path, index=False)


def second_stage(folder, results):
    """Files of stage 2 with these results."""
    (folder / "results.json").write_text(json.dumps(results))
    write_history(folder / "second.csv", [160, 159, 158, 157, 156])
    return {"results": str(folder / "results.json"), "history": str(folder / "second.csv")}


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
    assert "| 1 | BLOCKED | 9 of 10 | 2 of 2 |" in text
    assert "S1-A07 fraction of cleaned foci inside the brain mask: 1.0, bound >= 1.1" in text
    assert "S1-A07: check the sign of x and the offset of the grid" in text


def test_A78_the_gate_of_the_second_stage_reads_the_evaluation(tmp_path):
    found = gate(second_stage(tmp_path, RESULTS), tmp_path / "stage_2.json", phase=2, criteria=SECOND)
    assert found["status"] == "OPEN" and {row["id"] for row in found["rows"]} == SECOND.keys()
    values = {row["id"]: row["measured"] for row in found["rows"]}
    assert values["S2-A31"] == 0.5 and values["S2-A66"] == pytest.approx(0.05) and values["S2-A83"] == 1


@pytest.mark.parametrize(
    ("row", "change"),
    [
        ("S2-A64", {"bits": {**RESULTS["bits"], "conditional": {"difference": {"low": -0.001}}}}),
        ("S2-A31", {"counterfactual": [{"p": 0.2}] * 20}),
    ],
)
def test_A78_a_model_that_fails_blocks_the_second_stage_with_its_remedy(row, change, tmp_path):
    found = gate(second_stage(tmp_path, RESULTS | change), tmp_path / "stage_2.json", phase=2, criteria=SECOND)
    assert found["status"] == "BLOCKED" and found["blocked_by"] == [row]
    assert f"{row}: raise loss.density_steps" in status_table([tmp_path / "stage_2.json"])


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


def test_A78_the_gate_of_the_third_stage_measures_uncertainty_and_hierarchy(tmp_path):
    def row(split, region, scaling, ece):
        return {"split": split, "region": region, "scaling": scaling, "ece": ece, "nll": -1.2, "nll_constant": -0.9}

    eces = {"none": 0.3, "temperature": 0.31, "coverage": 0.05}
    rows = [row(split, region, name, ece) for split in ("val", "test") for region in ("brain", "12 mm of foci")
            for name, ece in eces.items()]  # fmt: skip
    (tmp_path / "calibration.json").write_text(json.dumps({"digests": list("abcde"), "rows": rows}))
    critical = [{"passed": True, "kind": "critical"}] * 4 + [{"passed": False, "kind": "critical"}]
    passed = [*critical, {"passed": False, "kind": "informational"}]
    (tmp_path / "hierarchy.json").write_text(json.dumps({"numbers": {"skip_gradient": 0.0}, "criteria": passed}))
    files = {name: tmp_path / f"{name}.json" for name in ("calibration", "hierarchy")}
    found = {one["id"]: one["value"] for one in measure(3, files)}
    assert found == pytest.approx({"S3-A41": 5, "S3-A43": 0.3, "S3-A43b": 0.3, "S3-A43c": 0.05, "S3-A44": 0.05,
                                   "S3-A44b": 0.05, "S3-A45": -0.3, "S3-A48": 0, "S3-A49": 0.8})  # fmt: skip
    criteria = {name: one._asdict() for name, one in read_criteria({}, []).items() if name.startswith("S3-")}
    gate = {"study": "test", "phase": 3, "files": {k: str(v) for k, v in files.items()}, "criteria": criteria}
    atlas_gate.main(["--out", str(tmp_path / "stage_3.json"), "--config", json.dumps(gate)])
    result = json.loads((tmp_path / "stage_3.json").read_text())
    assert result["status"] == "BLOCKED" and result["blocked_by"] == ["S3-A43", "S3-A43b"]
