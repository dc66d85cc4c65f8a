"""What a study of many scans would take, from what a smaller one took: jobs, hours, memory, disk.

Every stage is measured in its own unit and multiplied up. Nothing is assumed of what was not measured: a training is
one job whose hours no further worker shortens, since several GPUs a run were not timed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

MARKDOWN = "| {} |"


@dataclass(frozen=True)
class Stage:
    """One stage of a study: what was measured of it, and how much of it is planned.

    Arguments:
        name: Of its rule.
        unit: What it is counted in, such as "scan".
        units, seconds, peak_mb, megabytes: Measured: how many, how long all of them took, the largest memory of a job,
            and what they left on disk.
        planned: Units of the planned study.
        jobs: Its jobs, alike and apart from each other.
    """

    name: str
    unit: str
    units: int
    seconds: float
    peak_mb: float
    megabytes: float
    planned: int
    jobs: int

    def hours(self, workers: int) -> float:
        """From first to last job with so many at once."""
        return self.seconds / self.units * self.planned / 3600 / self.jobs * math.ceil(self.jobs / workers)


def row(stage: Stage, workers: Sequence[int]) -> dict:
    """A tidy row of the page: seconds a unit, hours by workers, MB of a job, GB on disk."""
    return {
        "stage": stage.name,
        "unit": stage.unit,
        "planned": stage.planned,
        "jobs": stage.jobs,
        "s_per_unit": stage.seconds / stage.units,
        **{f"hours_{n}": stage.hours(n) for n in workers},
        "peak_mb": stage.peak_mb,
        "gb": stage.megabytes / stage.units * stage.planned / 1e3,
    }


def total(rows: Sequence[dict]) -> dict:
    """The row below them: stages come after each other, and all that they leave stays on disk."""
    added = [name for name in rows[0] if name.startswith("hours_") or name in ("jobs", "gb")]
    sums = {name: sum(row[name] for row in rows) for name in added}
    return {**dict.fromkeys(rows[0], ""), "stage": "all", **sums, "peak_mb": max(row["peak_mb"] for row in rows)}


def page(rows: Sequence[dict], *, title: str, notes: Sequence[str]) -> str:
    """Markdown: a table of the rows with their total, and what has to be known to read it."""
    rows = [*rows, total(rows)]
    columns = list(rows[0])
    heads = [head(name) for name in columns]
    lines = [heads, ["---"] + ["---:"] * (len(columns) - 1)]
    lines += [[text(row[name]) for name in columns] for row in rows]
    table = "\n".join(MARKDOWN.format(" | ".join(line)) for line in lines)
    return f"# {title}\n\n{table}\n\n" + "\n".join(f"- {note}" for note in notes) + "\n"


def head(name: str) -> str:
    """Head of a column, with its unit."""
    workers = name.removeprefix("hours_")
    if workers != name:
        return f"hours on {workers}"
    return {"s_per_unit": "s each", "peak_mb": "peak of a job (MB)", "gb": "disk (GB)"}.get(name, name)


def text(value: object) -> str:
    """A number in three digits, whole ones with their thousands apart; anything else as it is."""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
