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
from neuromf.meanflow.module import MeanFlowModule
from neuromf.meanflow.packaged import pack, spacing_of
from neuromf.meanflow.posterior_error import TIMES, evaluate_posterior
from neuromf.meanflow.run import load_run
from neuromf.meanflow.train import train
from neuromf.vae import statistics
from workflow_scripts import train as script

ROOT = Path(__file__).parents[2]
NET = {"widths": [8, 16], "res_blocks": 1, "attention": [False, True], "head_width": 8, "norm_groups": 4}
FLOW = {
    "prediction": "x", "prior": {"axes": [3], "block": [1], "shrinkage": [0.1]}, "tangent": "predicted",
    "flow_matching_steps": 2, "interval_warmup_steps": 0,
    "times": {"fraction_r_equals_t": 0.5, "fraction_corner": 0.25},
}  # fmt: skip
TRAIN = {
    "participant_fraction": 1.0, "use_augmented": True, "steps": 6, "batch": 4, "lr": 1e-3, "warmup": 1, "log_every": 1,
    "seed": 0, "checkpoint_every": 4, "precision": "32-true", "clip": 1.0, "accumulate": 1, "init_from": None,
    "ema_images": [8], "diagnostics": {"every": 3, "nfe": 2, "n": 2},
}  # fmt: skip
CONFIG = {"net": NET, "flow": FLOW, "train": TRAIN}
FILES = ["card.json", "ckpt", "diagnostics.csv", "history.csv", "model.pt"]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Latents of twelve participants that vary along six directions, their statistics, and the participants table."""
    folder = tmp_path_factory.mktemp("inputs")
    scans = [f"s{k}" for k in range(12)]
    write_table(pd.DataFrame({"scan": scans, "participant": scans, "split": "train"}), folder / "qc.tsv")
    draw = torch.Generator().manual_seed(0)
    mean = (torch.randn(12, 6, generator=draw) @ torch.randn(6, 256, generator=draw) / 6**0.5).view(12, 4, 4, 4, 4)
    empty = {"augmented": mean[:0], "augmented_scans": []}
    save_tensors({"scans": scans, "mean": mean, "std": mean.abs(), **empty}, folder / "0.pt")
    (folder / "stats.json").write_text(json.dumps(statistics.statistics(mean, mean.abs())))
    return {"latents": [folder / "0.pt"], "stats": folder / "stats.json", "qc": folder / "qc.tsv"}


@pytest.fixture(scope="module")
def finished(inputs, tmp_path_factory):
    """A run of `CONFIG` and its folder, which no test changes."""
    out = tmp_path_factory.mktemp("finished") / "run"
    return train(**inputs, **CONFIG, out=out), out


def test_the_returned_run_is_the_one_in_the_output_folder(inputs, finished):
    run, out = finished
    stored = load_run(out / "model.pt")
    assert all(torch.equal(w, stored.u.state_dict()[name]) for name, w in run.u.state_dict().items())
    assert (run.shape, run.stats) == (stored.shape, stored.stats)
    assert sorted(path.name for path in out.iterdir()) == FILES
    assert not list((out / "ckpt").iterdir())
    card = json.loads((out / "card.json").read_text())
    assert card["config"] == CONFIG and card["data"] == {"stats": str(inputs["stats"]), "n_latents": 12, "prior": []}


def with_splits(inputs, folder):
    """The inputs with six training, three validation and three test participants."""
    table = pd.read_csv(inputs["qc"], sep="\t")
    table["split"] = ["train", "train", "val", "test"] * 3
    write_table(table, folder / "splits.tsv")
    return inputs | {"qc": folder / "splits.tsv"}


def test_the_prior_and_the_diagnostics_see_validation_participants_and_the_last_table_test_participants(
    inputs, tmp_path
):
    inputs = with_splits(inputs, tmp_path)
    flow = FLOW | {"prior": {"axes": [1, 3], "block": [1, 2], "shrinkage": [0.1]}}
    settings = TRAIN | {"diagnostics": TRAIN["diagnostics"] | {"n_validation": 2}}
    train(**inputs, net=NET, flow=flow, train=settings, out=tmp_path / "run")
    card = json.loads((tmp_path / "run" / "card.json").read_text())
    assert card["data"]["n_latents"] == 6 and len(card["data"]["prior"]) == 4
    rows = pd.read_csv(tmp_path / "run" / "diagnostics.csv")
    rows = rows[rows["quantity"] == "validation"]
    assert set(rows["part"]) == {"network", "prior"} and set(rows["step"]) == {3, 6} and len(rows) == 20
    assert rows[rows["part"] == "prior"].groupby("t")["value"].nunique().eq(1).all()
    out, files = tmp_path / "posterior.csv", {"latents": inputs["latents"], "qc": inputs["qc"]}
    evaluate_posterior(model=tmp_path / "run" / "model.pt", **files, out=out, n_boot=20, seed=0)
    table = pd.read_csv(out)
    assert table["t"].tolist() == list(TIMES) and table["n"].eq(3).all()
    assert (table["low"] <= table["ratio"]).all() and (table["ratio"] <= table["high"]).all()


def test_a_training_that_starts_from_a_run_keeps_its_prior_and_its_statistics(inputs, finished, tmp_path):
    first, folder = finished
    pack(model=folder / "model.pt", out=tmp_path / "packed.safetensors", spacing_mm=2.5)
    assert spacing_of(tmp_path / "packed.safetensors") == 2.5
    other = json.loads(inputs["stats"].read_text()) | {"mean": [9.0] * 4}
    (tmp_path / "other.json").write_text(json.dumps(other))
    for path in (folder / "model.pt", tmp_path / "packed.safetensors"):
        settings = TRAIN | {"init_from": str(path), "steps": 1, "lr": 1e-12}
        second = train(**inputs | {"stats": tmp_path / "other.json"}, net=NET, flow=FLOW, train=settings,
                       out=tmp_path / path.stem)  # fmt: skip
        assert second.stats["mean"] == pytest.approx(first.stats["mean"])
        for name, weight in first.u.state_dict().items():
            torch.testing.assert_close(second.u.state_dict()[name], weight, rtol=2e-3, atol=2e-3)


def test_a_training_does_not_start_from_another_network(inputs, finished, tmp_path):
    settings = TRAIN | {"init_from": str(finished[1] / "model.pt")}
    with pytest.raises(ValueError, match="has another network than meanflow.net and meanflow.flow ask for"):
        train(**inputs, net=NET | {"widths": [8, 8]}, flow=FLOW, train=settings, out=tmp_path / "second")


def test_with_muon_the_training_resumes_with_the_same_bits(inputs, finished, tmp_path, monkeypatch):
    settings = TRAIN | {"muon_lr": 0.02}
    whole = train(**inputs, net=NET, flow=FLOW, train=settings, out=tmp_path / "whole")

    def stop(self, *_):
        if self.global_step == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(MeanFlowModule, "on_train_batch_start", stop)
    with pytest.raises((KeyboardInterrupt, SystemExit, RuntimeError)):
        train(**inputs, net=NET, flow=FLOW, train=settings, out=tmp_path / "resumed")
    monkeypatch.undo()
    resumed = train(**inputs, net=NET, flow=FLOW, train=settings, out=tmp_path / "resumed")
    assert all(torch.equal(w, resumed.u.state_dict()[name]) for name, w in whole.u.state_dict().items())
    assert any(not torch.equal(w, finished[0].u.state_dict()[name]) for name, w in whole.u.state_dict().items())


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


def test_the_script_trains_the_same_run_with_two_processes(inputs, finished, tmp_path):
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "workflow_scripts.train", *arguments(inputs, CONFIG, tmp_path / "two", gpus=2)]
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "2 processes" in done.stderr and "GLOBAL_RANK: 1" in done.stderr
    folders = finished[1], tmp_path / "two"
    for name in ("history", "diagnostics"):
        one, two = (pd.read_csv(folder / f"{name}.csv") for folder in folders)
        pd.testing.assert_frame_equal(one, two, rtol=1e-4)
    one, two = (torch.load(folder / "model.pt", weights_only=True) for folder in folders)
    assert one.keys() == two.keys()
    one, two = (json.loads((folder / "card.json").read_text()) for folder in folders)
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
