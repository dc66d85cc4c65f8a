"""Features from the brain extraction network of deepbet, which no training of this project uses.

deepbet segments the brain in T1 volumes. Its network, a 3D LinkNet, was trained on T1 scans of thousands of
participants, so its features are independent of the study's autoencoder. The weights are a file in the installed
package; nothing is downloaded at run time.

That file is a TorchScript archive: a zip file of raw arrays, pickled structure and code. Only the raw float32 arrays of
the encoder are read, into the network below. Nothing is unpickled, no code of the archive or of the package runs, and
the file must have the SHA-256 below.

References:
    deepbet: Fast brain extraction of T1-weighted MRI using Convolutional Neural Networks (Fisch et al., 2024),
        doi:10.1016/j.compbiomed.2024.108845
    LinkNet: Exploiting Encoder Representations for Efficient Semantic Segmentation (Chaurasia and Culurciello, 2017),
        arXiv:1707.03718
"""

import zipfile
from importlib import metadata
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neuromf.core import files
from neuromf.metrics.features.encoder import cell_moments
from neuromf.metrics.features.hashing import FeatureHashing

VERSION = "1.0.2"
FILE, FOLDER = "data/models/model.pt", "bbox_github/data"  # the file in the package, and the arrays in the file
SHA256 = "de8ee7c69654d0dd3935dc4a5d84571d8ecf4637a6bfc01df399c4c2bc86e0fd"
CHANNELS = (16, 16, 32, 64, 128)  # of the first convolution and of the four stages
SIDE = 128  # voxels along each axis of the network's input
CELLS = 4  # cells of the bottleneck along each axis
QUANTILES = (0.005, 0.995)  # intensities that become 0 and 1
EPSILON = 1e-6  # smallest range and standard deviation of intensities: a constant volume is not divided by 0


class Deepbet:
    """Moments of the bottleneck of deepbet's network, projected to n features.

    A volume is resized to SIDE³ voxels: the grid of a study is tight around the brain, as is the box that deepbet
    crops. Each channel of the bottleneck gives its mean, standard deviation and root mean square slope in each of
    CELLS³ cells. Instance normalisation gives all channels similar units: no calibration on training scans is needed.

    Arguments:
        n: Number of features.
        seed: Seed of the random projection.

    Raises:
        ModuleNotFoundError: If deepbet is not installed.
        ValueError: If the installed weights are not those of VERSION.
    """

    def __init__(self, *, n: int = 512, seed: int = 0) -> None:
        self.project = FeatureHashing(CHANNELS[-1] * 3 * CELLS**3, n=n, seed=seed)
        self.net = load_encoder(find_weights())

    def __call__(self, volume: Tensor) -> dict[str, Tensor]:
        """Features (1, n) of one volume (I, J, K)."""
        return {"": self.project(cell_moments(self.net(network_input(volume)), CELLS).flatten())[None]}


def network_input(volume: Tensor) -> Tensor:
    """A volume (I, J, K) on the grid and intensity scale of the network: (1, 1, SIDE, SIDE, SIDE)."""
    low, high = map(float, np.quantile(volume.numpy(), QUANTILES))  # torch sorts, which is slow, at most 2^24 voxels
    x = F.interpolate(volume[None, None], (SIDE,) * 3, mode="trilinear", align_corners=False)
    x = ((x - low) / max(high - low, EPSILON)).clamp(0, 1)
    return 0.226 * (x - x.mean()) / x.std().clamp(min=EPSILON) + 0.449


class Block(nn.Module):
    """Residual block of two 3³ convolutions; if the number of channels changes, the grid is halved."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        stride = 1 if c_in == c_out else 2
        self.double_conv = nn.Sequential(
            nn.Conv3d(c_in, c_out, 3, stride, 1, bias=False),
            nn.InstanceNorm3d(c_out),
            nn.ReLU(),
            nn.Conv3d(c_out, c_out, 3, 1, 1, bias=False),
            nn.InstanceNorm3d(c_out),
        )
        shortcut = nn.Conv3d(c_in, c_out, 1, stride, bias=False), nn.InstanceNorm3d(c_out)
        self.shortcut = nn.Identity() if stride == 1 else nn.Sequential(*shortcut)

    def forward(self, x: Tensor) -> Tensor:
        """Activations (B, c_out, I', J', K') of x (B, c_in, I, J, K)."""
        return F.relu(self.double_conv(x) + self.shortcut(x))


def encoder_net() -> nn.Sequential:
    """The encoder of deepbet's LinkNet: (B, 1, I, J, K) to (B, 128, I/32, J/32, K/32)."""
    start = nn.Conv3d(1, CHANNELS[0], 7, 2, 3, bias=False), nn.InstanceNorm3d(CHANNELS[0]), nn.ReLU()
    stages = [(Block(c_in, c_out), Block(c_out, c_out)) for c_in, c_out in pairwise(CHANNELS)]
    return nn.Sequential(*start, nn.MaxPool3d(3, 2, 1), *(block for stage in stages for block in stage))


def load_encoder(path: Path) -> nn.Sequential:
    """The frozen encoder with the weights of a file: arrays 0 to 19 of the archive, in the order of the layers."""
    net = encoder_net()
    with zipfile.ZipFile(path) as archive:
        raw = [archive.read(f"{FOLDER}/{k}") for k in range(len(net.state_dict()))]
    shapes = {name: weight.shape for name, weight in net.state_dict().items()}
    arrays = (np.frombuffer(data, "<f4") for data in raw)
    state = {name: torch.tensor(x).view(shapes[name]) for name, x in zip(shapes, arrays, strict=True)}
    net.load_state_dict(state)
    return net.requires_grad_(False).eval()


def find_weights() -> Path:
    """File of the weights in the installed package, verified by its SHA-256; see `Deepbet` for errors."""
    try:
        path = Path(str(metadata.distribution("deepbet").locate_file(FILE)))
    except metadata.PackageNotFoundError as error:
        raise ModuleNotFoundError(
            "evaluation.features has deepbet, which needs the package deepbet: pip install 'neuromf[features]', "
            "or remove deepbet from evaluation.features"
        ) from error
    found = files.sha256(path) if path.is_file() else "missing"
    if found != SHA256:
        raise ValueError(
            f"the weights of deepbet, {path}, have SHA-256 {found}, expected {SHA256}: pip install deepbet=={VERSION}"
        )
    return path
