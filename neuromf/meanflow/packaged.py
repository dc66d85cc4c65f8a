"""The generator that is packaged with neuromf: network, prior and latent statistics in one half-precision file."""

import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from neuromf.nn import position_maps

PACKAGED = Path(__file__).with_name("generator.safetensors")
STATS = ("mean", "std", "shape")  # latent statistics that sampling needs; no row belongs to a participant


def pack(*, model: Path, out: Path, spacing_mm: float) -> None:
    """Store the averaged network of a run, its prior and its statistics in half precision, as the package ships them.

    Position maps, corrections of a few per cent, have 8 bits: samples change by 0.02 %.

    Arguments:
        model: File of `meanflow.run.save_run`.
        out: Safetensors file to write.
        spacing_mm: Voxel size of the volumes of the run.
    """
    stored = torch.load(model, map_location="cpu", weights_only=True)
    tensors = {f"net.{name}": weight for name, weight in stored["weights"]["ema"].items()}
    tensors |= {f"prior.{name}": value for name, value in (stored["prior"] or {}).items()}
    stats = {name: json.loads(stored["stats"])[name] for name in STATS}
    settings = {name: stored[name] for name in ("net", "prediction", "velocity_head")}
    metadata = {"run": json.dumps({**settings, "stats": stats}), "spacing_mm": str(spacing_mm)}
    save_file({name: packed(name, value) for name, value in tensors.items()}, out, metadata=metadata)


def packed(name: str, value: Tensor) -> Tensor:
    """A tensor as it is stored."""
    return value.to(torch.float8_e4m3fn if position_maps.NAME in name else torch.float16).contiguous()


def spacing_of(path: Path = PACKAGED) -> float:
    """Voxel size in mm of the volumes that a file of `pack` generates."""
    with safe_open(path, framework="pt") as file:
        return float(file.metadata()["spacing_mm"])


def read_packaged(path: Path) -> dict:
    """Contents of a file of `pack`, in the layout of `meanflow.run.save_run`, float32.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If it holds no run.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no generator at {path}; it is made by studies/generator.yaml")
    with safe_open(path, framework="pt") as file:
        settings = json.loads((file.metadata() or {}).get("run", "null"))
        tensors = {name: file.get_tensor(name).float() for name in file.keys()}
    if settings is None:
        raise ValueError(f"{path} holds no run; expected a file of the rule pack_run")
    parts: dict[str, dict] = {"net": {}, "prior": {}}
    for name, tensor in tensors.items():
        part, name = name.split(".", 1)
        parts[part][name] = tensor
    stats = json.dumps(settings.pop("stats"))
    return {**settings, "weights": {"ema": parts["net"]}, "prior": parts["prior"] or None, "stats": stats}
