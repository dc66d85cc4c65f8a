"""Hardware: default device, device names, peak memory. Memory is in MB (10^6 bytes), nan where it cannot be read."""

import ctypes
import math
import platform
import re
from pathlib import Path

import torch


def default_device() -> str:
    """Return "cuda" if a GPU is available, else "cpu"."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def device_name(device: str | None = None) -> str:
    """Name of a device, such as "NVIDIA A100-SXM4-80GB" or "AMD EPYC 7763, 2 threads"."""
    if (device or default_device()) == "cuda":
        return torch.cuda.get_device_name()
    cpuinfo, threads = Path("/proc/cpuinfo"), torch.get_num_threads()
    model = re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text()) if cpuinfo.exists() else None
    return f"{model[1].strip() if model else platform.machine()}, {threads} thread{'s' * (threads > 1)}"


def to_device(rows: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy of a batch on `device`. A GPU reads it from pinned host memory, while the CPU goes on."""
    if device.type != "cuda" or rows.is_cuda:
        return rows.to(device)
    return rows.pin_memory().to(device, non_blocking=True)


def reset_peak(device: str) -> float:
    """Reset the peak memory of this process; returns the memory in use now."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / 1e6
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # memory that is freed but not returned would hide the peak
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, AttributeError):
        return math.nan
    return _status_mb("VmRSS")


def peak_mb(device: str | None = None) -> float:
    """Peak memory of this process since its start or `reset_peak`: GPU allocator, or resident memory (Linux only)."""
    if (device or default_device()) == "cuda":
        return round(torch.cuda.max_memory_allocated() / 1e6, 1)
    return round(_status_mb("VmHWM"), 1)


def _status_mb(name: str) -> float:
    try:
        found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    except OSError:
        return math.nan
    return int(found[1]) / 1e3 if found else math.nan
