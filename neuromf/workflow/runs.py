"""The runs of a study: the main run of the config, and every arm of the ablations that are run, once per seed.

Arms with equal settings are one run, named by the first arm in the order of the config. In an ablation the arm that
changes nothing comes first, since a study file puts its own arms before those of config.yaml. The main run serves every
arm that equals it. All arms are checked, also those of ablations that are not run.
"""

from typing import NamedTuple

from pydantic import ValidationError

from neuromf.config.meanflow import MeanFlow, Overrides
from neuromf.config.study import BASE, Config, explain

TRAINED = ("net", "flow", "train", "samples")  # sections that define a run


class Member(NamedTuple):
    """An arm of an ablation with one seed, and the run that serves it."""

    ablation: str
    arm: str
    seed: int
    run: str


def plan(config: Config) -> tuple[dict[str, MeanFlow], list[Member]]:
    """Settings of every run by name, and the members of the ablations that are run.

    Raises:
        SystemExit: With one line per wrong key of an arm, or if samples.nfe holds 1 alone.
    """
    base = config.meanflow
    if max(base.samples.nfe) == 1:
        raise SystemExit(
            f"meanflow.samples.nfe must hold a number above 1 to compare one step with; got {base.samples.nfe}"
        )
    runs, members = {BASE: base}, []
    names = {_settings(base): BASE}
    for ablation in base.ablations.arms:
        for arm, seed, settings in _arms(base, ablation):
            run = names.setdefault(_settings(settings), f"{ablation}-{arm}-s{seed}")
            if ablation in base.ablations.run:
                runs.setdefault(run, settings)
                members.append(Member(ablation, arm, seed, run))
    return runs, members


def _arms(base: MeanFlow, ablation: str) -> list[tuple[str, int, MeanFlow]]:
    """Arm, seed and settings of an ablation; an arm that equals the defaults comes first."""
    group = base.ablations.arms[ablation]
    rows = [
        (arm, seed, _override(base, overrides, seed, where=f"ablation {ablation}, arm {arm}"))
        for arm, overrides in group.arms.items()
        for seed in group.seeds
    ]
    unchanged = {_settings(_override(base, {}, seed, where="ablations.defaults")) for seed in group.seeds}
    return sorted(rows, key=lambda row: _settings(row[2]) not in unchanged)


def _override(base: MeanFlow, overrides: Overrides, seed: int, *, where: str) -> MeanFlow:
    """The settings of one arm: the defaults of all arms, then its own overrides, then its seed."""
    values = base.model_dump(include={*TRAINED})
    for change in (base.ablations.defaults or {}, overrides, {"train": {"seed": seed}}):
        values = _merge(values, change)
    try:
        return MeanFlow.model_validate({**base.model_dump(), **values})
    except ValidationError as error:
        raise SystemExit("\n".join([f"{where}:", *(explain(row, MeanFlow) for row in error.errors())])) from None


def _settings(run: MeanFlow) -> str:
    return run.model_dump_json(include={*TRAINED})


def _merge(values: dict, overrides: dict) -> dict:
    """Nested values with those of overrides in place."""
    inner = {k: _merge(values[k], v) if isinstance(v, dict) and isinstance(values.get(k), dict) else v
             for k, v in overrides.items()}  # fmt: skip
    return {**values, **inner}
