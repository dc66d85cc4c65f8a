"""Brain masks by deepbet: its own pipeline and networks, whose weights are files of the installed package.

deepbet finds the box of the brain on 128³ voxels, segments the box on 256³ voxels, keeps the largest component and
fills its holes. Nothing is downloaded. The networks are TorchScript archives, which hold code; they are loaded only if
their SHA-256 is that of VERSION.

References:
    deepbet: Fast brain extraction of T1-weighted MRI using Convolutional Neural Networks (Fisch et al., 2024),
        doi:10.1016/j.compbiomed.2024.108845
"""

import functools
from importlib import metadata
from pathlib import Path
from typing import Any

import nibabel as nib

from neuromf.core.files import sha256

VERSION = "1.0.2"
FOLDER = "data/models"  # of the weights, in the package
WEIGHTS = {
    "bbox_model.pt": "39a7b2b5f799faa1391ea97bfcdc0b9299f20d84f2316a4ff8918dc4685e40aa",
    "model.pt": "de8ee7c69654d0dd3935dc4a5d84571d8ecf4637a6bfc01df399c4c2bc86e0fd",
}
INSTALL = "pip install 'neuromf[strip]'"


def find() -> str:
    """The version of the installed package.

    Raises:
        ModuleNotFoundError: If the package, or one that it needs, is not installed.
        ValueError: If its weights are not those of VERSION.
    """
    import cc3d  # noqa: F401  # of connected-components-3d
    import fill_voids  # noqa: F401

    try:
        package = metadata.distribution("deepbet")
    except metadata.PackageNotFoundError as error:
        raise ModuleNotFoundError("No module named 'deepbet'") from error
    for name, expected in WEIGHTS.items():
        path = Path(str(package.locate_file(f"{FOLDER}/{name}")))
        found = sha256(path) if path.is_file() else "missing"
        if found != expected:
            raise ValueError(f"the weights of deepbet, {path}, have SHA-256 {found}, expected {expected}")
    return package.version


@functools.cache
def _extraction(device: str) -> Any:  # noqa: ANN401  # a class of deepbet
    """The networks of deepbet, loaded once per process."""
    find()
    from deepbet.bet import BrainExtraction

    return BrainExtraction(no_gpu=device == "cpu")


def segment(scan: nib.Nifti1Image, device: str = "cpu") -> nib.Nifti1Image:
    """Brain mask of a scan, 0 and 1, on its grid with axes in RAS+.

    Arguments:
        scan: T1-weighted head; FLAIR works, too.
        device: "cpu" or "cuda".

    Raises:
        AssertionError, ValueError: If no brain is found.
    """
    _, mask, _ = _extraction(device).run(nib.as_closest_canonical(scan))
    return nib.Nifti1Image(mask.get_fdata(), mask.affine, extra={"notes": []})
