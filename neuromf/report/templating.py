"""Jinja environments of captions, page, paper and model card."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

MISSING = "not recorded"


def environment(folder: Path, **options: Any) -> Environment:
    """Templates of a folder. An unknown name is an error."""
    return Environment(loader=FileSystemLoader(folder), undefined=StrictUndefined, trim_blocks=True,
                       lstrip_blocks=True, **options)  # fmt: skip


def number(value: str | float | None) -> str:
    """A number with three significant digits, integers in full; text unchanged."""
    if value is None or isinstance(value, float) and not math.isfinite(value):
        return MISSING
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if float(value).is_integer() or abs(value) >= 1000 else f"{value:.3g}"


def duration(seconds: float) -> str:
    """A duration as text: 8.4 s, 12 min or 3.2 h."""
    if seconds < 90:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def plain(value: Any) -> Any:  # noqa: ANN401
    """The value with Python's own types, NaN as None, for JSON."""
    if isinstance(value, Mapping):
        return {str(name): plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    value = value.item() if hasattr(value, "item") else value
    return None if value is pd.NA or isinstance(value, float) and value != value else value
