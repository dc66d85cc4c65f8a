"""A fine-tuned run on disk: adapter, prior and statistics."""

from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from neuromf.core.files import atomic_write
from neuromf.lesions import prior
from neuromf.lesions.network import add_adapters
from neuromf.lesions.prior import prior_from_state
from neuromf.meanflow.run import Run
from neuromf.meanflow.velocity_net import MeanVelocityNet
from neuromf.nn import lora

# --- stored ------------------------------------------------------------------------------------------


def save_pair_run(u: MeanVelocityNet, adapter: Path, gaussian: Path, *, stats: dict, **injected: object) -> None:
    """Write what was trained to one file, with how it was injected and the statistics of pairs, and the Gaussian.

    Arguments:
        injected: rank, alpha and targets of `add_adapters`.
    """
    with atomic_write(adapter) as part:
        lora.save_adapter(u, part, stats=stats, **injected)
    base: dict[str, Tensor] = u.prior.new.state_dict() if isinstance(u.prior, prior.ReplacedPrior) else {}
    with atomic_write(gaussian) as part:
        save_file({name: value.contiguous() for name, value in base.items()}, part)


def load_pair_run(run: Run, adapter: Path, gaussian: Path) -> Run:
    """The run with its adapter: it draws denormalised joint latents, image channels first, and is frozen.

    Raises:
        ValueError: If the adapter is not of this run.
    """
    about, base = lora.read_about(adapter), load_file(gaussian)
    stats = about.pop("stats")
    u = add_adapters(run.u, stats["shape"][0], prior=prior_from_state(base) if base else None, **about)
    lora.load_adapter(u, adapter)
    return Run(u.requires_grad_(False).eval(), stats, tuple(stats["shape"]))
