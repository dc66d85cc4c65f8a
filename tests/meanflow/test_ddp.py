"""Two processes train as one: the same batch, shared out, gives the same gradient and the same history on each."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
import torch.multiprocessing as mp

from neuromf.core.files import save_tensors
from neuromf.data.participants import write_table
from neuromf.meanflow import flow, module
from neuromf.meanflow.run import build_network
from neuromf.training import trainer
from neuromf.vae import statistics

ROOT = Path(__file__).parents[2]
NET = {"widths": [8, 16], "res_blocks": 1, "attention": [False, True], "head_width": 8, "norm_groups": 4}
TIMES = {"fraction_r_equals_t": 0.5, "fraction_corner": 0.25}


class Watched(module.MeanFlowModule):
    """Keeps the gradient of every step, as the optimiser meets it."""

    def on_before_optimizer_step(self, optimizer):
        super().on_before_optimizer_step(optimizer)
        self.seen = [*getattr(self, "seen", []), torch.cat([p.grad.flatten() for p in self.u.parameters()])]


def run(folder, name, derivative, devices=1):
    """Train three steps and leave gradients and history in folder/{name}.pt."""
    data = torch.randn(10, 4, 4, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    u = build_network(NET, "x", seed=3)
    torch.nn.init.normal_(u.net.out[2].conv.weight, std=0.1, generator=torch.Generator().manual_seed(4))
    settings = {"batch": 8, "lr": 1e-3, "seed": 5, "warmup": 1, "log_every": 1, "ema_images": [8]}
    study = Watched(u, data, steps=3, times=TIMES, tangent="predicted", derivative=derivative, **settings)
    checkpoint = folder / "run" / "last.ckpt"
    trainer.fit(study, checkpoint=checkpoint, checkpoint_every=2, precision="64-true", clip=1e9, accelerator="cpu",
                devices=devices)  # fmt: skip
    assert not checkpoint.exists()
    torch.save({"gradients": study.seen, "history": study.history}, folder / f"{name}.pt")


def process(rank, folder, derivative, port):
    torch.set_num_threads(1)
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), LOCAL_RANK=str(rank), NODE_RANK="0", WORLD_SIZE="2"
    )
    run(folder, rank, derivative, devices=2)


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.mark.parametrize("derivative", ["joint", "lean"])
def test_every_rank_has_the_gradient_of_the_joined_batch(tmp_path, derivative):
    assert set(flow.DERIVATIVES) == {"joint", "lean", "differences"}
    run(tmp_path, "alone", derivative)
    mp.spawn(process, (tmp_path, derivative, free_port()), nprocs=2)
    alone, *ranks = (torch.load(tmp_path / f"{name}.pt") for name in ("alone", 0, 1))
    for rank in ranks:
        assert len(rank["gradients"]) == 3
        torch.testing.assert_close(rank["gradients"], alone["gradients"], rtol=1e-9, atol=1e-12)
        pd.testing.assert_frame_equal(pd.DataFrame(rank["history"]), pd.DataFrame(alone["history"]))


def test_a_batch_that_cannot_be_shared_out_is_refused():
    study = module.MeanFlowModule(build_network(NET, "x"), torch.zeros(4, 4, 4, 4, 4), batch=3, steps=1, lr=1e-3, seed=0,
                               times=TIMES)  # fmt: skip
    study._trainer = type("TwoProcesses", (), {"global_rank": 1, "world_size": 2})()
    with pytest.raises(ValueError, match="train.batch must be a multiple of the number of processes, 2; got 3"):
        study.local_rows(torch.zeros(3))


# --- the script --------------------------------------------------------------------------------------


@pytest.fixture
def encoded(tmp_path):
    """Arguments of the script that trains, with noise as latents of twelve people."""
    scans = [f"s{k}" for k in range(12)]
    write_table(pd.DataFrame({"scan": scans, "person": scans, "split": "train"}), tmp_path / "qc.tsv")
    mean = torch.randn(12, 4, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    empty = {"copies": mean[:0], "copied": []}
    save_tensors({"scans": scans, "mean": mean, "std": mean.abs(), **empty}, tmp_path / "0.pt")
    (tmp_path / "stats.json").write_text(json.dumps(statistics.statistics(mean, mean.abs())))
    head = {
        "prediction": "x",
        "prior_axes": 3,
        "tangent": "predicted",
        "flow_matching_steps": 2,
        "interval_warmup_steps": 0,
        "times": TIMES,
    }
    train = {"people": 1.0, "copies": True, "steps": 6, "batch": 4, "lr": 1e-3, "warmup": 1, "log_every": 1, "seed": 0}
    train |= {"checkpoint_every": 4, "precision": "32-true", "clip": 1.0, "accumulate": 1, "start": None}
    train |= {"ema_images": [8], "diagnostics": {"every": 3, "evaluations": 2, "n": 2}}
    config = json.dumps({"net": NET, "flow": head, "train": train})
    inputs = {"latents": tmp_path / "0.pt", "stats": tmp_path / "stats.json", "qc": tmp_path / "qc.tsv"}
    return [*options({name: str(path) for name, path in inputs.items()}), "--config", config]


def options(values):
    return [part for name, value in values.items() for part in (f"--{name}", str(value))]


def train(arguments, folder, **machine):
    """What the script leaves in a folder, and what it says."""
    folder.mkdir()
    made = {name: folder / file for name, file in (("model", "model.pt"), ("card", "card.json"))}
    made |= {name: folder / f"{name}.csv" for name in ("history", "diagnostics")}
    asked = options({"gpus": 0, "nodes": 1, "memory_mb": 8000, **machine} | made)
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-m", "workflow_scripts.train", *arguments, *asked], env=env, cwd=ROOT,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return {name: path.read_text() for name, path in made.items() if name != "model"}, done.stderr


def test_the_script_trains_the_same_run_with_two_processes(encoded, tmp_path):
    alone, _ = train(encoded, tmp_path / "one")
    shared, said = train(encoded, tmp_path / "two", gpus=2)
    assert "2 processes" in said and "GLOBAL_RANK: 1" in said
    for name in ("history", "diagnostics"):
        one, two = (pd.read_csv(tmp_path / where / f"{name}.csv") for where in ("one", "two"))
        pd.testing.assert_frame_equal(one, two, rtol=1e-4)
    one, two = (torch.load(tmp_path / where / "model.pt", weights_only=True) for where in ("one", "two"))
    assert one.keys() == two.keys()
    assert json.loads(shared["card"])["parameters"] == json.loads(alone["card"])["parameters"]


def test_the_script_trains_the_same_bits_from_latents_that_stay_on_disk(encoded, tmp_path):
    _, said = train(encoded, tmp_path / "memory")
    _, told = train(encoded, tmp_path / "disk", memory_mb=0)
    assert "stay on disk" in told and "stay on disk" not in said
    for name in ("history.csv", "diagnostics.csv", "model.pt"):
        assert (tmp_path / "memory" / name).read_bytes() == (tmp_path / "disk" / name).read_bytes()


@pytest.mark.parametrize("tasks, processes, found", [(1, 2, "Lightning"), (2, 2, "SLURM"), (1, 1, "Lightning")])
def test_processes_find_each_other_through_srun_only_where_it_started_them(monkeypatch, tasks, processes, found):
    monkeypatch.setenv("SLURM_NTASKS", str(tasks))
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", str(tasks))
    assert type(trainer.environment(processes)).__name__ == f"{found}Environment"
