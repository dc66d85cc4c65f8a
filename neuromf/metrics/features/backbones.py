"""Published networks whose features tell images apart: volumes in, features out, weights from files of your own.

    radimagenet   ResNet-50 on slices of three planes, the 2.5D protocol of MAISI
    inception     Inception-v3 of torchvision on such slices, not the TensorFlow weights of the usual FID
    r3d18         video ResNet-18 of torchvision, on volumes in [0, 1] repeated in three channels
    med3d         3D ResNet-50 of MedicalNet, nearly blind to what tells generated heads from real ones

Volumes have shape (I, J, K), in [0, 1], RAS+; features have shape (S, F), S slices or one volume.

References:
    RadImageNet: an open radiologic deep learning research dataset (Mei et al., 2022), doi:10.1148/ryai.210315
    MAISI: Medical AI for Synthetic Imaging (Guo et al., 2024), arXiv:2409.11169
    Med3D: Transfer Learning for 3D Medical Image Analysis (Chen et al., 2019), arXiv:1904.00625
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import torch
import torch.nn.functional as F
from monai.networks.nets.resnet import ResNetBottleneck, resnet50
from monai.utils import optional_import
from torch import Tensor, nn

PerVolume = Callable[[Tensor], dict[str, Tensor]]  # (I, J, K) in [0, 1] to (S, F) by plane, "" for whole volumes

PLANES = {"xy": 2, "yz": 0, "zx": 1}  # the axis of a volume (I, J, K) along which the slices of a plane lie
BGR_MEANS = (0.406, 0.456, 0.485)  # subtracted by RadImageNet's protocol, nothing divided
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # RGB means and deviations of torchvision's weights
INCEPTION_SIDE = 299
SLICES_AT_ONCE = 32
ORIGINS = {
    "radimagenet": "RadImageNet-ResNet50_notop.pth of Warvito/radimagenet-models (torch.hub radimagenet_resnet50)",
    "inception": "inception_v3 of torchvision, weights IMAGENET1K_V1",
    "r3d18": "r3d_18 of torchvision, weights KINETICS400_V1",
    "med3d": "resnet_50_23dataset.pth of TencentMedicalNet/MedicalNet-Resnet50",
}


def open_network(
    name: str,
    weights: str | Path | None,
    sha256: str | None = None,
    *,
    centre: float = 0.6,
    pad_to: tuple[int, int, int] | None = None,
) -> tuple[str, PerVolume]:
    """Name and function of the features of one of ORIGINS; the arguments are those of `features.open_features`.

    Raises:
        ValueError: If a setting cannot be used, or the weights are not its network's.
        FileNotFoundError: If there is no file of weights.
    """
    if not 0 < centre <= 1:
        raise ValueError(f"centre must be a share of the slices above 0 and up to 1; got {centre}")
    state = read_state(name, weights, sha256)
    net = with_weights(MAKERS[name](), state, f"{weights} is not {ORIGINS[name]}")
    if name == "med3d":
        return name, lambda volume: {"": net(standardised(volume)[None, None])}
    if name == "r3d18":
        return name, lambda volume: {"": net(volume.expand(1, 3, -1, -1, -1))}
    size = "" if pad_to is None else "-" + "x".join(map(str, pad_to))
    prepare = {"radimagenet": radimagenet_input, "inception": inception_input}[name]
    return f"{name}-centre{centre:g}{size}", Slices(net, prepare, centre=centre, pad_to=pad_to)


class Slices:
    """Features of the slices of three planes: (S, F) each, by the network after `prepare` of a plane's slices."""

    def __init__(
        self,
        net: nn.Module,
        prepare: Callable[[Tensor], Tensor],
        *,
        centre: float,
        pad_to: tuple[int, int, int] | None,
    ) -> None:
        self.net, self.prepare, self.centre, self.pad_to = net, prepare, centre, pad_to

    def __call__(self, volume: Tensor) -> dict[str, Tensor]:
        volume = volume if self.pad_to is None else pad_or_crop(volume, self.pad_to)
        found = {}
        for plane, axis in PLANES.items():
            batches = self.prepare(middle(volume, axis, self.centre)).split(SLICES_AT_ONCE)
            found[plane] = torch.cat([self.net(batch) for batch in batches])
        return found


def middle(volume: Tensor, axis: int, share: float) -> Tensor:
    """The slices in the middle of an axis, first axis first: (S, height, width)."""
    n = volume.shape[axis]
    first, end = int((1 - share) / 2 * n), int((1 + share) / 2 * n)
    if first >= end:
        raise ValueError(f"a centre of {share:g} leaves no slice of {n}: take more")
    return volume.narrow(axis, first, end - first).movedim(axis, 0)


