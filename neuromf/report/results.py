"""What a study has left in its folder of results, read as it is; what is not there is missing, never an error.

Complete results lie in results/; where a page is made before all runs are, what there is of ablations and their
figures lies in results/partial/, which is looked into first.
"""

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from neuromf.data.participants import read_table
from neuromf.metrics.ablations import read_rows


@dataclass(frozen=True)
class Results:
    """Files of one study.

    Arguments:
        root: The folder of results.
        run: The run that the study is about.
        partial: Whether results/partial/ is looked into first.
    """

    root: Path
    run: str
    partial: bool = False

    def file(self, name: str) -> Path | None:
        """Path of a file in the results, such as figures/fig_1.png; None where it is not there."""
        folders = [self.root / "partial"] * self.partial + [self.root]
        return next((folder / name for folder in folders if (folder / name).is_file()), None)

    def files(self, pattern: str) -> list[Path]:
        """Files of the results that match a pattern, partial ones included where those count."""
        folders = [self.root / "partial"] * self.partial + [self.root]
        return [path for folder in folders for path in sorted(folder.glob(pattern))]

    def facts(self, name: str) -> dict[str, Any]:
        """A JSON file as a dict, empty where it is not there."""
        path = self.file(name)
        return json.loads(path.read_text(encoding="utf-8")) if path else {}

    def rows(self, name: str) -> pd.DataFrame:
        """A table (csv or tsv), without rows and columns where it is not there.

        Names of arms, runs and sets are text, also where they look like numbers, and not cut short.
        """
        path = self.file(name)
        if path is None or path.stat().st_size < 3:
            return pd.DataFrame()
        return read_table(path) if path.suffix == ".tsv" else read_rows(path)

    @functools.cached_property
    def metrics(self) -> pd.DataFrame:
        """Everything measured, a row per run, set, metric and feature set."""
        return self.rows("metrics/metrics.csv")

    @functools.cached_property
    def people(self) -> dict[str, int]:
        """How many accepted scans each split has, and how many were set aside."""
        table = self.rows("cohort/qc.tsv")
        if table.empty:
            return {}
        accepted = table[table["status"] == "accepted"]
        counts = accepted["split"].value_counts().to_dict()
        return {**counts, "accepted": len(accepted), "aside": len(table) - len(accepted)}

    def card(self, run: str | None = None) -> dict[str, Any]:
        """What made a run, and what it cost."""
        return self.facts(f"runs/{run or self.run}/card.json")

    def value(self, metric: str, nfe: str | int, run: str | None = None) -> dict[str, Any]:
        """The row of a metric (of the first feature set) at a number of evaluations or of a named set; else empty."""
        table = self.metrics
        if table.empty:
            return {}
        owners = table["run"].fillna("").isin([run or self.run, ""])
        found = table[owners & (table["metric"] == metric) & (table["nfe"] == str(nfe))]
        return found.iloc[0].to_dict() if len(found) else {}

    @functools.cached_property
    def evaluations(self) -> list[int]:
        """Numbers of evaluations that the run was measured at."""
        table = self.metrics
        own = table[table["run"] == self.run]["nfe"] if len(table) else []
        return sorted({int(nfe) for nfe in own if str(nfe).isdigit()})
