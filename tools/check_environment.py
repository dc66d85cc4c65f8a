"""Print what this machine has for a study, and end with one line: ready, or what is missing.

    python -m tools.check_environment

Only the standard library is imported, so it works in a broken environment. The exit code is 0 if nothing is missing.
"""

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MIN_PYTHON = (3, 11)
MIN_MEMORY_GB, MIN_DISK_GB = 4.0, 3.0  # more than twice what the default study takes
CPU_FLAGS = {"avx512f": "AVX-512", "avx512_bf16": "AVX-512 bf16", "amx_bf16": "AMX bf16"}
TOOLS = {  # optional programs: what for
    "mri_synthstrip": "SynthStrip, volumes.skull_strip",
    "hd-bet": "HD-BET, volumes.skull_strip",
    "mri_synthseg": "SynthSeg, evaluation.segmentation",
    "pdflatex": "results/paper.pdf",
    "tectonic": "results/paper.pdf",
    "npm": "3D viewer in the report",
    "sbatch": "profiles/slurm",
}


def main() -> int:
    missing = [] if sys.version_info >= MIN_PYTHON else ["Python 3.11 or later (make PYTHON=python3.11)"]
    real = os.environ.get("NEUROMF_REAL_DATA", "")
    folders = {"NEUROMF_REAL_DATA": real, "data/": str(ROOT / "data"), "~": str(Path.home())}
    sections: list[tuple[str, Iterable[str]]] = [
        ("Python", [f"{platform.python_version()} at {sys.executable}"]),
        ("Packages", package_lines(ROOT / "envs" / "requirements.lock", missing)),
        ("Device", device_lines()),
        ("Weights", weight_lines(ROOT / "neuromf" / "vae" / "compact_vae.safetensors", missing)),
        ("Data", data_lines(folders, named_in_studies(ROOT / "studies"))),
        ("Resources", resource_lines(ROOT, missing)),
        ("Optional tools", (f"{name}: {shutil.which(name) or 'not found'} ({use})" for name, use in TOOLS.items())),
    ]
    for title, lines in sections:
        for number, line in enumerate(lines):
            print(f"{'' if number else title:<15}{line}")
    print("ready" if not missing else f"not ready: {'; '.join(missing)}")
    return 1 if missing else 0


def package_lines(lock: Path, missing: list[str]) -> Iterator[str]:
    """Compare installed versions with the pins of a lock file, without local parts such as +cpu."""
    pins = dict(re.findall(r"^([\w.-]+)==([^\s;+]+)", lock.read_text(), re.M))
    found = {name: installed(name) for name in pins}
    other = {name: have for name, have in found.items() if have != pins[name]}
    if absent := [name for name, have in other.items() if have is None]:
        missing.append(f"{len(absent)} packages (pip install --requirement {lock})")
    main = ", ".join(f"{name} {found[name]}" for name in ("torch", "monai", "snakemake") if name in found)
    yield f"{len(pins) - len(other)} of {len(pins)} as pinned in {lock.name}: {main}"
    yield from (f"{name}: {have or 'not installed'}, tested with {pins[name]}" for name, have in other.items())


def installed(name: str) -> str | None:
    """Version of a package without its local part, None if it is not installed."""
    try:
        return version(name).partition("+")[0]
    except PackageNotFoundError:
        return None


def device_lines() -> Iterator[str]:
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
        done = subprocess.run(query, capture_output=True, text=True, timeout=20)
        yield from (f"CUDA: {line}" for line in (done.stdout or done.stderr).strip().splitlines())
    else:
        yield "no CUDA device (nvidia-smi not found): the study runs on the CPU"
    cpuinfo = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = re.search(r"model name\s*:\s*(.+)", cpuinfo)
    flags = set(re.findall(r"\b(?:avx512|amx)\w+", cpuinfo))
    speed = ", ".join(label for flag, label in CPU_FLAGS.items() if flag in flags) or "no AVX-512, no AMX"
    yield f"CPU: {model[1] if model else platform.machine()}, {len(os.sched_getaffinity(0))} cores, {speed}"


def weight_lines(path: Path, missing: list[str]) -> Iterator[str]:
    if not path.is_file() or path.stat().st_size < 100_000:  # a pointer of Git LFS is smaller
        missing.append(f"the packaged autoencoder {path} (git checkout {path.relative_to(path.parents[2])})")
        yield f"{path.name}: missing or a stub"
    else:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        yield f"{path.name}: {path.stat().st_size / 1e6:.1f} MB, SHA-256 {digest}"


def data_lines(folders: dict[str, str], wanted: set[str]) -> Iterator[str]:
    """Which of the data sets that studies name lie in each folder; the default study needs none."""
    for name, folder in folders.items():
        found = sorted(f.name for f in Path(folder).iterdir() if f.name in wanted) if Path(folder).is_dir() else []
        yield f"{name}: {', '.join(found) or ('no data set of studies/' if folder else 'not set')}"


def named_in_studies(studies: Path) -> set[str]:
    return {name for file in studies.glob("*.yaml") for name in re.findall(r"\bdata/([\w-]+)", file.read_text())}


def resource_lines(folder: Path, missing: list[str]) -> Iterator[str]:
    disk = shutil.disk_usage(folder).free / 1e9
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    if disk < MIN_DISK_GB:
        missing.append(f"disk: {disk:.1f} GB free at {folder}, {MIN_DISK_GB:g} GB needed")
    if memory < MIN_MEMORY_GB:
        missing.append(f"memory: {memory:.1f} GB, {MIN_MEMORY_GB:g} GB needed")
    yield f"{disk:.0f} GB of disk free, {memory:.0f} GB of memory"


if __name__ == "__main__":
    sys.exit(main())
