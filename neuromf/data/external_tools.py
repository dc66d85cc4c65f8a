"""Tools from outside: N4 takes the bias field out (SimpleITK), SynthStrip or HD-BET says where the brain is.

Both are options. A tool is looked for once, before any scan is handled; on each scan it runs without a shell, in a
folder of its own that goes with it, and no longer than it may. Scans are handed over in RAS+, since HD-BET before
version 2 expects the axes of MNI152. What a tool does wrong on one scan sets that scan aside, as `BadScan`.

References:
    N4ITK: Improved N3 Bias Correction (Tustison et al., 2010), doi:10.1109/TMI.2010.2046908
    SynthStrip: Skull-Stripping for Any Brain Image (Hoopes et al., 2022), doi:10.1016/j.neuroimage.2022.119474
    Automated brain extraction of multisequence MRI using artificial neural networks (Isensee et al., 2019),
    doi:10.1002/hbm.24750
"""

import errno
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from neuromf.data.scans import BadScan, read_image

N4_SPACING_MM = 4.0  # voxels that the field is estimated on; it is smooth over centimetres
N4_ITERATIONS = (50, 50, 50, 50)  # at most, per resolution of the field: 1, 2, 4, 8 B-spline intervals per axis
N4_MIN_VOXELS = 100
EXECUTABLES = {
    "synthstrip": ("mri_synthstrip", "synthstrip-docker", "synthstrip-singularity"),  # one syntax for all three
    "hd-bet": ("hd-bet",),
}
SOURCES = {
    "synthstrip": "FreeSurfer 7.3 or later, or a container: https://surfer.nmr.mgh.harvard.edu/docs/synthstrip/",
    "hd-bet": "pip install hd-bet, in an environment of its own: https://github.com/MIC-DKFZ/HD-BET",
}
HD_BET_MASKS = ("brain_bet.nii.gz", "brain_mask.nii.gz")  # as version 2 and 1 name them
OTHER_WAYS = "or give brain masks in cohort.folder.masks, or set volumes.strip to none"


class MissingTool(RuntimeError):
    """A tool that the study asks for is not installed."""


@dataclass(frozen=True)
class Stripper:
    """An installed tool for skull stripping: where it is, its version, and how it runs."""

    name: str
    executable: str
    version: str
    device: str
    timeout_s: float

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


# --- bias field --------------------------------------------------------------------------------------


def n4_version() -> str:
    """The version of SimpleITK.

    Raises:
        MissingTool: If it is not installed.
    """
    try:
        import SimpleITK
    except ImportError as error:
        raise MissingTool(
            "volumes.bias_field is n4, which needs SimpleITK: pip install 'neuromf[n4]', "
            "or set volumes.bias_field to none"
        ) from error
    return SimpleITK.Version.VersionString()


def without_bias_field(array: np.ndarray, inside: np.ndarray, spacing_mm: float) -> np.ndarray:
    """An image without its smooth multiplicative field, which N4 estimates where `inside` holds and values are above 0.

    The field is estimated on every n-th voxel, about 4 mm apart, and divided out of all of them. Its mean is not
    defined: intensities keep their order of size, not their scale. Equal images give equal results.

    Arguments:
        array: The image, with shape (I, J, K).
        inside: The foreground, booleans of the same shape.
        spacing_mm: Size of its isotropic voxels.
    Raises:
        BadScan: If too little of the foreground is above 0, whose logarithm N4 takes.
    """
    import SimpleITK as sitk

    step = max(1, round(N4_SPACING_MM / spacing_mm))
    usable = inside & (array > 0)
    if (n := int(usable[::step, ::step, ::step].sum())) < N4_MIN_VOXELS:
        raise BadScan(f"no bias field: only {n} voxels of the foreground are above 0, {N4_MIN_VOXELS} are needed by N4")
    whole = _itk(array.astype(np.float32), spacing_mm, 1)
    n4 = sitk.N4BiasFieldCorrectionImageFilter()
    n4.SetMaximumNumberOfIterations(N4_ITERATIONS)
    threads = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)  # sums over threads differ from run to run
    try:
        n4.Execute(_itk(array.astype(np.float32), spacing_mm, step), _itk(usable.astype(np.uint8), spacing_mm, step))
        log_field = sitk.GetArrayFromImage(n4.GetLogBiasFieldAsImage(whole)).T
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
    return array / np.exp(log_field)


def _itk(array: np.ndarray, spacing_mm: float, step: int) -> object:
    """Every step-th voxel as an image of SimpleITK, whose arrays have their axes turned round."""
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(np.ascontiguousarray(array[::step, ::step, ::step].T))
    image.SetSpacing((spacing_mm * step,) * 3)
    return image


# --- skull stripping ---------------------------------------------------------------------------------


