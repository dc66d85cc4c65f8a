"""A training that two processes divide equals that of one process."""

import os
import socket

import pandas as pd
import pytest
import torch
import torch.multiprocessing as mp
from growth.training_helpers import loaders, run

CHANGES = {
    "model": {"variant": "dipvae_sbd"},
    "loss": {"reduction": "mean", "lambda_start_epoch": 0, "lambda_cov_annealing_epochs": 1, "use_ddp_gather": True},
    "train": {"max_epochs": 2, "kl_free_bits": 0.1, "gradient_clip_val": 5.0},
}


def process(rank, folder, port):
    torch.set_num_threads(1)
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ.update(address, LOCAL_RANK=str(rank), NODE_RANK="0", WORLD_SIZE="2")
    changes = CHANGES | {"train": {**CHANGES["train"], "devices": 2}}
    run(folder / "two", data=(loaders(n=8, batch=2)[0], loaders(batch=4)[1]), **changes)


@pytest.mark.slow
def test_G28_a_fit_of_two_processes_equals_one_in_metrics_and_weights(tmp_path):
    run(tmp_path / "one", data=loaders(n=8, batch=4), **CHANGES)
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        port = opened.getsockname()[1]
    mp.spawn(process, (tmp_path, port), nprocs=2)
    one, two = (pd.read_csv(tmp_path / name / "logs/epoch_metrics.csv") for name in ("one", "two"))
    pd.testing.assert_frame_equal(one, two[one.columns], rtol=1e-6, atol=1e-6)
    weights = [torch.load(tmp_path / name / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
               for name in ("one", "two")]  # fmt: skip
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], rtol=1e-6, atol=1e-6)
