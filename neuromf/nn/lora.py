"""Fine-tuning a trained flow on few volumes: low-rank adapters (peft), and more channels for image and mask together.

What is trained lies beside the base model and starts at zero: adapters of the attention projections, and one
convolution each beside the first and the last for the channels that are added. Before training, the model equals its
base bit for bit, and does again whenever the adapter is switched off.

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
from safetensors.torch import save_file
from torch import Tensor, nn

from neuromf.nn.forward_mode import Conv3d

ATTENTION = r".*\.(to_q|to_k|to_v)"  # full-match patterns of module names, as peft takes them
CONVOLUTIONS = r".*\.(conv1|conv2)\.conv"
Net = TypeVar("Net", bound=nn.Module)


def inject_lora(
    model: Net, rank: int = 16, alpha: float = 16.0, target_modules: str | Sequence[str] | None = None
) -> Net:
    """Put low-rank adapters beside layers of a model, in place; they change nothing until they are trained.

    Arguments:
        rank: Of the adapters.
        alpha: Their output is scaled by alpha / rank.
        target_modules: A regular expression of whole module names, or their last parts; the queries, keys and values
            of every attention where not given.

    Raises:
        ValueError: If no layer matches.
    """
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=target_modules or ATTENTION, lora_dropout=0.0)  # type: ignore[arg-type]  # any number, any sequence
    return inject_adapter_in_model(config, model)  # type: ignore[return-value]  # the model itself


def freeze_base_unfreeze_lora(model: Net) -> Net:
    """Let only adapters and the convolutions of added channels be trained, in place."""
    model.requires_grad_(False)
    for module in _added(model):
        module.requires_grad_(True)
    return model


def count_trainable_params(model: nn.Module) -> tuple[int, int]:
    """Numbers of the parameters that are trained, and of all."""
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return trainable, sum(p.numel() for p in model.parameters())


def _added(model: nn.Module) -> Iterator[nn.Module]:
    """The trainable modules: of adapters, and beside the first and last convolution."""
    for module in model.modules():
        if isinstance(module, LoraLayer):
            yield from (module.lora_A, module.lora_B)
        elif isinstance(module, Widened):
            yield module.added


# --- more channels -----------------------------------------------------------------------------------


class Switched(nn.Module):
    """A module that stands beside one of the base model, and is passed by while it is not enabled."""

    enabled = True


class Widened(Switched):
    """A convolution over some channels of its input, and beside it one over all of them that starts at zero.

    Arguments:
        conv: The convolution of the base model; the channels that it gives come first.
        columns: Which channels of the wider input are those it knows.
        n_in, n_out: Channels of the wider input and output.
    """

    columns: Tensor

    def __init__(self, conv: nn.Conv3d, columns: Tensor, n_in: int, n_out: int) -> None:
        super().__init__()
        self.conv, self.n_out = conv, n_out
        self.register_buffer("columns", columns, persistent=False)
        sizes: dict[str, Any] = {"stride": conv.stride, "padding": conv.padding}
        self.added = Conv3d(n_in, n_out, conv.kernel_size, **sizes)  # type: ignore[arg-type]  # three numbers
        self.added.to(conv.weight)
        for part in self.added.parameters():
            nn.init.zeros_(part)

    def forward(self, x: Tensor) -> Tensor:
        known = self.conv(x[:, self.columns])
        known = F.pad(known, (0, 0) * 3 + (0, self.n_out - known.shape[1]))
        return known + self.added(x) if self.enabled else known


# --- on, off, merged, stored -------------------------------------------------------------------------


@contextmanager
def switched_off(model: nn.Module) -> Iterator[nn.Module]:
    """The base model while the context lasts: no adapter, no added convolution."""
    layers = [module for module in model.modules() if isinstance(module, (LoraLayer, Switched))]
    _switch(layers, False)
    try:
        yield model
    finally:
        _switch(layers, True)


def _switch(layers: Sequence[LoraLayer | Switched], on: bool) -> None:
    for layer in layers:
        if isinstance(layer, Switched):
            layer.enabled = on
        else:
            layer._disable_adapters = not on  # peft's own switch also changes requires_grad


def merge(model: nn.Module) -> nn.Module:
    """Add the adapters' products to the weights of their layers, in place; `unmerge` puts the base weights back."""
    for module in model.modules():
        if isinstance(module, LoraLayer) and not module.merged:
            module.base_weight = _weight(module).detach().clone()
            module.merge()
    return model


def _weight(layer: LoraLayer) -> Tensor:
    return layer.get_base_layer().get_parameter("weight")


def unmerge(model: nn.Module) -> nn.Module:
    """Undo `merge`, to the last bit: subtracting what was added would leave rounding."""
    for module in model.modules():
        if isinstance(module, LoraLayer) and module.merged:
            module.unmerge()
            _weight(module).data.copy_(module.base_weight)  # type: ignore[arg-type]  # the tensor that merge put there
            del module.base_weight
    return model


def adapter_state(model: nn.Module) -> dict[str, Tensor]:
    """Weights of everything that `freeze_base_unfreeze_lora` trains, by name."""
    chosen = {id(p) for module in _added(model) for p in module.parameters()}
    return {name: p.detach().contiguous() for name, p in model.named_parameters() if id(p) in chosen}


def save_adapter(model: nn.Module, path: Path, **about: object) -> None:
    """Write the adapter alone to a safetensors file, with what is needed to inject it again."""
    save_file(adapter_state(model), path, metadata={"about": json.dumps(about, sort_keys=True)})


def read_about(path: Path) -> dict:
    """What was said about a stored adapter."""
    with safe_open(path, framework="pt") as file:
        return json.loads((file.metadata() or {}).get("about", "{}"))


def load_adapter(model: nn.Module, path: Path) -> dict:
    """Put a stored adapter into a model that was widened and injected alike; what was said about it is returned.

    Raises:
        ValueError: If names or shapes are not those of the model's adapter.
    """
    with safe_open(path, framework="pt") as file:
        state = {name: file.get_tensor(name) for name in file.keys()}
    about = read_about(path)
    wanted = adapter_state(model)
    shapes = [{name: weight.shape for name, weight in weights.items()} for weights in (wanted, state)]
    if odd := sorted({name for name, _ in shapes[0].items() ^ shapes[1].items()}):
        raise ValueError(
            f"{path} is no adapter of this model: {len(odd)} of {len(wanted)} tensors differ, first {odd[0]}; "
            f"inject with the rank, targets and channels it was made with ({about or 'not stated'})"
        )
    model.load_state_dict(state, strict=False)
    return about
