"""The record of a finished training: its history as CSV, its provenance as JSON."""

from importlib import metadata
from pathlib import Path

import pandas as pd

from neuromf.core.hardware import device_name, peak_mb
from neuromf.training.module import ResumableModule


def write_rows(rows: list[dict], path: Path) -> None:
    """Write rows of a history or of diagnostics as CSV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(path, index=False, float_format="%.6g")


def versions() -> dict[str, str]:
    """Versions of the packages that results depend on."""
    return {name: metadata.version(name) for name in ("neuromf", "torch", "monai", "pytorch-lightning")}


def run_record(module: ResumableModule, config: dict, data: dict) -> dict:
    """Provenance of a run: config, data, package versions, number of trained parameters, cost, last history row."""
    trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
    cost = {"seconds": round(module.seconds(), 1), "peak_mb": peak_mb(), "device": device_name()}
    return {"config": config, "data": data, "versions": versions(), "parameters": trained, **cost,
            "last": module.history[-1] if module.history else {}}  # fmt: skip
