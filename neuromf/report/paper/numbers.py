"""Numbers of the text: each is looked up in the results when it is printed, and written down with where it was found.

What was not measured prints as words and is listed as missing. What stands in the results twice is an error.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from neuromf.metrics.table import select_set
from neuromf.report.results import Results
from neuromf.report.tables.style import escape, number

ABSENT = r"\notmeasured{}"
QUESTIONS = "ablations/questions.csv"
METRICS = "metrics/metrics.csv"
KEY = ("run", "set", "nfe", "metric", "features")
OPEN, CLOSE = "\u27e6", "\u27e7"  # around what was looked up, in a text that is checked and not printed


@dataclass
class Numbers:
    """Lookups for the templates of one paper.

    Arguments:
        results: What there is; `results.run` is the run that the paper is about.
        values: Sections of the config by name.
        marked: Put brackets around all that was looked up, so that a reader can tell it from the template.
    """

    results: Results
    values: Mapping[str, Any]
    marked: bool = False
    told: list[dict[str, Any]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    # --- what the templates call -----------------------------------------------------------------------

    def metric(
        self, name: str, nfe: int | str, *, run: str | None = None, features: str | None = None, factor: float = 1,
        interval: bool = True,
    ) -> str:  # fmt: skip
        """A metric with its interval, of a run at a number of evaluations, or of a named set such as test or prior.

        Arguments:
            features: Feature set; None for the first, which is that of gates and figures.
            factor: What it is multiplied with for print.
        """
        row = self.row(name, nfe, run, features)
        if row is None:
            return self._absent(f"{name} at {nfe}")
        ends = (row["low"], row["high"]) if interval else (math.nan, math.nan)
        text = number(*(factor * float(end) for end in (row["value"], *ends)))
        return self._tell(text, METRICS, {name: row[name] for name in KEY}, row["value"])

    def n(self, name: str, nfe: int | str) -> str:
        """The number of volumes that a metric is of."""
        row = self.row(name, nfe)
        if row is None:
            return self._absent(f"{name} at {nfe}")
        return self._tell(f"{int(row['n'])}", METRICS, {name: row[name] for name in KEY} | {"column": "n"}, row["n"])

    def features(self, name: str = "frechet") -> str:
        """Name of the first feature set of a distance."""
        row = self.row(name, 1)
        if row is None:
            return self._absent(f"features of {name}")
        return self._tell(row["features"] or "image", METRICS, {"metric": name, "column": "features"}, None)

    def versus(self, name: str, a: int | str, b: int | str) -> str:
        """How a metric at a stands to that at b, in words: told apart only where their intervals do not overlap."""
        rows = [row for nfe in (a, b) if (row := self.row(name, nfe))]
        if len(rows) < 2 or any(pd.isna(row["low"]) for row in rows):
            return self._absent(f"{name} at {a} against {b}")
        (low, high), (other_low, other_high) = ends = [(row["low"], row["high"]) for row in rows]
        words = "below" if high < other_low else "above" if low > other_high else "not told apart from"
        return self._tell(words, METRICS, {"metric": name, "nfe": [str(a), str(b)]}, ends)

    def setting(self, path: str) -> str:
        """A value of the config, such as flow.times.fraction_corner; of a run it is what its card says."""
        trained = self.results.card().get("config", {})
        section = path.partition(".")[0]
        there = trained if section in trained else self.values
        return self._dig(there, path, "config")

    def most(self) -> str:
        """The largest number of evaluations that volumes were drawn with."""
        evaluations = max(self.values["samples"]["evaluations"])
        return self._tell(f"{evaluations}", "config", {"path": "samples.evaluations"}, evaluations)

    def fact(self, file: str, path: str) -> str:
        """A value of a JSON file of the results, such as vae/validation.json, ssim."""
        return self._dig(self.results.facts(file), path, file)

    def card(self, path: str) -> str:
        """A value of the card of the run: what it cost and what made it."""
        return self.fact(f"runs/{self.results.run}/card.json", path)

    def people(self, split: str) -> str:
        """How many accepted scans a split has; "accepted" and "aside" count all of them."""
        found = self.results.people
        if not found:
            return self._absent(f"people in {split}")
        return self._tell(f"{found.get(split, 0):,}", "cohort/qc.tsv", {"split": split}, found.get(split, 0))

    def seconds(self, part: str, evaluations: int | None = None) -> str:
        """Seconds a volume at batch 1, of the network at a number of evaluations, or of the decoder."""
        file = f"bench/generation-{self.results.run}.csv"
        table = self.results.rows(file)
        if len(table):
            table = table[(table["part"] == part) & (table["batch"].astype(int) == 1)]
            table = table if evaluations is None else table[table["evaluations"].astype(float) == evaluations]
        if len(table) != 1:
            return self._absent(f"seconds of the {part}")
        value = float(table.iloc[0]["seconds_per_volume"])
        return self._tell(number(value), file, {"part": part, "batch": 1}, value)

    def device(self) -> str:
        """What generation was timed on."""
        file = f"bench/generation-{self.results.run}.csv"
        table = self.results.rows(file)
        if table.empty:
            return self._absent("device of the timing")
        words = " and ".join(sorted(set(table["device"] + ", " + table["precision"])))
        return self._tell(words, file, {"column": "device"}, None)

    def torus(self, evaluations: int) -> str:
        """Mean distance of samples to the torus in each number of dimensions, in words."""
        file, shown = "toy/summary.csv", "{} in {} dimensions ({}-prediction)"
        table = self.results.rows(file)
        rows = table[table["evaluations"].astype(int) == evaluations].to_dict("records") if len(table) else []
        if not rows:
            return self._absent(f"torus at {evaluations} evaluations")
        values = [float(row["mean_distance"]) for row in rows]
        each = [shown.format(number(v), int(r["dim"]), r["prediction"]) for v, r in zip(values, rows, strict=True)]
        return self._tell(", ".join(each), file, {"evaluations": evaluations}, values)

    def findings(self) -> list[dict[str, str]]:
        """What each question to the ablations came to: its ablation, question, and finding, ready to print."""
        rows = self.results.rows(QUESTIONS).to_dict("records")
        return [{"ablation": escape(row["ablation"]), "question": escape(row["question"]), **self._found(k, row)}
                for k, row in enumerate(rows)]  # fmt: skip

    def gates(self, phases: Sequence[int]) -> list[dict[str, Any]]:
        """Gates by phase: status, and the criteria that did not pass, ready to print."""
        found = []
        for phase in phases:
            file = f"gates/phase_{phase}.json"
            gate = self.results.facts(file)
            failed = [self._failed(row, file) for row in gate.get("rows", []) if not row["passed"]]
            name = self._tell(str(phase), file, {"column": "phase"}, phase)
            found.append({"phase": name, "status": gate.get("status", "missing").lower(), "failed": failed})
        return found

    # --- rows and records --------------------------------------------------------------------------------

    def row(
        self, metric: str, nfe: int | str, run: str | None = None, features: str | None = None
    ) -> dict[str, Any] | None:
        """The one row of the tidy table that is meant, None where it is not there.

        Raises:
            ValueError: If it is there more than once.
        """
        table = self.results.metrics
        if table.empty:
            return None
        owner = table["run"].isin([run or self.results.run, ""])
        found = select_set(table[owner & (table["metric"] == metric)], nfe)
        wanted = features if features is not None else next(iter(found["features"]), "")
        found = found[found["features"] == wanted]
        if len(found) > 1:
            where = f"{metric} at {nfe} in features {wanted!r}"
            raise ValueError(f"{where} stands {len(found)} times in {METRICS}, wanted once")
        if found.empty:
            return None
        row = found.iloc[0].to_dict()
        return row | {"nfe": None if pd.isna(row["nfe"]) else int(row["nfe"])}

    def _found(self, k: int, row: Mapping[str, Any]) -> dict[str, str]:
        arms = " and ".join(filter(None, (row["a"], row["b"])))
        told = {"arms": (arms, "a, b"), "finding": (row["finding"], "finding")}
        keys = {name: {"row": k, "column": column} for name, (_, column) in told.items()}
        return {name: self._tell(text, QUESTIONS, keys[name], None) for name, (text, _) in told.items()}

    def _failed(self, row: Mapping[str, Any], file: str) -> str:
        text = f"{row['id']} ({row['what']}: {row['measured']}, wanted {row['bound']}; {row['kind']})"
        return self._tell(text, file, {"id": row["id"]}, row["measured"])

    def _dig(self, there: Any, path: str, file: str) -> str:  # noqa: ANN401
        for part in path.split("."):
            there = there.get(part) if isinstance(there, Mapping) else None
        if there is None:
            return self._absent(f"{path} of {file}")
        return self._tell(_words(there), file, {"path": path}, there)

    def _tell(self, text: str, source: str, key: Mapping[str, Any], value: Any) -> str:  # noqa: ANN401
        self.told.append({"text": text, "source": source, "key": dict(key), "value": value})
        return f"{OPEN}{escape(text)}{CLOSE}" if self.marked else escape(text)

    def _absent(self, what: str) -> str:
        if what not in self.missing:
            self.missing.append(what)
        return ABSENT


def _words(value: Any) -> str:  # noqa: ANN401
    """A value as text: lists with commas, numbers in three digits where they are not whole."""
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_words, value))
    if isinstance(value, bool) or isinstance(value, str):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.0f}" if float(value).is_integer() else f"{value:.3g}"