def find_stripper(name: str, *, device: str = "cpu", timeout_s: float = 1800) -> Stripper:
    """The tool of this name, as it is installed.

    Arguments:
        name: "synthstrip" or "hd-bet".
        device: "cpu" or "cuda".
        timeout_s: Seconds that it may take for one scan.
    Raises:
        ValueError: If the name is none of these.
        MissingTool: If it is not on the PATH; with where to get it, and the other ways.
    """
    if name not in EXECUTABLES:
        raise ValueError(f"strip must be none, {' or '.join(EXECUTABLES)}; got {name}")
    found = [path for path in map(shutil.which, EXECUTABLES[name]) if path]
    if not found:
        raise MissingTool(
            f"volumes.strip is {name}, but no {' or '.join(EXECUTABLES[name])} is on the PATH; "
            f"get it from {SOURCES[name]}; {OTHER_WAYS}"
        )
    version = _hd_bet_version(found[0]) if name == "hd-bet" else _synthstrip_version(found[0])
    return Stripper(name, found[0], version, device, timeout_s)


def _synthstrip_version(executable: str) -> str:
    """That of FreeSurfer where it belongs to one, else what the script says: a container's, or the model's."""
    stamp = Path(os.environ.get("FREESURFER_HOME", "/nowhere"), "build-stamp.txt")
    if Path(executable).name == "mri_synthstrip" and stamp.is_file():
        return stamp.read_text().strip()
    with open(executable, "rb") as file:
        match = re.search(rb"^\s*version = ['\"]([\w.]+)['\"]", file.read(1 << 20), re.M)
    return match[1].decode() if match else "of unknown version"


def _hd_bet_version(executable: str) -> str:
    """2 or 1, by the options that its help names; they are not the same."""
    try:
        code, said = _run([executable, "--help"], timeout_s=300)
    except subprocess.TimeoutExpired:
        code, said = -1, "nothing within 300 s"
    if "--save_bet_mask" in said:
        return "2"
    if "-mode" in said and "-tta" in said:
        return "1"
    raise MissingTool(
        f"{executable} is not the HD-BET that is known here: --help ended with {code} and said "
        f'"{_last_line(said)}"; get it from {SOURCES["hd-bet"]}; {OTHER_WAYS}'
    )


def brain_mask(stripper: Stripper, scan: nib.Nifti1Image) -> nib.Nifti1Image:
    """Where the brain is, as an image with values above 0, on a grid that a tool chooses.

    Raises:
        BadScan: If the tool fails, takes too long, or leaves no mask that can be read; with its last message.
        OSError: If the disk was full, which is no fault of the scan.
    """
    with tempfile.TemporaryDirectory(prefix="neuromf-strip-") as folder:
        nib.save(nib.as_closest_canonical(scan), Path(folder, "scan.nii.gz"))
        try:
            code, said = _run(_command(stripper), timeout_s=stripper.timeout_s, folder=folder)
        except subprocess.TimeoutExpired:
            raise BadScan(
                f"stripping failed: {stripper} took over {stripper.timeout_s:g} s, which is volumes.skull_strip_timeout_s"
            ) from None
        if os.strerror(errno.ENOSPC) in said:
            raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}, said {stripper}", folder)
        masks = [path for name in ("mask.nii.gz", *HD_BET_MASKS) if (path := Path(folder, name)).exists()]
        if code or not masks:
            what = f"ended with {code}" if code else "left no mask"
            raise BadScan(f"stripping failed: {stripper} {what}; its last words: {_last_line(said)}")
        try:
            return read_image(masks[0])
        except BadScan as error:
            raise BadScan(f"stripping failed: {stripper} left a mask that cannot be used, {error}") from error


def _command(stripper: Stripper) -> list[str]:
    """The command line, to be run in the folder of scan.nii.gz."""
    cuda = stripper.device == "cuda"
    if stripper.name == "synthstrip":
        return [stripper.executable, "-i", "scan.nii.gz", "-o", "brain.nii.gz", "-m", "mask.nii.gz", *["-g"] * cuda]
    start = [stripper.executable, "-i", "scan.nii.gz", "-o", "brain.nii.gz"]
    if stripper.version == "1":
        return [*start, "-s", "1", *(["-device", "0"] if cuda else ["-device", "cpu", "-mode", "fast", "-tta", "0"])]
    return [*start, "--save_bet_mask", *(["-device", "cuda"] if cuda else ["-device", "cpu", "--disable_tta"])]


def _run(command: Sequence[str], *, timeout_s: float, folder: str | None = None) -> tuple[int, str]:
    """Exit status and output of a command; one that takes too long is ended with all that it started.

    Output goes to a file: a pipe would stay open, and be waited for, as long as any grandchild lives.
    """
    with tempfile.TemporaryFile() as output:
        try:
            process = subprocess.Popen(command, cwd=folder, start_new_session=True, stdin=subprocess.DEVNULL,
                                       stdout=output, stderr=output)  # fmt: skip
        except OSError as error:
            raise MissingTool(f"{command[0]} cannot be run ({error}); install it again, {OTHER_WAYS}") from error
        try:
            process.wait(timeout_s)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        output.seek(0)
        return process.returncode, output.read().decode(errors="replace")


def _last_line(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return lines[-1][-200:] if lines else "none"
