"""Files of a finished study, and the one lookup of a metric that captions, page, paper and model card share.

Only declared files can be read. A file that was not declared or does not exist is missing, which is not an error.
"""

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from neuromf.data.participants import read_table
from neuromf.metrics.table import COLUMNS, nfe_values, read_rows, select_set

METRICS = "metrics/metrics.csv"


@dataclass(frozen=True)
class Results:
    """Result files of one study.

    Arguments:
        root: Folder of the results.
        run: Run that the study reports.
        inputs: Files, and folders of files, that may be read; None for all files below the root except partial/.
    """

    root: Path
    run: str
    inputs: Sequence[Path] | None = None

    @functools.cached_property
    def _paths(self) -> dict[str, Path]:
        """Readable files by their path below the root; a declared partial/X is read in place of X."""
        given = [self.root] if self.inputs is None else self.inputs
        files = [path for each in given for path in (sorted(each.rglob("*")) if each.is_dir() else [each])]
        names = {path.relative_to(self.root).as_posix(): path for path in files if path.is_file()}
        partial = {name for name in names if name.startswith("partial/")}
        complete = {name: names[name] for name in names.keys() - partial}
        return complete | {name.removeprefix("partial/"): names[name] for name in partial if self.inputs is not None}

    def path(self, name: str) -> Path | None:
        """Path of a file such as figures/fig_1.png, None if it is missing."""
        return self._paths.get(name)

    def names(self, folder: str, suffix: str) -> list[str]:
        """Paths below the root of all readable files in a folder with a suffix, sorted."""
        return sorted(name for name in self._paths if name.startswith(f"{folder}/") and name.endswith(suffix))

    def json(self, name: str) -> dict[str, Any]:
        """Content of a JSON file, {} if it is missing."""
        path = self.path(name)
        return json.loads(path.read_text(encoding="utf-8")) if path else {}

    def table(self, name: str) -> pd.DataFrame:
        """A table (.csv or .tsv), empty if it is missing. Names such as 1.0 or 007 stay text."""
        path = self.path(name)
        if path is None or path.stat().st_size < 3:
            return pd.DataFrame()
        return read_table(path) if path.suffix == ".tsv" else read_rows(path)

    def run_record(self, run: str | None = None) -> dict[str, Any]:
        """Config, versions, device and cost of a training; by default, of the run that the study reports."""
        return self.json(f"runs/{run or self.run}/card.json")

    @functools.cached_property
    def scan_counts(self) -> dict[str, int]:
        """Number of accepted scans of each split, of all accepted and of all excluded scans; {} if not recorded."""
        table = self.table("cohort/qc.tsv")
        if table.empty:
            return {}
        accepted = table[table["status"] == "accepted"]
        counts = {str(split): int(n) for split, n in accepted["split"].value_counts().items()}
        return {**counts, "accepted": len(accepted), "excluded": len(table) - len(accepted)}

    @functools.cached_property
    def metrics(self) -> pd.DataFrame:
        """All metrics of the study; without the merged table, those of the run and of the test participants."""
        names = [METRICS] if self.path(METRICS) else [f"runs/{self.run}/metrics.csv", "metrics/reference.csv"]
        tables = [table for name in names if len(table := self.table(name))]
        return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=["run", *COLUMNS])

    def row(
        self, metric: str, which: int | str, *, features: str | None = None, run: str | None = None
    ) -> dict[str, Any]:
        """The row of a metric (set, nfe, metric, features, n, value, low, high), {} if it was not measured.

        Arguments:
            metric: Name, such as frechet.
            which: Number of network evaluations of the samples, or the name of another set, such as "test" or "prior".
            features: Feature set of the metric; None for the first one, which gates and figures use.
            run: Run; None for the run of the study. Sets without a run, such as "test", belong to every run.

        Raises:
            ValueError: If several rows match.
        """
        table = select_set(self.metrics, which)
        table = table[(table["metric"] == metric) & table["run"].isin([run or self.run, ""])]
        features = next(iter(table["features"]), "") if features is None else features
        rows = table[table["features"] == features].to_dict("records")
        if len(rows) > 1:
            raise ValueError(f"{metric} of {which} in features {features!r} has {len(rows)} rows, expected one")
        return {str(name): value for name, value in rows[0].items()} if rows else {}

    @functools.cached_property
    def nfe(self) -> list[int]:
        """Numbers of network evaluations at which the samples of the run were measured, ascending."""
        return nfe_values(self.metrics[self.metrics["run"] == self.run])

    @functools.cached_property
    def generation_times(self) -> pd.DataFrame:
        """Seconds per volume of network and decoder, by NFE and batch."""
        return self.table(f"bench/generation-{self.run}.csv")

    @functools.cached_property
    def timing_device(self) -> str:
        """Device and precision of the generation times, "" if they were not measured."""
        table = self.generation_times
        return " and ".join(sorted(set(table["device"] + ", " + table["precision"]))) if len(table) else ""
