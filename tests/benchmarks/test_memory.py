"""GPU memory without a GPU: a network whose memory is computed by hand, and two accounts of the same jobs."""

import copy
import json
import os
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from snakemake.utils import update_config
from torch import nn

from neuromf.benchmarks import memory, memory_cpu, memory_fake, memory_jobs, memory_time
from neuromf.benchmarks.memory_jobs import Account
from neuromf.config.study import read_config
from neuromf.core import hardware
from neuromf.data.preprocessing import prepare
from neuromf.vae.maisi import MAISIVAEWrapper, decode_safely, encode_safely
from neuromf.workflow.arms import Arms
from neuromf.workflow.params import dump
from workflow_scripts import memory as script

ROOT = Path(__file__).parents[2]
SHAPE = (4, 16, 16, 16)


def settings(*studies, volumes=None):
    """Arguments of `memory.jobs` for a study."""
    config = yaml.safe_load((ROOT / "config.yaml").read_text())
    for path in studies:
        update_config(config, yaml.safe_load((ROOT / path).read_text()))
    config = read_config(config)
    runs = {name: dump(run, "net", "flow", "train", "samples") for name, run in Arms(config).runs.items()}
    vae = dump(config.autoencoder, "architecture", "num_splits") | dump(config.latents, "precision")
    pairs = {**dump(config.lesions, "adapter", "finetune"), "n": 60}
    return {"runs": runs, "pairs": pairs, "shape": volumes or config.volumes.shape, **vae}


LAPTOP = ("studies/paper_scale.yaml", "studies/ixi.yaml")
LARGE = ("studies/paper_scale.yaml", "studies/ixi_80gb.yaml")


@pytest.fixture
def small():
    """Sections of a small run: net, flow and train."""
    run = settings()["runs"]["meanflow"]
    net = {**run["net"], "widths": [16, 32], "attention": [False, False], "patch": 1, "norm_groups": 8}
    return {"net": net, "flow": run["flow"] | {"derivative": "two_pass"}, "train": run["train"] | {"batch": 4}}


# --- a network whose memory is known -----------------------------------------------------------------


