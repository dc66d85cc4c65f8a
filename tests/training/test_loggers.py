"""Loggers: none by default, and an offline Weights & Biases run with the rows of the history."""

import sys
import types

import pytest
import torch

from neuromf.meanflow.module import MeanFlowModule
from neuromf.meanflow.run import build_network
from neuromf.training import loggers, trainer

NET = {"widths": [8, 16], "res_blocks": 1, "attention": [False, True], "head_width": 8, "norm_groups": 4}


class FakeRun:
    def __init__(self):
        self.rows, self.finished = [], False

    def log(self, row, step):
        self.rows.append({"step": step, **row})

    def finish(self):
        self.finished = True


@pytest.fixture
def wandb(monkeypatch):
    """A module in place of wandb, which collects the arguments of `init` and the logged rows."""
    module = types.ModuleType("wandb")
    module.settings, module.runs = [], []

    def init(**settings):
        module.settings.append(settings)
        module.runs.append(FakeRun())
        return module.runs[-1]

    module.init = init
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def fit(folder, logger, steps=4):
    data = torch.randn(6, 4, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    settings = {"batch": 2, "lr": 1e-3, "seed": 0, "log_every": 2, "times": {}}
    module = MeanFlowModule(build_network(NET, "u"), data, steps=steps, **settings)
    trainer.fit(module, checkpoint=folder / "ckpt" / "last.ckpt", accelerator="cpu", logger=logger)
    return module


def test_wandb_gets_the_rows_of_the_history_offline(tmp_path, wandb):
    module = fit(tmp_path / "meanflow", "wandb")
    (settings,), (run,) = wandb.settings, wandb.runs
    assert settings == {
        "project": "neuromf", "name": "meanflow", "dir": str(tmp_path / "meanflow"), "mode": "offline",
    }  # fmt: skip
    assert repr(run.rows) == repr(module.history) and [row["step"] for row in run.rows] == [2, 4]
    assert run.finished


def test_a_resumed_training_logs_its_earlier_rows_too(tmp_path, wandb):
    logger = loggers.WandbLogger(tmp_path)
    logger.log([{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0}])
    logger.log([{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0}, {"step": 3, "loss": 1.0}])
    assert [row["step"] for row in wandb.runs[0].rows] == [1, 2, 3]


def test_by_default_wandb_is_not_imported(tmp_path, wandb):
    fit(tmp_path, "csv")
    assert not wandb.runs


def test_without_the_package_the_message_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ImportError, match=r"pip install 'neuromf\[wandb\]', or set logger to csv"):
        fit(tmp_path, "wandb")


def test_an_unknown_logger_is_rejected(tmp_path):
    with pytest.raises(ValueError, match="logger must be one of csv, wandb; got 'tensorboard'"):
        fit(tmp_path, "tensorboard")
