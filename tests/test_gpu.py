"""What only a GPU shows, at paper shape: every GPU job runs, its peak is that of the account, bf16 trains as float32.

Run with `pytest -m gpu`. Weights are random, so nothing is downloaded. Needs 8 GB of GPU memory.
"""

import copy
from pathlib import Path

import pytest
import torch
import yaml
from snakemake.utils import update_config

from neuromf.benchmarks import memory_fake, memory_jobs
from neuromf.config.study import read_config
from neuromf.core import hardware
from neuromf.lesions.network import add_adapters
from neuromf.meanflow import flow
from neuromf.training import trainer
from neuromf.vae.maisi import MAISIVAEWrapper, decode_safely, encode_safely
from neuromf.workflow.params import dump

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device"),
]
ROOT = Path(__file__).parents[1]
LATENT, VOLUME = (4, 32, 32, 32), (1, 1, 128, 128, 128)


@pytest.fixture
def run():
    """Sections of the main run of the 8 GB study."""
    config = yaml.safe_load((ROOT / "config.yaml").read_text())
    for name in ("paper_scale", "ixi"):
        update_config(config, yaml.safe_load((ROOT / f"studies/{name}.yaml").read_text()))
    return dump(read_config(config).meanflow, "net", "flow", "train")


def fit(run, folder, steps=20, **changes):
    """Train a run for some steps on random latents; intervals are open from the first step on."""
    torch.manual_seed(0)
    module = memory_jobs.new_module(**run, shape=LATENT)
    module.steps, module.log_every = steps, 5
    settings = {"precision": run["train"]["precision"], "accumulate": run["train"]["accumulate"], **changes}
    trainer.fit(module, checkpoint=folder / "last.ckpt", checkpoint_every=5, **settings)
    return module


def peak_mb(call):
    hardware.reset_peak("cuda")
    call()
    return hardware.peak_mb("cuda")


@pytest.mark.parametrize("task", ["encode", "decode"])
def test_the_published_autoencoder_fits_and_its_peak_is_that_of_the_account(task):
    job = {"architecture": "published", "num_splits": 4, "shape": VOLUME[2:], "task": task, "precision": "float32"}
    vae = MAISIVAEWrapper(num_splits=4).cuda()
    call = {"encode": lambda: encode_safely(vae, torch.rand(VOLUME)),
            "decode": lambda: decode_safely(vae, torch.randn(1, *LATENT))}[task]  # fmt: skip
    account = memory_fake.inference_account(lambda: memory_jobs.new_autoencoder(**job)).total - memory_jobs.CONTEXT_MB
    assert peak_mb(call) == pytest.approx(account, rel=0.2)


def test_twenty_steps_stay_within_the_account(run, tmp_path):
    account = memory_fake.training_account(**run, shape=LATENT)
    measured = peak_mb(lambda: fit(run, tmp_path))
    assert measured < account.total < 7200
    assert measured == pytest.approx(account.total - memory_jobs.CONTEXT_MB, rel=0.2)


def test_batches_reach_the_gpu_from_pinned_memory(monkeypatch):
    rows, pinned = torch.randn(16, *LATENT), []
    pin = torch.Tensor.pin_memory
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: pinned.append(pin(self)) or pinned[-1])
    assert torch.equal(hardware.to_device(rows, torch.device("cuda")).cpu(), rows) and pinned[0].is_pinned()


def test_a_derivative_in_bf16_is_close_to_float32(run):
    u = memory_jobs.new_module(**run, shape=LATENT).u.cuda()
    torch.nn.init.normal_(u.net.out[2].conv.weight, std=0.1)
    z, v, t = torch.randn(2, *LATENT, device="cuda"), torch.randn(2, *LATENT, device="cuda"), torch.rand(2).cuda()
    exact, half = (flow.total_derivative(u, z, t, 0.5 * t, v, precision) for precision in ("float32", "bf16"))
    assert float((half[1] - exact[1]).norm() / exact[1].norm()) < 0.05


def test_bf16_and_float32_train_alike(run, tmp_path):
    losses = {p: fit(run, tmp_path / p, precision=p).history[-1]["raw_fm"] for p in ("bf16-mixed", "32-true")}
    assert losses["bf16-mixed"] == pytest.approx(losses["32-true"], rel=0.05)


def test_an_interrupted_training_resumes(run, tmp_path):
    broken_steps = copy.deepcopy(run)
    torch.manual_seed(0)
    broken = memory_jobs.new_module(**broken_steps, shape=LATENT)
    broken.steps, broken.log_every, step = 20, 5, broken.training_step

    def killed(batch, batch_idx):  # Lightning inspects these names
        if broken.global_step == 12:
            raise KeyboardInterrupt
        return step(batch, batch_idx)

    broken.training_step = killed
    settings = {"precision": run["train"]["precision"], "accumulate": run["train"]["accumulate"]}
    with pytest.raises(BaseException):  # noqa: B017 - Lightning wraps a keyboard interrupt in an exit
        trainer.fit(broken, checkpoint=tmp_path / "last.ckpt", checkpoint_every=5, **settings)
    resumed = fit(run, tmp_path)
    assert [row["step"] for row in resumed.history] == [5, 10, 15, 20] and int(resumed.drawn) == 40


def test_a_sample_is_finite(run):
    u, _ = memory_jobs.new_sampling(net=run["net"], flow=run["flow"], shape=LATENT, batch=8)
    z = flow.sample(u.cuda(), torch.randn(8, *LATENT, device="cuda"))
    assert z.shape == (8, *LATENT) and z.isfinite().all()


def test_an_adapted_network_trains(run):
    run["flow"] |= {"prior": {"axes": [4], "block": [4], "shrinkage": [0.1]}}
    u = memory_jobs.new_module(**run, shape=LATENT).u
    adapted = add_adapters(u, 5, rank=16, alpha=16.0, targets="attention").cuda()
    z, t = torch.randn(4, 5, *LATENT[1:], device="cuda"), torch.full((4,), 0.5, device="cuda")
    adapted(z, t, t * 0.5).square().mean().backward()
    gradients = [p.grad for p in adapted.parameters() if p.requires_grad]
    assert gradients and all(g.isfinite().all() for g in gradients if g is not None)
