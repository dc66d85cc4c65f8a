"""RadImageNet features of slices in three planes, the 2.5D protocol of MAISI; weights come from a local file.

References:
    RadImageNet: an open radiologic deep learning research dataset (Mei et al., 2022), doi:10.1148/ryai.210315
    MAISI: Medical AI for Synthetic Imaging (Guo et al., 2024), arXiv:2409.11169
"""

from collections.abc import Callable
from pathlib import Path

import torch
from monai.networks.nets.resnet import ResNetBottleneck, resnet50
from torch import Tensor, nn

from neuromf.core import files

PerVolume = Callable[[Tensor], dict[str, Tensor]]  # (I, J, K) in [0, 1] to (S, F) by plane, "" for whole volumes

PLANES = {"xy": 2, "yz": 0, "zx": 1}  # axis of a volume (I, J, K) normal to each plane
BGR_MEANS = (0.406, 0.456, 0.485)  # RadImageNet's protocol subtracts these and divides by nothing
SLICES_AT_ONCE = 32
ORIGINS = {
    "radimagenet": "RadImageNet-ResNet50_notop.pth of Warvito/radimagenet-models (torch.hub radimagenet_resnet50)"
}


def open_radimagenet(
    weights: str | Path | None, sha256: str | None = None, *, centre: float = 0.6
) -> tuple[str, PerVolume]:
    """Name and function of the RadImageNet features.

    Arguments:
        weights: File of the weights.
        sha256: Expected SHA-256 of the file; None: not verified.
        centre: Central fraction of the slices of each plane that is used.

    Raises:
        ValueError: If `centre` is out of range, or the weights belong to another network.
        FileNotFoundError: If the file of weights does not exist.
    """
    if not 0 < centre <= 1:
        raise ValueError(f"centre, the fraction of slices, must be above 0 and at most 1; got {centre}")
    state = read_state("radimagenet", weights, sha256)
    net = with_weights(radimagenet_net(), state, f"{weights} is not {ORIGINS['radimagenet']}")
    return f"radimagenet-centre{centre:g}", lambda volume: slice_features(net, volume, centre)


def slice_features(net: nn.Module, volume: Tensor, centre: float) -> dict[str, Tensor]:
    """Features (S, F) of the central slices of a volume (I, J, K), by plane."""
    return {
        plane: torch.cat([net(batch) for batch in network_input(middle(volume, axis, centre)).split(SLICES_AT_ONCE)])
        for plane, axis in PLANES.items()
    }


def middle(volume: Tensor, axis: int, fraction: float) -> Tensor:
    """Central slices of a volume along an axis, that axis first: (S, height, width)."""
    n = volume.shape[axis]
    first, end = int((1 - fraction) / 2 * n), int((1 + fraction) / 2 * n)
    if first >= end:
        raise ValueError(f"centre {fraction:g} leaves none of {n} slices; raise it")
    return volume.narrow(axis, first, end - first).movedim(axis, 0)


def network_input(slices: Tensor) -> Tensor:
    """Slices (S, H, W) of one volume and plane, min-max scaled together, in BGR minus its means: (S, 3, H, W)."""
    scaled = (slices - slices.min()) / (slices.max() - slices.min() + 1e-10)
    return scaled[:, None] - scaled.new_tensor(BGR_MEANS).view(3, 1, 1)


def radimagenet_net() -> nn.Module:
    """Keras's ResNet-50 in PyTorch: stride in the first convolution of a block, biases, and Keras's epsilon."""
    net = resnet50(spatial_dims=2, n_input_channels=3, conv1_t_stride=2, feed_forward=False)
    for module in net.modules():
        if isinstance(module, ResNetBottleneck):
            module.conv1.stride, module.conv2.stride = module.conv2.stride, (1, 1)
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1.001e-5
        if isinstance(module, nn.Conv2d) and module.bias is None:
            module.bias = nn.Parameter(torch.zeros(module.out_channels))
    return net


def read_state(name: str, path: str | Path | None, sha256: str | None = None) -> dict[str, Tensor]:
    """State dict of a file of weights."""
    if not path or not Path(path).is_file():
        raise FileNotFoundError(
            f"no weights of features {name} at {path or 'no path given'} (config key evaluation.features, weights "
            f"of {name}; SHA-256 {sha256 or 'not given'}). Download {ORIGINS[name]}, or remove {name} from "
            "evaluation.features"
        )
    if sha256 and (found := files.sha256(path)) != sha256:
        raise ValueError(f"{path} has SHA-256 {found}, expected {sha256}: it is another file or damaged")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{path} cannot be read as weights ({type(error).__name__})") from error
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} holds no state dict of tensors; expected {ORIGINS[name]}")
    return state


def with_weights(net: nn.Module, state: dict[str, Tensor], refusal: str) -> nn.Module:
    """The network with exactly these weights, frozen and in evaluation mode."""
    expected = {key: value.shape for key, value in net.state_dict().items()}
    missing, extra = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]  # absent in files of old torch
    if missing or extra:
        raise ValueError(f"{refusal}: missing {missing[:2] or 'none'}, unknown {extra[:2] or 'none'}")
    for key, value in state.items():
        if value.shape != expected[key]:
            raise ValueError(f"{refusal}: {key} has shape {tuple(value.shape)}, expected {tuple(expected[key])}")
        if not torch.isfinite(value).all():
            raise ValueError(f"{refusal}: {key} holds values that are not finite")
    net.load_state_dict(state, strict=False)
    return net.requires_grad_(False).eval()
