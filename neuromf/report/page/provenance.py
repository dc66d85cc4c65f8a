"""Where the numbers of a page come from: runs, versions, and how the study is cited."""

from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

import pandas as pd

from neuromf.report.results import Results

PACKAGES = ("neuromf", "torch", "monai", "numpy", "scikit-image", "snakemake", "matplotlib")


def runs(results: Results, asked: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """A row per run that the study asks for, made or missing.

    Arguments:
        asked: Runs, and the arms of ablations that each serves.
    """
    return pd.DataFrame([_run(name, arms, results.card(name)) for name, arms in asked.items()])


def _run(name: str, arms: Sequence[str], card: Mapping[str, Any]) -> dict[str, Any]:
    train = card.get("config", {}).get("train", {})
    return {
        "run": name,
        "serves": ", ".join(arms),
        "made": "yes" if card else "missing",
        "seed": train.get("seed"),
        "steps": train.get("steps"),
        "parameters": card.get("parameters"),
        "seconds": card.get("seconds"),
        "peak MB": card.get("peak_mb"),
        "device": card.get("device", ""),
    }


def made(results: Results) -> dict[str, Any]:
    """Versions of what made the results: as the card of the run says, and, of the rest, as installed for the page."""
    versions = {name: metadata.version(name) for name in PACKAGES}
    card = results.card()
    return {"versions": versions | card.get("versions", {}), "card": card}
