"""A fine-tuned run on disk: adapter, prior and statistics."""

from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from neuromf.core.files import whole
from neuromf.lesions import prior
from neuromf.lesions.network import prepared
from neuromf.lesions.prior import restored
from neuromf.meanflow.run import Run
from neuromf.meanflow.velocity_net import MeanVelocityNet
from neuromf.nn import lora

# --- stored ------------------------------------------------------------------------------------------


def save_joint(u: MeanVelocityNet, adapter: Path, gaussian: Path, *, stats: dict, **injected: object) -> None:
    """Write what was trained to one file, with how it was injected and the statistics of pairs, and the Gaussian.

    Arguments:
        injected: rank, alpha and targets of `prepared`.
    """
    with whole(adapter) as part:
        lora.save_adapter(u, part, stats=stats, **injected)
    base: dict[str, Tensor] = u.base.new.state_dict() if isinstance(u.base, prior.Refitted) else {}
    with whole(gaussian) as part:
        save_file({name: value.contiguous() for name, value in base.items()}, part)


def load_joint(run: Run, adapter: Path, gaussian: Path) -> Run:
    """The run with its adapter: it draws denormalised joint latents, image channels first, and is frozen.

    Raises:
        ValueError: If the adapter is not of this run.
    """
    about, base = lora.read_about(adapter), load_file(gaussian)
    stats = about.pop("stats")
    u = prepared(run.u, stats["shape"][0], base=restored(base) if base else None, **about)
    lora.load_adapter(u, adapter)
    return Run(u.requires_grad_(False).eval(), stats, tuple(stats["shape"]))