def three_layers():
    """100 to 200 to 200 to 10 features with ReLU, without biases: 62,000 weights."""
    sizes = [(100, 200), (200, 200), (200, 10)]
    layers = [layer for a, b in sizes for layer in (nn.Linear(a, b, bias=False), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def test_fake_tensors_give_the_memory_of_a_multilayer_perceptron():
    """Batch 1000: two hidden layers are stored, and input, output and one hidden layer are alive at the peak."""
    with memory_fake.fake_tensors():
        net, tracker = three_layers(), memory_fake.StorageTracker()
        tracker.track_external(net)
        with tracker:
            loss = net(torch.randn(1000, 100)).sum()
            stored = tracker.megabytes("current")
            loss.backward()
    weights, hidden = 4 * 62_000, 4 * 200_000
    assert tracker.megabytes("peak") > stored
    assert stored == pytest.approx((weights + 4 * 100_000 + 2 * hidden + 4) / 1e6, abs=1e-3)


def test_the_cpu_stores_what_a_multilayer_perceptron_needs():
    net, x = three_layers(), torch.randn(1000, 100)
    stored = memory_cpu.Stored([*net.parameters(), x])
    with torch.autograd.graph.saved_tensors_hooks(stored.pack, lambda a: a):
        net(x).sum()
    assert stored.megabytes == 2 * 4 * 200_000 / 1e6


def test_views_of_a_stored_tensor_count_once():
    x = torch.ones(1000, requires_grad=True)
    stored = memory_cpu.Stored([x])
    with torch.autograd.graph.saved_tensors_hooks(stored.pack, lambda a: a):
        a = x.exp()
        (a * a[:]).sum()
    assert stored.megabytes == 4 * 1000 / 1e6


def test_the_allocator_of_the_cpu_gives_the_peak_of_a_sum():
    with memory_cpu.allocations() as peak:
        a = torch.ones(1_000_000)
        b = a * 2  # 8 MB
        del a
        b = b.exp_()
    assert peak.megabytes == pytest.approx(8, abs=0.01)


def test_states_are_sixteen_bytes_per_weight_and_four_for_each_average(small):
    module = memory_jobs.new_module(**small, shape=SHAPE)
    sizes, weights = memory_jobs.states(module), sum(p.numel() for p in module.u.parameters())
    assert sizes["gradients"] == 4 * weights / 1e6 and sizes["optimiser"] == 8 * weights / 1e6
    prior = sum(b.numel() for b in module.u.buffers()) * 4 / 1e6
    assert sizes["parameters"] == pytest.approx(4 * weights / 1e6 + prior)
    copied = sum(b.numel() for name, b in module.u.named_buffers() if not name.startswith("prior.")) * 4 / 1e6
    assert sizes["averages"] == pytest.approx(4 * weights / 1e6 + copied) and copied < 0.1 * prior  # shares the prior
    averages = {"ema_images": [8, 32], "averages": "host"}
    host = memory_jobs.new_module(**{**small, "train": small["train"] | averages}, shape=SHAPE)
    assert memory_jobs.states(host)["averages"] == sizes["averages"]  # the second is in host memory


# --- two accounts of one job -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("precision", "derivative"),
    [("bf16-mixed", "two_pass"), pytest.param("32-true", "single_pass", marks=pytest.mark.slow)],
)
def test_two_accounts_of_a_training_agree(small, precision, derivative):
    small["train"]["precision"], small["flow"]["derivative"] = precision, derivative
    fake, cpu = (account.training_account(**small, shape=SHAPE) for account in (memory_fake, memory_cpu))
    if derivative == "two_pass":  # a single pass also stores tensors whose graph is dropped before the backward pass
        assert fake.activations == pytest.approx(cpu.activations, rel=0.1)
    assert abs(memory.difference(fake, cpu)) < 0.15


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["checkpoints", "bf16 derivative", "LoRA"])
def test_two_accounts_agree_with_checkpoints_a_derivative_in_bf16_and_adapters(small, kind):
    small["train"] |= {"precision": "bf16-mixed", "checkpoint_activations": kind == "checkpoints"}
    small["flow"]["derivative_precision"] = "bf16" if kind == "bf16 derivative" else "float32"
    pairs = {"finetune": {"batch": 8}, "adapter": {"rank": 4, "alpha": 4.0, "targets": "convolutions"}}
    arguments = {**memory_jobs.sections(small, pairs if kind == "LoRA" else None), "shape": SHAPE}
    fake, cpu = (account.training_account(**arguments) for account in (memory_fake, memory_cpu))
    assert abs(memory.difference(fake, cpu)) < 0.15, (fake, cpu)


@pytest.mark.slow
def test_checkpoints_and_the_order_of_two_passes_save_memory(small):
    def account(**changes):
        return memory_fake.training_account(**{**small, "train": small["train"] | changes}, shape=SHAPE)

    plain = account()
    assert account(checkpoint_activations=True).activations < 0.5 * plain.activations
    assert plain.transient < plain.activations  # the memory of du/dt is free before activations are stored


def test_two_accounts_of_the_autoencoder_agree():
    job = {
        "architecture": "published",
        "num_splits": 4,
        "shape": (64, 64, 64),
        "task": "encode",
        "precision": "float32",
    }
    fake = memory_fake.inference_account(lambda: memory_jobs.new_autoencoder(**job))
    cpu = memory_cpu.inference_account(lambda: memory_jobs.new_autoencoder(**job, onednn=True))
    assert fake.parameters == cpu.parameters == pytest.approx(4 * 20_944_897 / 1e6)
    assert abs(fake.transient - cpu.transient) < 0.15 * fake.transient


# --- page and refusal --------------------------------------------------------------------------------


