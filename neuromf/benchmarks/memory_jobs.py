"""Jobs whose GPU memory is counted: a training step, fine-tuning, sampling, encoding, decoding, with random weights.

Both accounts (`memory_fake`, `memory_cpu`) run the library's own code on these jobs. A count on the CPU gives the
memory of a GPU if operations store the same tensors. Under autocast they do not: `GpuAutocast` adds what CUDA casts.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from neuromf.lesions.network import add_adapters
from neuromf.meanflow.flow import uniform_times
from neuromf.meanflow.gaussian_prior import GaussianPrior
from neuromf.meanflow.module import MeanFlowModule
from neuromf.meanflow.run import build_network
from neuromf.nn.unet import checkpoint_activations
from neuromf.vae.maisi import ARCHITECTURES, DOWNSAMPLING, LATENT_CHANNELS, MAISIVAEWrapper

CONTEXT_MB = 600.0  # CUDA context, cuDNN workspaces and fragmentation
FLOW = ("prediction", "prior", "tangent", "target", "derivative", "derivative_precision")  # what changes memory
TRAIN = ("batch", "precision", "averages", "checkpoint_activations")
PAIR_FLOW = {"target": "conditional", "p": 2.0, "channel_weights": None}  # settings that fine-tuning does not inherit
PAIR_TRAIN = {"accumulate": 1, "averages": "device", "checkpoint_activations": False}
FLOAT32 = (torch.group_norm, torch.softmax, nn.functional.softmax, Tensor.softmax, torch.pow, Tensor.pow)


@dataclass(frozen=True)
class Account:
    """GPU memory of a job in MB (10^6 bytes), at its peak.

    Arguments:
        parameters: Trained and frozen weights and buffers of the networks.
        gradients: Gradients of trained weights.
        optimiser: State of the optimiser.
        averages: Weight averages on the device, with their buffers.
        activations: Tensors stored for the backward pass, at the end of the forward pass.
        transient: The rest: inputs, outputs and temporary tensors at the peak.
    """

    parameters: float = 0.0
    gradients: float = 0.0
    optimiser: float = 0.0
    averages: float = 0.0
    activations: float = 0.0
    transient: float = 0.0

    @property
    def total(self) -> float:
        """All parts, and the context."""
        return sum(asdict(self).values()) + CONTEXT_MB


class GpuAutocast(TorchFunctionMode):
    """Makes the CPU's autocast cast what CUDA's does: normalisation, softmax and powers in float32."""

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:  # noqa: ANN401
        kwargs = kwargs or {}
        if not torch.is_autocast_enabled("cpu") or func not in FLOAT32:
            return func(*args, **kwargs)
        args, kwargs = tree_map_only(Tensor, lambda a: a.float() if a.is_floating_point() else a, (args, kwargs))
        with torch.autocast("cpu", enabled=False):
            return func(*args, **kwargs)


@contextmanager
def gpu_autocast(precision: str) -> Iterator[None]:
    """Autocast of a GPU for "bf16-mixed" or "bf16"; nothing for other precisions."""
    with GpuAutocast(), torch.autocast("cpu", torch.bfloat16, enabled=precision.startswith("bf16")):
        yield


def backward(loss: Tensor) -> None:
    """Backward pass under the rules of `GpuAutocast`, for checkpointed blocks, which are computed again in it.

    `loss.backward()` is itself a function of the mode, which is suspended inside it; the engine is not.
    """
    engine: Any = torch.autograd.Variable._execution_engine
    with GpuAutocast():
        settings = {"allow_unreachable": True, "accumulate_grad": True}
        engine.run_backward((loss,), (torch.ones_like(loss),), False, False, (), **settings)


def megabytes(*tensors: Tensor) -> float:
    """Size of the distinct storages of tensors in MB."""
    storages = {id(a.untyped_storage()): a.untyped_storage().nbytes() for a in tensors}
    return sum(storages.values()) / 1e6


def contents(*modules: nn.Module) -> list[Tensor]:
    """Parameters and buffers of modules."""
    return [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]


def latent_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """Latent shape (C, I, J, K) of volumes of this shape."""
    return LATENT_CHANNELS, *(n // DOWNSAMPLING for n in shape)


def runs_by_memory(runs: Mapping[str, dict]) -> list[list[str]]:
    """Names of the runs whose trainings need the same memory, the main run in the first list."""
    groups: dict[str, list[str]] = {}
    for name, run in runs.items():
        flow, train = run["flow"], run["train"]
        key = [run["net"], [flow[k] for k in FLOW], flow["times"]["fraction_r_equals_t"]]
        key += [[train[k] for k in TRAIN], len(train["ema_images"])]
        groups.setdefault(json.dumps(key, sort_keys=True), []).append(name)
    return list(groups.values())


def sections(run: dict, pairs: dict | None = None) -> dict[str, Any]:
    """Arguments net, flow and train of `new_module` for a run; with `pairs`, those of its fine-tuning.

    Arguments:
        run: Sections net, flow and train.
        pairs: Sections adapter and finetune of fine-tuning.
    """
    found = {key: run[key] for key in ("net", "flow", "train")}
    if pairs is None:
        return found
    train = {**run["train"], **PAIR_TRAIN, "batch": pairs["finetune"]["batch"]}
    return {**found, "flow": {**run["flow"], **PAIR_FLOW}, "train": train, "adapter": pairs["adapter"]}


def new_module(
    *,
    net: dict,
    flow: dict,
    train: dict,
    shape: tuple[int, ...],
    adapter: dict | None = None,
    batch: int | None = None,
    moving: int | None = None,
) -> MeanFlowModule:
    """Training of a network with random weights on random latents, as after the first intervals have opened.

    Arguments:
        net, flow, train: Config sections of a run.
        shape: Latent shape (C, I, J, K).
        adapter: Adapter of a fine-tuning on pairs with mask channels as many as image channels, or None.
        batch: Latents per batch; that of `train` by default.
        moving: Pairs with r < t in each batch; the largest possible number by default.
    """
    batch = batch or train["batch"]
    moving = moving_pairs(flow, batch) if moving is None else moving
    prior = flat_prior(shape, flow["prior"]) if flow["prediction"] == "x" else None
    u = build_network(net, flow["prediction"], shape=shape, prior=prior, velocity_head=flow["tangent"] == "head")
    if train.get("checkpoint_activations"):
        checkpoint_activations(u.net)
    if adapter:
        shape = (2 * shape[0], *shape[1:])
        pair_prior = prior and flat_prior(shape, {**flow["prior"], "block": [1]})
        u = add_adapters(u, shape[0], prior=pair_prior, **adapter)
    names = ("tangent", "target", "derivative", "derivative_precision", "p", "channel_weights", "adaptive_power")
    settings = {name: flow[name] for name in names} | {"ema_images": train["ema_images"]}
    times = {"fraction_r_equals_t": 1 - moving / batch, "fraction_uniform": moving / batch}
    latents = torch.randn(batch, *shape)
    averages = train.get("averages", "device")
    return MeanFlowModule(u, latents, times=times, averages=averages, batch=batch, steps=1, lr=1e-4, seed=0, **settings)


def moving_pairs(flow: dict, batch: int) -> int:
    """Largest number of pairs with r < t in a batch."""
    return batch - round(batch * flow["times"]["fraction_r_equals_t"])


def flat_prior(shape: tuple[int, ...], prior: dict) -> GaussianPrior:
    """A prior with unit variances, of the size of the largest candidate of the config section meanflow.flow.prior."""
    n_axes, size = max(prior["axes"]), max(prior["block"]) ** 3
    axes, elements = torch.eye(n_axes, torch.Size(shape).numel()), shape[0] * size
    eigenvectors = torch.eye(elements).repeat(torch.Size(shape[1:]).numel() // size, 1, 1)
    return GaussianPrior(torch.zeros(shape), axes, torch.ones(n_axes), torch.ones(shape), eigenvectors)


def optimiser_of(module: MeanFlowModule) -> torch.optim.Optimizer:
    """Optimiser of a training with the implementation that it has on a GPU."""
    configured: Any = module.configure_optimizers()
    optimiser = configured["optimizer"]
    for group in optimiser.param_groups:
        if "foreach" in group:
            group["foreach"] = True
    return optimiser


def states(module: MeanFlowModule) -> dict[str, float]:
    """Parameters, gradients, optimiser state and averages of a training with AdamW in MB."""
    trained = sum(p.numel() for p in module.u.parameters() if p.requires_grad) * 4 / 1e6
    averages = [tensor for ema in module.emas if not ema.host for tensor in contents(ema)]
    own = {id(tensor.untyped_storage()) for tensor in contents(module.u)}
    averages = [tensor for tensor in averages if id(tensor.untyped_storage()) not in own]
    return {"parameters": megabytes(*contents(module.u)), "gradients": trained, "optimiser": 2 * trained,
            "averages": megabytes(*averages)}  # fmt: skip


def new_autoencoder(
    *, architecture: str, num_splits: int, shape: Sequence[int], task: str, precision: str, onednn: bool = False
) -> tuple[list[nn.Module], Callable[[], Tensor]]:
    """Autoencoder with random weights, and a function that encodes or decodes one volume."""
    vae = MAISIVAEWrapper(ARCHITECTURES[architecture], num_splits=num_splits)
    if not onednn:
        for module in vae.modules():
            module.__class__ = nn.Conv3d if isinstance(module, nn.Conv3d) else type(module)

    def call() -> Tensor:
        with gpu_autocast(precision):
            return vae.encode(torch.rand(1, 1, *shape))[0] if task == "encode" else vae.decode(torch.randn(1, *latent))

    latent = latent_shape(shape)
    return [vae], call


def new_sampling(
    *, net: dict, flow: dict, shape: tuple[int, ...], batch: int
) -> tuple[nn.Module, Callable[[], Tensor]]:
    """Network of a run, and a function that draws one batch of one-step samples."""
    prior = flat_prior(shape, flow["prior"]) if flow["prediction"] == "x" else None
    u = build_network(net, flow["prediction"], shape=shape, prior=prior, velocity_head=flow["tangent"] == "head")
    u.requires_grad_(False).eval()

    def draw() -> Tensor:
        start, end = uniform_times(1)
        eps = torch.randn(batch, *shape)
        return eps - u(eps, torch.full((batch,), start), torch.full((batch,), end))

    return u, draw
