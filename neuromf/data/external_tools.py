"""External tools: N4 bias field correction (SimpleITK), skull stripping (deepbet, SynthStrip or HD-BET).

All are optional. A tool is searched for once, before any scan is read. deepbet is a Python package and runs in this
process. The others run for each scan without a shell, in a temporary folder and with a time limit. They get the scan in
RAS+, because HD-BET before version 2 expects the axes of MNI152. A failure on one scan excludes that scan (`BadScan`).

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
from numpy.typing import NDArray

from neuromf.data import deepbet, nifti
from neuromf.data.scans import BadScan, read_image, reraise_machine_errors

N4_SPACING_MM = 4.0  # voxel size for the estimate of the field, which is smooth over centimetres
N4_ITERATIONS = (50, 50, 50, 50)  # limits at 1, 2, 4 and 8 B-spline intervals per axis
N4_MIN_VOXELS = 100
EXECUTABLES = {
    "synthstrip": (
        "mri_synthstrip",
        "synthstrip-docker",
        "synthstrip-singularity",
    ),  # the three take the same arguments
    "hd-bet": ("hd-bet",),
}
DOWNLOADS = {
    "synthstrip": "FreeSurfer 7.3 or later, or a container: https://surfer.nmr.mgh.harvard.edu/docs/synthstrip/",
    "hd-bet": "pip install hd-bet, in a separate environment: https://github.com/MIC-DKFZ/HD-BET",
}
DEEPBET = "deepbet"
MASKS = ("mask.nii.gz", "brain_bet.nii.gz", "brain_mask.nii.gz")  # of SynthStrip, HD-BET 2 and HD-BET 1
ALTERNATIVES = "or give brain masks in cohort.folder.masks, or set volumes.skull_strip to none"


class MissingTool(RuntimeError):
    """A tool that the study needs is not installed."""


@dataclass(frozen=True)
class SkullStripper:
    """An installed tool for skull stripping."""

    name: str  # deepbet, synthstrip or hd-bet
    executable: str  # "" for deepbet
    version: str
    device: str  # cpu or cuda
    timeout_s: float  # per scan, of an executable

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


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


def correct_bias_field(array: NDArray, inside: NDArray, spacing_mm: float) -> NDArray:
    """An image divided by its smooth multiplicative bias field, which N4 estimates in the foreground above 0.

    The field is estimated on every n-th voxel, about 4 mm apart, and evaluated at all voxels. Its mean is undefined:
    the correction changes the scale of the intensities. Equal images give equal results.

    Arguments:
        array: Intensities, shape (I, J, K).
        inside: Foreground mask, booleans of the same shape.
        spacing_mm: Isotropic voxel size in mm.

    Raises:
        BadScan: If fewer than `N4_MIN_VOXELS` voxels of the foreground are above 0; N4 takes logarithms.
    """
    import SimpleITK as sitk

    step = max(1, round(N4_SPACING_MM / spacing_mm))
    usable = inside & (array > 0)
    if (n := int(usable[::step, ::step, ::step].sum())) < N4_MIN_VOXELS:
        raise BadScan(f"no bias field: only {n} voxels of the foreground are above 0, N4 needs {N4_MIN_VOXELS}")
    image = array.astype(np.float32)
    n4 = sitk.N4BiasFieldCorrectionImageFilter()
    n4.SetMaximumNumberOfIterations(N4_ITERATIONS)
    threads = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)  # sums over threads differ from run to run
    try:
        n4.Execute(_itk(image, spacing_mm, step), _itk(usable.astype(np.uint8), spacing_mm, step))
        log_field = sitk.GetArrayFromImage(n4.GetLogBiasFieldAsImage(_itk(image, spacing_mm, 1))).T
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
    return array / np.exp(log_field)


def _itk(array: NDArray, spacing_mm: float, step: int) -> object:
    """Every step-th voxel as a SimpleITK image, whose arrays have the axes in reverse order."""
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(np.ascontiguousarray(array[::step, ::step, ::step].T))
    image.SetSpacing((spacing_mm * step,) * 3)
    return image


def find_skull_stripper(name: str, *, device: str = "cpu", timeout_s: float = 1800) -> SkullStripper:
    """Find an installed tool for skull stripping.

    Arguments:
        name: "deepbet", "synthstrip" or "hd-bet".
        device: "cpu" or "cuda".
        timeout_s: Time limit per scan, in seconds; deepbet has none.

    Raises:
        ValueError: If the name is unknown.
        MissingTool: If the tool is not on the PATH, or deepbet is not installed.
    """
    if name == DEEPBET:
        return SkullStripper(name, "", _deepbet_version(), device, timeout_s)
    if name not in EXECUTABLES:
        raise ValueError(f"skull_strip must be none, {DEEPBET}, {' or '.join(EXECUTABLES)}; got {name}")
    found = [path for path in map(shutil.which, EXECUTABLES[name]) if path]
    if not found:
        raise MissingTool(
            f"volumes.skull_strip is {name}, but no {' or '.join(EXECUTABLES[name])} is on the PATH; "
            f"get it from {DOWNLOADS[name]}; {ALTERNATIVES}"
        )
    version = _hd_bet_version(found[0]) if name == "hd-bet" else _synthstrip_version(found[0])
    return SkullStripper(name, found[0], version, device, timeout_s)


def _deepbet_version() -> str:
    try:
        return deepbet.find()
    except (ModuleNotFoundError, ValueError) as error:
        raise MissingTool(f"volumes.skull_strip is deepbet, but {error}: {deepbet.INSTALL}; {ALTERNATIVES}") from error


def _synthstrip_version(executable: str) -> str:
    """The version of FreeSurfer for its own mri_synthstrip, else the version in the script (container or model)."""
    stamp = Path(os.environ.get("FREESURFER_HOME", "/nowhere"), "build-stamp.txt")
    if Path(executable).name == "mri_synthstrip" and stamp.is_file():
        return stamp.read_text().strip()
    with open(executable, "rb") as file:
        match = re.search(rb"^\s*version = ['\"]([\w.]+)['\"]", file.read(1 << 20), re.M)
    return match[1].decode() if match else "of unknown version"


def _hd_bet_version(executable: str) -> str:
    """2 or 1, from the options in its help text; the two versions take different arguments."""
    try:
        code, output = _run([executable, "--help"], timeout_s=300)
    except subprocess.TimeoutExpired:
        code, output = -1, "nothing within 300 s"
    if "--save_bet_mask" in output:
        return "2"
    if "-mode" in output and "-tta" in output:
        return "1"
    raise MissingTool(
        f"{executable} is no known version of HD-BET: --help ended with {code}, last line "
        f'"{_last_line(output)}"; get it from {DOWNLOADS["hd-bet"]}; {ALTERNATIVES}'
    )


def brain_mask(stripper: SkullStripper, scan: nib.Nifti1Image) -> nib.Nifti1Image:
    """Brain mask of a scan (brain above 0), on the grid that the tool chooses.

    Raises:
        BadScan: If the tool fails, exceeds its time limit, or writes no readable mask.
        OSError: If the disk is full, which is not the fault of the scan.
    """
    if stripper.name == DEEPBET:
        return _deepbet_mask(stripper, scan)
    with tempfile.TemporaryDirectory(prefix="neuromf-strip-") as folder:
        Path(folder, "scan.nii.gz").write_bytes(nifti.compress(nib.as_closest_canonical(scan), level=1))
        try:
            code, output = _run(_command(stripper), timeout_s=stripper.timeout_s, folder=folder)
        except subprocess.TimeoutExpired:
            raise BadScan(
                f"skull stripping failed: {stripper} took over {stripper.timeout_s:g} s, "
                "the limit volumes.skull_strip_timeout_s"
            ) from None
        if os.strerror(errno.ENOSPC) in output:
            raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}, reported by {stripper}", folder)
        masks = [path for name in MASKS if (path := Path(folder, name)).exists()]
        if code or not masks:
            what = f"ended with {code}" if code else "wrote no mask"
            raise BadScan(f"skull stripping failed: {stripper} {what}; last line of its output: {_last_line(output)}")
        try:
            return read_image(masks[0])
        except BadScan as error:
            raise BadScan(f"skull stripping failed: {stripper} wrote an unusable mask, {error}") from error


def _deepbet_mask(stripper: SkullStripper, scan: nib.Nifti1Image) -> nib.Nifti1Image:
    try:
        return deepbet.segment(scan, stripper.device)
    except Exception as error:  # of a library: any kind
        reraise_machine_errors(error)
        raise BadScan(f"skull stripping failed: {stripper} ended with {type(error).__name__}: {error}") from error


def _command(stripper: SkullStripper) -> list[str]:
    """The command line, for the folder of scan.nii.gz."""
    cuda = stripper.device == "cuda"
    start = [stripper.executable, "-i", "scan.nii.gz", "-o", "brain.nii.gz"]
    if stripper.name == "synthstrip":
        return [*start, "-m", "mask.nii.gz", *["-g"] * cuda]
    if stripper.version == "1":
        return [*start, "-s", "1", *(["-device", "0"] if cuda else ["-device", "cpu", "-mode", "fast", "-tta", "0"])]
    return [*start, "--save_bet_mask", *(["-device", "cuda"] if cuda else ["-device", "cpu", "--disable_tta"])]


def _run(command: Sequence[str], *, timeout_s: float, folder: str | None = None) -> tuple[int, str]:
    """Exit status and output of a command; after the time limit it is killed with all its child processes.

    The output goes to a file: a pipe would stay open, and block, as long as any child process lives.
    """
    with tempfile.TemporaryFile() as output:
        try:
            process = subprocess.Popen(command, cwd=folder, start_new_session=True, stdin=subprocess.DEVNULL,
                                       stdout=output, stderr=output)  # fmt: skip
        except OSError as error:
            raise MissingTool(f"{command[0]} cannot be run ({error}); install it again, {ALTERNATIVES}") from error
        try:
            process.wait(timeout_s)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        output.seek(0)
        return process.returncode, output.read().decode(errors="replace")


def _last_line(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return lines[-1][-200:] if lines else "none"
