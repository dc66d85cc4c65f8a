"""Two processes that divide a batch have the gradient and the history of one process."""

import os
import socket

import pandas as pd
import pytest
import torch
import torch.multiprocessing as mp

import workflow_scripts  # noqa: F401  # before MONAI, as in a job: the processes start faster
from neuromf.meanflow import flow, module
from neuromf.meanflow.run import build_network
from neuromf.training import trainer

NET = {"widths": [8, 16], "res_blocks": 1, "attention": [False, True], "head_width": 8, "norm_groups": 4}
TIMES = {"fraction_r_equals_t": 0.5, "fraction_corner": 0.25}


class Watched(module.MeanFlowModule):
    """Stores the gradient of every step before clipping."""

    def on_before_optimizer_step(self, optimizer):
        super().on_before_optimizer_step(optimizer)
        self.gradients = [*getattr(self, "gradients", []), torch.cat([p.grad.flatten() for p in self.u.parameters()])]


def run(folder, name, derivative, devices=1):
    """Train three steps; write gradients and history to folder/{name}.pt."""
    data = torch.randn(10, 4, 4, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    u = build_network(NET, "x", seed=3)
    torch.nn.init.normal_(u.net.out[2].conv.weight, std=0.1, generator=torch.Generator().manual_seed(4))
    settings = {"batch": 8, "lr": 1e-3, "seed": 5, "warmup": 1, "log_every": 1, "ema_images": [8]}
    study = Watched(u, data, steps=3, times=TIMES, tangent="predicted", derivative=derivative, **settings)
    checkpoint = folder / "run" / "last.ckpt"
    trainer.fit(study, checkpoint=checkpoint, checkpoint_every=2, precision="64-true", clip=1e9, accelerator="cpu",
                devices=devices)  # fmt: skip
    assert not checkpoint.exists()
    torch.save({"gradients": study.gradients, "history": study.history}, folder / f"{name}.pt")


def process(rank, folder, port):
    torch.set_num_threads(1)
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), LOCAL_RANK=str(rank), NODE_RANK="0", WORLD_SIZE="2"
    )
    for derivative in flow.DERIVATIVES:
        run(folder / derivative, rank, derivative, devices=2)


def free_port():
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return opened.getsockname()[1]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder for each derivative, with the results of two processes, which train one after the other."""
    folder = tmp_path_factory.mktemp("ddp")
    for derivative in flow.DERIVATIVES:
        (folder / derivative).mkdir()
    mp.spawn(process, (folder, free_port()), nprocs=2)
    return folder


@pytest.mark.parametrize("derivative", flow.DERIVATIVES)
def test_every_rank_has_the_gradient_of_the_global_batch(trained, derivative):
    run(trained / derivative, "alone", derivative)
    alone, *ranks = (torch.load(trained / derivative / f"{name}.pt") for name in ("alone", 0, 1))
    for rank in ranks:
        assert len(rank["gradients"]) == 3
        torch.testing.assert_close(rank["gradients"], alone["gradients"], rtol=1e-9, atol=1e-12)
        pd.testing.assert_frame_equal(pd.DataFrame(rank["history"]), pd.DataFrame(alone["history"]))


def test_a_batch_that_is_no_multiple_of_the_processes_is_rejected():
    settings = {"batch": 3, "steps": 1, "lr": 1e-3, "seed": 0, "times": TIMES}
    study = module.MeanFlowModule(build_network(NET, "x"), torch.zeros(4, 4, 4, 4, 4), **settings)
    study._trainer = type("TwoProcesses", (), {"global_rank": 1, "world_size": 2})()
    with pytest.raises(ValueError, match="train.batch must be a multiple of the number of processes, 2; got 3"):
        study.local_rows(torch.zeros(3))


@pytest.mark.parametrize("tasks, processes, launcher", [(1, 2, "Lightning"), (2, 2, "SLURM"), (1, 1, "Lightning")])
def test_the_slurm_environment_is_used_only_if_srun_started_all_processes(monkeypatch, tasks, processes, launcher):
    monkeypatch.setenv("SLURM_NTASKS", str(tasks))
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", str(tasks))
    assert type(trainer.environment(processes)).__name__ == f"{launcher}Environment"
