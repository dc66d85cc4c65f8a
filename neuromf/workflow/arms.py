"""Arms of ablations as rules need them: their runs, their result files, and what figures and tables compare."""

import os
from collections.abc import Sequence
from typing import Any

from neuromf.config.meanflow import MeanFlow
from neuromf.config.study import BASE, Config
from neuromf.workflow.runs import Member, plan

RUN_FILES = ["results/runs/{run}/metrics.csv", "results/runs/{run}/card.json"]
NAMES = {"meanflow": "MeanFlow", "rectified": "Rectified Flow"}


class Arms:
    """Runs of a study by name, and the arms of its ablations."""

    def __init__(self, config: Config) -> None:
        self.config, self.runs, self.members = config, *plan(config)

    @property
    def active(self) -> list[str]:
        """The ablations that are run."""
        return self.config.meanflow.ablations.run

    def of(self, ablation: str) -> list[Member]:
        return [member for member in self.members if member.ablation == ablation]

    def files(self, ablation: str) -> list[str]:
        """Metrics and card of every run of an ablation."""
        runs = dict.fromkeys(member.run for member in self.of(ablation))
        return [file.format(run=run) for run in runs for file in RUN_FILES]

    def first_runs(self, ablation: str) -> dict[str, str]:
        """The run of the first seed of each arm."""
        runs: dict[str, str] = {}
        for member in self.of(ablation):
            runs.setdefault(member.arm, member.run)
        return runs

    def base_arm(self, ablation: str) -> str:
        """The arm with the network, flow and sampler of the main run; the first arm if there is none."""
        members = self.of(ablation)
        return next((m.arm for m in members if _kind(self.runs[m.run]) == _kind(self.config.meanflow)), members[0].arm)

    def baselines(self) -> dict[str, str]:
        """Runs beside the main one in table 1, with their display names: the arms of `rectified`."""
        return {
            member.run: f"{NAMES.get(member.arm, member.arm)} arm, seed {member.seed}"
            for member in self.of("rectified")
            if member.run != BASE
        }

    def served(self) -> dict[str, list[str]]:
        """For each run, the arms that it serves, as text."""
        return {
            run: [f"{m.ablation}: {m.arm}, seed {m.seed}" for m in self.members if m.run == run] for run in self.runs
        }

    def _provenance(self, ablation: str) -> dict[str, Any]:
        """What figures and tables of an ablation share."""
        arms = [[m.arm, m.seed, m.run] for m in self.of(ablation)]
        about = {"study": self.config.study, "seed": self.config.meanflow.samples.seed}
        return {**about, "ablation": ablation, "arms": arms}

    def values(self, ablation: str, **more: object) -> dict[str, Any]:
        """Arms and statistics of an ablation, for its figure."""
        return {
            **self._provenance(ablation),
            "reference_arm": self.base_arm(ablation) if ablation in self.active else None,
            "spacing_mm": self.config.volumes.spacing_mm,
            **self.config.meanflow.ablations.statistics.model_dump(exclude={"margin"}),
            **more,
        }

    def table_values(self, ablation: str) -> dict[str, Any]:
        """Arms of an ablation, and the metrics that its table shows: distance, KID in the same features, similarity."""
        statistics = self.config.meanflow.ablations.statistics
        metrics = [
            statistics.distance.model_dump(),
            {"metric": "kid", "features": statistics.distance.features},
            statistics.similarity.model_dump(exclude={"goal"}),
        ]
        return {**self._provenance(ablation), "column_metrics": metrics}


def _kind(run: MeanFlow) -> tuple:
    return run.net, run.flow, run.samples.sampler


def file_times(files: Sequence[str]) -> str:
    """Number of these files that exist, and their newest time: a partial result depends on it."""
    times = [os.stat(name).st_mtime_ns for name in files if os.path.exists(name)]
    return f"{len(times)} of {len(files)} files, newest {max(times, default=0)}"
