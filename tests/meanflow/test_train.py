"""Training of a run from its files: outputs, resources, alarms, the script."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from neuromf.core.files import save_tensors
from neuromf.data.participants import write_table
from neuromf.meanflow import diagnostics
from neuromf.meanflow.diagnostics import TrainingAlarm
from neuromf.meanflow.run import load_run
from neuromf.meanflow.train import train
from neuromf.vae import statistics
from workflow_scripts import train as script

ROOT = Path(__file__).parents[2]
NET = {"widths": [8, 16], "res_blocks": 1, "attention": [False, True], "head_width": 8, "norm_groups": 4}
FLOW = {
    "prediction": "x", "prior_axes": 3, "tangent": "predicted", "flow_matching_steps": 2, "interval_warmup_steps": 0,
    "times": {"fraction_r_equals_t": 0.5, "fraction_corner": 0.25},
}  # fmt: skip
TRAIN = {
    "participant_fraction": 1.0, "use_augmented": True, "steps": 6, "batch": 4, "lr": 1e-3, "warmup": 1, "log_every": 1,
    "seed": 0, "checkpoint_every": 4, "precision": "32-true", "clip": 1.0, "accumulate": 1, "start": None,
    "ema_images": [8], "diagnostics": {"every": 3, "nfe": 2, "n": 2},
}  # fmt: skip
CONFIG = {"net": NET, "flow": FLOW, "train": TRAIN}
FILES = ["card.json", "ckpt", "diagnostics.csv", "history.csv", "model.pt"]


@pytest.fixture
def inputs(tmp_path):
    """Latents of twelve participants that vary along six directions, their statistics, and the participants table."""
    scans = [f"s{k}" for k in range(12)]
    write_table(pd.DataFrame({"scan": scans, "participant": scans, "split": "train"}), tmp_path / "qc.tsv")
    draw = torch.Generator().manual_seed(0)
    mean = (torch.randn(12, 6, generator=draw) @ torch.randn(6, 256, generator=draw) / 6**0.5).view(12, 4, 4, 4, 4)
    empty = {"augmented": mean[:0], "augmented_scans": []}
    save_tensors({"scans": scans, "mean": mean, "std": mean.abs(), **empty}, tmp_path / "0.pt")
    (tmp_path / "stats.json").write_text(json.dumps(statistics.statistics(mean, mean.abs())))
    return {"latents": [tmp_path / "0.pt"], "stats": tmp_path / "stats.json", "qc": tmp_path / "qc.tsv"}


def test_the_returned_run_is_the_one_in_the_output_folder(inputs, tmp_path):
    run = train(**inputs, **CONFIG, out=tmp_path / "run")
    stored = load_run(tmp_path / "run" / "model.pt")
    assert all(torch.equal(w, stored.u.state_dict()[name]) for name, w in run.u.state_dict().items())
    assert (run.shape, run.stats) == (stored.shape, stored.stats)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == FILES
    assert not list((tmp_path / "run" / "ckpt").iterdir())
    card = json.loads((tmp_path / "run" / "card.json").read_text())
    assert card["config"] == CONFIG and card["data"] == {"stats": str(inputs["stats"]), "n_latents": 12}


def test_memory_mapped_latents_give_the_same_bits(inputs, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    for name, memory_mb in (("memory", 8000), ("disk", 0)):
        caplog.clear()
        train(**inputs, **CONFIG, out=tmp_path / name, memory_mb=memory_mb)
        assert ("memory-mapped" in caplog.text) == (name == "disk")
    for name in ("history.csv", "diagnostics.csv", "model.pt"):
        assert (tmp_path / "memory" / name).read_bytes() == (tmp_path / "disk" / name).read_bytes()


def arguments(inputs, config, out, **machine):
    """Command line of the script."""
    files = {name: out / file for name, file in (("model", "model.pt"), ("card", "card.json"))}
    files |= {name: out / f"{name}.csv" for name in ("history", "diagnostics")}
    values = {**inputs, "latents": inputs["latents"][0], "config": json.dumps(config), **files}
    values |= {"gpus": 0, "nodes": 1, "memory_mb": 8000, **machine}
    return [part for name, value in values.items() for part in (f"--{name}", str(value))]


def test_the_script_trains_the_same_run_with_two_processes(inputs, tmp_path):
    train(**inputs, **CONFIG, out=tmp_path / "one")
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "workflow_scripts.train", *arguments(inputs, CONFIG, tmp_path / "two", gpus=2)]
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "2 processes" in done.stderr and "GLOBAL_RANK: 1" in done.stderr
    for name in ("history", "diagnostics"):
        one, two = (pd.read_csv(tmp_path / folder / f"{name}.csv") for folder in ("one", "two"))
        pd.testing.assert_frame_equal(one, two, rtol=1e-4)
    one, two = (torch.load(tmp_path / folder / "model.pt", weights_only=True) for folder in ("one", "two"))
    assert one.keys() == two.keys()
    one, two = (json.loads((tmp_path / folder / "card.json").read_text()) for folder in ("one", "two"))
    assert one["parameters"] == two["parameters"]


def test_an_alarm_stops_the_training_and_leaves_its_diagnostics(inputs, tmp_path, monkeypatch):
    always = diagnostics.Alarm("always", lambda rows: "a problem", "a cause", "a cure")
    monkeypatch.setattr(diagnostics, "ALARMS", (always,))
    settings = TRAIN | {"steps": 12, "diagnostics": TRAIN["diagnostics"] | {"on_alarm": "stop"}}
    message = r"step 9: a problem. Likely cause: a cause. Cure: a cure.\nDiagnostics until then: .*ckpt/diagnostics.csv"
    with pytest.raises(TrainingAlarm, match=message):
        train(**inputs, net=NET, flow=FLOW, train=settings, out=tmp_path / "run")
    rows = pd.read_csv(tmp_path / "run" / "ckpt" / "diagnostics.csv")
    assert {"raw_fm", "temporal", "alarm"} <= set(rows["quantity"]) and rows["step"].max() == 9
    assert not (tmp_path / "run" / "diagnostics.csv").exists()


def test_the_script_ends_with_the_message_of_the_alarm(inputs, tmp_path, monkeypatch):
    def stop(**_):
        raise TrainingAlarm("step 3: endpoint is nan")

    monkeypatch.setattr(script, "train", stop)
    with pytest.raises(SystemExit, match="step 3: endpoint is nan"):
        script.main(arguments(inputs, CONFIG, tmp_path / "run"))
