"""Numbers of the paper: each is looked up in the results when it is printed, and recorded with its source.

A value that was not measured is printed as text and listed as missing. A value that the results contain twice is an
error.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from neuromf.report.results import METRICS, Results
from neuromf.report.tables.style import escape, number

ABSENT = r"\notmeasured{}"
FINDINGS = "ablations/questions.csv"
KEY = ("run", "set", "nfe", "metric", "features")
OPEN, CLOSE = "\u27e6", "\u27e7"  # brackets around looked-up values, for tests of the templates


@dataclass
class Numbers:
    """Lookups for the templates of one paper.

    Arguments:
        results: Results of the study.
        config: Sections of the config by name.
        marked: Whether looked-up values are printed in brackets.
    """

    results: Results
    config: Mapping[str, Any]
    marked: bool = False
    printed: list[dict[str, Any]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    @property
    def settings(self) -> dict[str, Any]:
        """Sections of the config; net, flow and train as the run was trained with them."""
        return {**self.config, **self.results.run_record().get("config", {})}

    def metric(self, name: str, which: int | str) -> str:
        """A metric with its interval, of samples at an NFE or of a named set; see `Results.row`."""
        row = self.results.row(name, which)
        if not row:
            return self._absent(f"{name} at {which}")
        return self._print(number(row["value"], row["low"], row["high"]), METRICS, _key(row), row["value"])

    def n(self, name: str, which: int | str) -> str:
        """Number of volumes behind a metric."""
        row = self.results.row(name, which)
        if not row:
            return self._absent(f"{name} at {which}")
        return self._print(f"{int(row['n'])}", METRICS, _key(row) | {"column": "n"}, row["n"])

    def features(self, name: str = "frechet") -> str:
        """Name of the first feature set of a distance."""
        row = self.results.row(name, 1)
        if not row:
            return self._absent(f"features of {name}")
        return self._print(row["features"] or "image", METRICS, {"metric": name, "column": "features"}, None)

    def versus(self, name: str, a: int | str, b: int | str) -> str:
        """Comparison of a metric at a and b as text; values with overlapping intervals are not distinguished."""
        rows = [self.results.row(name, which) for which in (a, b)]
        if not all(rows) or any(math.isnan(row["low"]) for row in rows):
            return self._absent(f"{name} at {a} against {b}")
        intervals = (low, high), (other_low, other_high) = [(row["low"], row["high"]) for row in rows]
        text = "lower than" if high < other_low else "higher than" if low > other_high else "not distinguishable from"
        return self._print(text, METRICS, {"metric": name, "sets": [str(a), str(b)]}, intervals)

    def setting(self, path: str) -> str:
        """A value of the config, such as flow.times.fraction_corner."""
        return self._at(self.settings, path, "config")

    def largest_nfe(self) -> str:
        """Largest number of network evaluations of the samples."""
        nfe = max(self.config["samples"]["nfe"])
        return self._print(f"{nfe}", "config", {"path": "samples.nfe"}, nfe)

    def value(self, file: str, path: str) -> str:
        """A value of a JSON file of the results, such as ssim in vae/validation.json."""
        return self._at(self.results.json(file), path, file)

    def training(self, path: str) -> str:
        """A value of the record of the run: config, cost, versions."""
        return self.value(f"runs/{self.results.run}/card.json", path)

    def scans(self, split: str) -> str:
        """Number of accepted scans of a split, of all "accepted" or of all "excluded" scans."""
        counts = self.results.scan_counts
        if not counts:
            return self._absent(f"number of {split} scans")
        return self._print(f"{counts.get(split, 0):,}", "cohort/qc.tsv", {"split": split}, counts.get(split, 0))

    def seconds(self, part: str, nfe: int | None = None) -> str:
        """Seconds per volume at batch 1, of the network at an NFE or of the decoder."""
        table = self.results.generation_times
        if len(table):
            table = table[(table["part"] == part) & (table["batch"] == 1)]
            table = table if nfe is None else table[table["nfe"] == nfe]
        if len(table) != 1:
            return self._absent(f"seconds of the {part}")
        value = float(table.iloc[0]["seconds_per_volume"])
        return self._print(number(value), f"bench/generation-{self.results.run}.csv", {"part": part, "batch": 1}, value)

    def device(self) -> str:
        """Device and precision of the generation times."""
        text, file = self.results.timing_device, f"bench/generation-{self.results.run}.csv"
        return self._print(text, file, {"column": "device"}, None) if text else self._absent("device of the timing")

    def torus_distance(self, nfe: int) -> str:
        """Mean distance of samples to the torus in each number of dimensions, as text."""
        table = self.results.table("toy/summary.csv")
        rows = table[table["nfe"] == nfe].to_dict("records") if len(table) else []
        if not rows:
            return self._absent(f"torus at {nfe} network evaluations")
        parts = [f"{number(row['mean_distance'])} in {row['dim']} dimensions ({row['prediction']}-prediction)"
                 for row in rows]  # fmt: skip
        values = [row["mean_distance"] for row in rows]
        return self._print(", ".join(parts), "toy/summary.csv", {"nfe": nfe}, values)

    def findings(self) -> list[dict[str, str]]:
        """Results of the ablation comparisons: ablation, question, arms and finding, escaped for LaTeX."""
        return [
            {
                "ablation": escape(row["ablation"]),
                "question": escape(row["question"]),
                "arms": self._print(" and ".join(filter(None, (row["a"], row["b"]))), FINDINGS, {"row": k}, None),
                "finding": self._print(row["finding"], FINDINGS, {"row": k, "column": "finding"}, None),
            }
            for k, row in enumerate(self.results.table(FINDINGS).to_dict("records"))
        ]

    def gates(self, phases: Sequence[int]) -> list[dict[str, Any]]:
        """Gates of some phases: phase, status and failed criteria, escaped for LaTeX."""
        return [self._gate(phase, f"gates/phase_{phase}.json") for phase in phases]

    def _gate(self, phase: int, file: str) -> dict[str, Any]:
        record = self.results.json(file)
        failed = [
            self._print(f"{row['id']} ({row['what']}: {row['measured']}, required {row['bound']}; {row['kind']})", file,
                        {"id": row["id"]}, row["measured"])
            for row in record.get("rows", []) if not row["passed"]
        ]  # fmt: skip
        name = self._print(str(phase), file, {"column": "phase"}, phase)
        return {"phase": name, "status": record.get("status", "missing").lower(), "failed": failed}

    def _at(self, record: Any, path: str, file: str) -> str:  # noqa: ANN401
        for part in path.split("."):
            record = record.get(part) if isinstance(record, Mapping) else None
        return (
            self._absent(f"{path} of {file}")
            if record is None
            else self._print(_text(record), file, {"path": path}, record)
        )

    def _print(self, text: str, source: str, key: Mapping[str, Any], value: Any) -> str:  # noqa: ANN401
        """Record a number with its source and return its LaTeX."""
        self.printed.append({"text": text, "source": source, "key": dict(key), "value": value})
        return f"{OPEN}{escape(text)}{CLOSE}" if self.marked else escape(text)

    def _absent(self, what: str) -> str:
        if what not in self.missing:
            self.missing.append(what)
        return ABSENT


def _key(row: Mapping[str, Any]) -> dict[str, Any]:
    """Columns that identify a row of the metrics table."""
    return {name: None if pd.isna(row[name]) else row[name] for name in KEY}


def _text(value: Any) -> str:  # noqa: ANN401
    """A value as text: lists with commas, three significant digits for fractions."""
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_text, value))
    if isinstance(value, bool) or isinstance(value, str):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.0f}" if float(value).is_integer() else f"{value:.3g}"
