"""Gates of the experiments: a collapsed latent is blocked, a healthy one is open."""

import json

import pandas as pd
import pytest

from neuromf.metrics.criteria import measure
from neuromf.workflow.criteria import read_criteria
from neuromf.workflow.gates import evaluate_gate, summary


def gate(folder, au=0.5, kl=30.0, bypass=0.4, r2_vol=0.7):
    table = {
        "diag/au_frac": [0.0, au, None],
        "val_epoch/kl_raw": [0.1, 1.0, kl],
        "diag/bypass_ratio": [0, bypass, None],
    }
    pd.DataFrame(table).to_csv(folder / "epochs.csv")
    scores = {"r2_vol": r2_vol, "r2_bright_voxels": 0.6, "traversal_spearman": 0.95, "ode_readiness": 0.4}
    (folder / "scores.json").write_text(json.dumps(scores))
    rows = measure("growth", {"history": folder / "epochs.csv", "scores": folder / "scores.json"})
    return evaluate_gate(rows, read_criteria({}, []), phase="exp1", study="embedded")


def test_G42_a_healthy_latent_opens_its_gate_with_six_rows(tmp_path):
    found = gate(tmp_path)
    assert found["status"] == "OPEN" and [row["id"] for row in found["rows"]] == [f"G-T{k}" for k in range(1, 7)]
    assert [row["measured"] for row in found["rows"]] == pytest.approx([0.5, 30, 0.4, 0.1, 0.95, 0.4])
    assert [row["passed"] for row in found["rows"]] == [True] * 5 + [False]


@pytest.mark.parametrize("fault, name", [({"au": 0.0}, "G-T1"), ({"kl": 2.0}, "G-T2"), ({"bypass": 0.01}, "G-T3")])
def test_G42_a_collapsed_latent_is_blocked_by_its_row(tmp_path, fault, name):
    found = gate(tmp_path, **fault)
    assert found["blocked_by"] == [name] and "phase exp1 is BLOCKED" in summary(found)


def test_G42_a_latent_worse_than_bright_voxels_is_reported(tmp_path):
    found = gate(tmp_path, r2_vol=0.5)
    assert found["status"] == "OPEN" and not found["rows"][3]["passed"]
