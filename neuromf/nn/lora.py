"""Low-rank adapters (peft) and convolutions for added channels: the trainable parts of a fine-tuned network.

Adapters and added convolutions start at zero. Before training the network therefore equals its base network bit for
bit, and it does so again inside `without_adapters`.

References:
    LoRA: Low-Rank Adaptation of Large Language Models (Hu et al., 2021), arXiv:2106.09685
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch.nn.functional as F
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from neuromf.nn.forward_mode import Conv3d

ATTENTION = r".*\.(to_q|to_k|to_v)"  # regular expressions that match whole module names
CONVOLUTIONS = r".*\.(conv1|conv2)\.conv"
TRAINABLE = (".lora_A.", ".lora_B.", ".added.")  # parts of the names of adapter weights and added convolutions
Net = TypeVar("Net", bound=nn.Module)


def inject_lora(
    model: Net, rank: int = 16, alpha: float = 16.0, target_modules: str | Sequence[str] | None = None
) -> Net:
    """Add low-rank adapters to layers of a model, in place. Their initial output is zero.

    Arguments:
        rank: LoRA rank.
        alpha: Numerator of the factor alpha / rank, by which adapter outputs are multiplied.
        target_modules: Regular expression of whole module names, or a list of their last parts. The default is the
            query, key and value projections of every attention layer.

    Raises:
        ValueError: If no layer matches.
    """
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=target_modules or ATTENTION, lora_dropout=0.0)  # type: ignore[arg-type]  # any number, any sequence
    return inject_adapter_in_model(config, model)  # type: ignore[return-value]  # the model itself


def freeze_base_unfreeze_lora(model: Net) -> Net:
    """Make the adapters and the added convolutions the only trainable parts of a model, in place."""
    trainable = adapter_state(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trainable)
    return model


def count_trainable_params(model: nn.Module) -> tuple[int, int]:
    """Number of trainable parameters, and number of all parameters."""
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return trainable, sum(p.numel() for p in model.parameters())


class Switchable(nn.Module):
    """Module with a fine-tuned and a base behaviour: `enabled` selects the fine-tuned one."""

    enabled = True


class WidenedConv(Switchable):
    """Convolution of the base network plus a convolution over all input channels, which starts at zero.

    Arguments:
        conv: Convolution of the base network. Its output channels come first.
        columns: Indices of the input channels that `conv` reads.
        n_in, n_out: Number of input and output channels after widening.
    """

    columns: Tensor

    def __init__(self, conv: nn.Conv3d, columns: Tensor, n_in: int, n_out: int) -> None:
        super().__init__()
        self.conv, self.n_out = conv, n_out
        self.register_buffer("columns", columns, persistent=False)
        sizes: dict[str, Any] = {"stride": conv.stride, "padding": conv.padding}
        self.added = Conv3d(n_in, n_out, conv.kernel_size, **sizes)  # type: ignore[arg-type]  # three numbers
        self.added.to(conv.weight)
        for parameter in self.added.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        base = self.conv(x[:, self.columns])
        base = F.pad(base, (0, 0) * 3 + (0, self.n_out - base.shape[1]))
        return base + self.added(x) if self.enabled else base


@contextmanager
def without_adapters(model: nn.Module) -> Iterator[nn.Module]:
    """Context in which a fine-tuned model computes the outputs of its base model."""
    _enable(model, False)
    try:
        yield model
    finally:
        _enable(model, True)


def _enable(model: nn.Module, enabled: bool) -> None:
    for module in model.modules():
        if isinstance(module, Switchable):
            module.enabled = enabled
        elif isinstance(module, LoraLayer):
            module._disable_adapters = not enabled  # the public method of peft also changes requires_grad


def adapter_state(model: nn.Module) -> dict[str, Tensor]:
    """Weights that `freeze_base_unfreeze_lora` makes trainable, by name."""
    named = ((name, p) for name, p in model.named_parameters() if any(part in name for part in TRAINABLE))
    return {name: p.detach().contiguous() for name, p in named}


def save_adapter(model: nn.Module, path: Path, **settings: object) -> None:
    """Write the adapter weights to a safetensors file, with the settings needed to inject them again."""
    save_file(adapter_state(model), path, metadata={"about": json.dumps(settings, sort_keys=True)})


def read_settings(path: Path) -> dict:
    """Settings stored by `save_adapter`."""
    with safe_open(path, framework="pt") as file:
        return json.loads((file.metadata() or {}).get("about", "{}"))


def load_adapter(model: nn.Module, path: Path) -> dict:
    """Load stored adapter weights into a model with the same adapters and channels. Returns the stored settings.

    Raises:
        ValueError: If names or shapes of the weights differ from those of the model.
    """
    state, settings, expected = load_file(path), read_settings(path), adapter_state(model)
    shapes = [{name: weight.shape for name, weight in weights.items()} for weights in (expected, state)]
    if differing := sorted({name for name, _ in shapes[0].items() ^ shapes[1].items()}):
        raise ValueError(
            f"{path} is no adapter of this model: {len(differing)} of {len(expected)} tensors differ, first "
            f"{differing[0]}; inject adapters with the stored settings ({settings or 'none stored'})"
        )
    model.load_state_dict(state, strict=False)
    return settings