def test_a_small_gpu_is_refused_with_numbers_and_with_a_batch_that_fits(small, monkeypatch):
    account = lambda train, **_: Account(parameters=500, activations=100 * train["batch"])  # noqa: E731
    monkeypatch.setattr(memory.memory_fake, "training_account", account)
    study = {"study": "big", "runs": {"meanflow": small}, "shape": [64, 64, 64]}
    with pytest.raises(SystemExit) as refused:
        memory.refuse_small_card(card_mb=1499, **study)
    message = str(refused.value)
    assert message.startswith(
        "study big was not started: train meanflow needs 1,500 MB of GPU memory, the GPU has 1,499"
    )
    assert "parameters 500, gradients 0" in message and "activations 400" in message and "context 600" in message
    assert "set meanflow.train.batch to 2 (now 4) and meanflow.train.accumulate to 2 (now 1)" in message
    memory.refuse_small_card(card_mb=1500, **study)
    with pytest.raises(SystemExit, match=r"lower meanflow.net.widths \(now \[16, 32\]\)"):
        memory.refuse_small_card(card_mb=1100, **study)


def test_hours_follow_from_operations_speed_and_utilisation(small):
    run = copy.deepcopy(small) | {"samples": {}}
    run["train"] |= {"steps": 100, "accumulate": 2, "precision": "bf16-mixed"}
    run["flow"]["flow_matching_steps"] = 40
    machine = memory_time.MACHINES["A100"]
    for precision, speed in (("float32", machine.float32), ("bf16", machine.bf16)):
        run["flow"]["derivative_precision"] = precision
        row = memory_time.training_row("meanflow", run, 1e15, 5e14)
        assert row["PFLOP"] == 200 + 60 and row["images"] == 800
        expected = (200e15 / machine.bf16 + 60e15 / speed) / machine.utilisation / 3600
        assert row["A100"] == pytest.approx(expected)


def test_hours_of_samples_count_every_evaluation_and_every_decoded_volume(small, monkeypatch):
    monkeypatch.setattr(memory_time, "evaluation_operations", lambda run, latent: 1e12)
    samples = {"n": 10, "nfe": [1, 2, 5], "precision": "bf16"}
    runs = {"a": {**small, "samples": samples}, "b": {**small, "samples": {**samples, "n": 1}}}
    row = memory_time.sampling_row(runs, SHAPE, 1e13)
    assert (row["steps"], row["images"], row["PFLOP"]) == (88, 33, pytest.approx(0.088 + 0.33))
    machine = memory_time.MACHINES["A100"]
    assert row["A100"] == pytest.approx((88e12 / machine.float32 + 33e13 / machine.bf16) / machine.utilisation / 3600)


def test_the_line_through_two_batches_is_exact_for_memory_that_does_not_grow():
    first, second = memory_cpu.BATCHES
    assert memory_cpu.extrapolate((90 + 3 * first, 90 + 3 * second), 16) == 90 + 48


@pytest.mark.slow
def test_operations_grow_with_the_batch_and_with_pairs_that_need_a_derivative(small):
    double = {**small, "train": small["train"] | {"batch": 8}}
    (plain, more), (plain_2, more_2) = (memory_fake.training_operations(**s, shape=SHAPE) for s in (small, double))
    assert plain_2 == pytest.approx(2 * plain, rel=0.01) and more_2 == pytest.approx(2 * more, rel=0.01)
    assert 0.3 * plain < more < 0.6 * plain  # of half the pairs, one pass and two in forward mode; three for all pairs


@pytest.mark.slow
def test_the_page_of_a_tiny_study_has_every_job(tmp_path, small):
    study = settings(volumes=(32, 32, 32))
    study["runs"] = {"meanflow": {**small, "samples": study["runs"]["meanflow"]["samples"]}}
    study["runs"] = {
        "an-arm": {**study["runs"]["meanflow"], "net": small["net"] | {"widths": [16, 16]}},
        **study["runs"],
    }
    config = json.dumps({"study": "tiny", "main": "meanflow", "scans": 10, **study})
    script.main(["--config", config, "--table", str(tmp_path / "a.csv"), "--page", str(tmp_path / "a.md")])
    table, page = pd.read_csv(tmp_path / "a.csv"), (tmp_path / "a.md").read_text()
    assert table["job"].tolist() == [
        "train meanflow",
        "train an-arm",
        "train LoRA",
        "sample, network",
        "decode",
        "encode",
    ]
    assert (table["difference"].abs() < 0.15).all() and "| train meanflow |" in page and "RTX 4060" in page
    assert all(f"\n| {job} |" in page for job in ("LoRA, 60 pairs", "encoding", "sampling, all runs", "16 32"))


