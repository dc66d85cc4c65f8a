"""Fine-tuned run on disk: adapter weights with their settings, and the prior of pairs."""

from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from neuromf.core.files import atomic_write
from neuromf.lesions.network import add_adapters
from neuromf.lesions.prior import ReplacedPrior, prior_from_state
from neuromf.meanflow.run import Run
from neuromf.meanflow.velocity_net import MeanVelocityNet
from neuromf.nn import lora

ADAPTER, PRIOR = "adapter.safetensors", "gaussian.safetensors"


def save_pair_run(u: MeanVelocityNet, folder: Path, *, stats: dict, **adapter: object) -> None:
    """Write the trained weights and the prior of pairs into a folder.

    Arguments:
        stats: Latent statistics of training pairs, and the shape (C, I, J, K) of a pair.
        adapter: Arguments rank, alpha and targets of `add_adapters`.
    """
    with atomic_write(folder / ADAPTER) as part:
        lora.save_adapter(u, part, stats=stats, **adapter)
    state: dict[str, Tensor] = u.prior.new.state_dict() if isinstance(u.prior, ReplacedPrior) else {}
    with atomic_write(folder / PRIOR) as part:
        save_file({name: value.contiguous() for name, value in state.items()}, part)


def load_pair_run(run: Run, folder: Path) -> Run:
    """Fine-tuned run on top of its base run, frozen; samples are denormalised latents of pairs, image channels first.

    Raises:
        ValueError: If the adapter belongs to another base run.
    """
    settings = lora.read_settings(folder / ADAPTER)
    stats = settings.pop("stats")
    prior = prior_from_state(load_file(folder / PRIOR))
    u = add_adapters(run.u, stats["shape"][0], prior=prior, **settings)
    lora.load_adapter(u, folder / ADAPTER)
    return Run(u.requires_grad_(False).eval(), stats, tuple(stats["shape"]))