def pad_or_crop(volume: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """The volume with 0 around it, or less of it, equally on both sides of each axis (one more after where odd)."""
    margins = [(wanted - side) // 2 for wanted, side in zip(shape, volume.shape, strict=True)]
    ends = [wanted - side - low for wanted, side, low in zip(shape, volume.shape, margins, strict=True)]
    return F.pad(volume, [k for pair in zip(margins[::-1], ends[::-1], strict=True) for k in pair])


def radimagenet_input(slices: Tensor) -> Tensor:
    """Slices (S, H, W) of one volume and plane, min-max scaled together, as BGR less its means: (S, 3, H, W)."""
    scaled = (slices - slices.min()) / (slices.max() - slices.min() + 1e-10)
    return scaled[:, None] - scaled.new_tensor(BGR_MEANS).view(3, 1, 1)  # grey: BGR is RGB but for the means


def inception_input(slices: Tensor) -> Tensor:
    """Slices (S, H, W) in [0, 1], resized to 299 x 299 and normalised as torchvision does: (S, 3, 299, 299)."""
    grey = F.interpolate(slices[:, None], size=(INCEPTION_SIDE,) * 2, mode="bilinear", antialias=True)
    means, deviations = (grey.new_tensor(values).view(3, 1, 1) for values in IMAGENET)
    return (grey - means) / deviations


def standardised(volume: Tensor) -> Tensor:
    """A volume less its mean, over its standard deviation, as MedicalNet was fed."""
    return (volume - volume.mean()) / (volume.std() + 1e-5)


def radimagenet_net() -> nn.Module:
    """Keras's ResNet-50 in PyTorch names: strides in the first convolution of a block, biases, another epsilon."""
    net = resnet50(spatial_dims=2, n_input_channels=3, conv1_t_stride=2, feed_forward=False)
    for module in net.modules():
        if isinstance(module, ResNetBottleneck):
            module.conv1.stride, module.conv2.stride = module.conv2.stride, (1, 1)
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1.001e-5
        if isinstance(module, nn.Conv2d) and module.bias is None:
            module.bias = nn.Parameter(torch.zeros(module.out_channels))
    return net


def med3d_net() -> nn.Module:
    """ResNet-50 as MONAI lays out MedicalNet's weights: strides where MedicalNet's own code dilates."""
    return resnet50(spatial_dims=3, n_input_channels=1, conv1_t_stride=2, feed_forward=False, bias_downsample=False)


def inception_net() -> nn.Module:
    return torchvision("models").inception_v3(weights=None, init_weights=False)


def r3d18_net() -> nn.Module:
    return torchvision("models.video").r3d_18(weights=None)


def torchvision(module: str) -> ModuleType:
    """A module of torchvision, which this project does not install."""
    found, there = optional_import(f"torchvision.{module}")
    if not there:
        raise ValueError(
            "features inception and r3d18 need torchvision, built for the installed torch; "
            "install the matching pair (see pytorch.org) or use features encoder or radimagenet"
        )
    return found


MAKERS = {"radimagenet": radimagenet_net, "inception": inception_net, "r3d18": r3d18_net, "med3d": med3d_net}


def read_state(name: str, path: str | Path | None, sha256: str | None = None) -> dict[str, Tensor]:
    """Tensors of a weights file by name, out of "state_dict" and without "module.", as MedicalNet's have it."""
    if not path or not Path(path).is_file():
        raise FileNotFoundError(
            f"no weights of features {name} at {path or 'no path given'} (config key metrics.features, weights "
            f"of {name}; SHA-256 {sha256 or 'not given'}). Take {ORIGINS[name]}, put it there, or leave {name} out of "
            f"metrics.features"
        )
    if sha256 and (found := hashlib.sha256(Path(path).read_bytes()).hexdigest()) != sha256:
        raise ValueError(f"{path} has SHA-256 {found}, asked for is {sha256}: it is another file or damaged")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{path} cannot be read as weights ({type(error).__name__})") from error
    state = state.get("state_dict", state) if isinstance(state, dict) else {}
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} holds no state dict of tensors; wanted {ORIGINS[name]}")
    return {key.removeprefix("module."): value for key, value in state.items()}


def with_weights(net: nn.Module, state: dict[str, Tensor], refusal: str) -> nn.Module:
    """The network with these weights, all of them and no others, frozen, and without its classifier."""
    wanted = {key: value.shape for key, value in net.state_dict().items()}
    missing, extra = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]  # a count that older files lack
    if missing or extra:
        raise ValueError(f"{refusal}: missing {missing[:2] or 'none'}, unknown {extra[:2] or 'none'}")
    for key, value in state.items():
        if value.shape != wanted[key]:
            raise ValueError(f"{refusal}: {key} has shape {tuple(value.shape)}, wanted {tuple(wanted[key])}")
        if not torch.isfinite(value).all():
            raise ValueError(f"{refusal}: {key} holds values that are not finite")
    net.load_state_dict(state, strict=False)
    if getattr(net, "fc", None) is not None:
        net.fc = nn.Identity()
    return net.requires_grad_(False).eval()