@pytest.mark.slow
@pytest.mark.parametrize("study", [LAPTOP, LARGE], ids=["8 GB", "80 GB"])
def test_two_accounts_agree_for_every_job_of_a_paper_study(study):
    limit = 7200 if study == LAPTOP else 80_000
    for job in memory.jobs(**settings(*study)):
        fake, cpu = job.fake(), job.cpu()
        assert fake.total <= limit and cpu.total <= limit, job.name
        assert abs(memory.difference(fake, cpu)) < 0.15, (job.name, fake, cpu)


@pytest.mark.slow
def test_the_80_gb_study_is_refused_on_8_gb_and_the_8_gb_study_is_not():
    for study in (LAPTOP, LARGE):
        values = settings(*study)
        values = {"study": "ixi", "card_mb": 8188 * 1.048576, "runs": values["runs"], "shape": values["shape"]}
        if study == LAPTOP:
            memory.refuse_small_card(**values)
            continue
        with pytest.raises(SystemExit, match="was not started: train meanflow needs .* the GPU has 8,586 MB"):
            memory.refuse_small_card(**values)


# --- real sizes on the CPU ---------------------------------------------------------------------------

SCAN = Path(os.environ.get("NEUROMF_REAL_DATA", ROOT / "../shared/data")) / "ixi_t1_2mm"


@pytest.mark.slow
@pytest.mark.skipif(not SCAN.is_dir(), reason=f"{SCAN} is absent; set NEUROMF_REAL_DATA")
def test_the_published_autoencoder_takes_a_real_volume_of_128_in_four_pieces(record_property):
    scan = sorted((SCAN / "T1").rglob("*.nii.gz"))[0]
    volume = torch.from_numpy(prepare(scan, spacing_mm=1.75, shape=(128, 128, 128))[0])[None, None]
    vae = MAISIVAEWrapper(num_splits=4)
    (mean, std), encoding = measured(lambda: encode_safely(vae, volume))
    decoded, decoding = measured(lambda: decode_safely(vae, mean))
    for name, values in (("encode", encoding), ("decode", decoding)):
        record_property(name, values)
        print(f"{name}: {values}")
    assert mean.shape == std.shape == (1, 4, 32, 32, 32) and decoded.shape == volume.shape
    assert all(a.isfinite().all() for a in (mean, std, decoded)) and 0 < encoding["MB"] < 4000 and decoding["MB"] < 6000


@pytest.mark.slow
def test_three_steps_of_the_8_gb_study_at_micro_batch_16_in_bf16_are_finite(record_property):
    run = memory_jobs.sections(settings(*LAPTOP)["runs"]["meanflow"])
    assert run["train"]["batch"] == 16 and run["train"]["precision"] == "bf16-mixed"
    torch.manual_seed(0)
    module = memory_jobs.new_module(**run, shape=(4, 32, 32, 32))
    optimiser = memory_jobs.optimiser_of(module)

    def step():
        with torch.autocast("cpu", torch.bfloat16):
            loss = module.training_step(None, 0)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        module.drawn += 1
        return float(loss.detach())

    for number in range(3):
        loss, values = measured(step)
        record_property(f"step {number}", {"loss": loss, **values})
        print(f"step {number}: loss {loss}, {values}")
        assert 0 < loss < float("inf")
    assert all(p.isfinite().all() for p in module.u.parameters())


def measured(call):
    """Result of a call; its CPU-seconds, seconds, and peak memory above that before, in MB."""
    before, start = hardware.reset_peak("cpu"), (time.process_time(), time.perf_counter())
    result = call()
    spent = {"CPU-seconds": time.process_time() - start[0], "seconds": time.perf_counter() - start[1]}
    return result, {**spent, "MB": hardware.peak_mb("cpu") - before, "process MB": hardware.peak_mb("cpu")}
