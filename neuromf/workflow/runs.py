"""Which runs a study makes: the run of its config, and every arm of every active ablation, once per seed.

An ablation is one question: arms by name, each with what it changes of the config, and seeds. Arms with equal
settings are one run, whoever asks for it: the first in the order of the config names it (in an ablation the arm that
changes nothing comes first, as an overlay puts its own keys before those of the default), and the run of the config
itself serves every arm that equals it. All arms are checked, those that are not active too.
"""

from typing import NamedTuple

from neuromf.config.study import BASE, Config, Overrides, read_config

TRAINED = ("net", "flow", "train", "samples")  # sections that make a run what it is


class Member(NamedTuple):
    """One run in the view of an ablation."""

    ablation: str
    arm: str
    seed: int
    run: str


def plan(config: Config) -> tuple[dict[str, Config], list[Member]]:
    """Every run by name, and which arms of the active ablations it serves.

    Raises:
        SystemExit: With one line for each wrong key, naming the arm; those of idle ablations are checked too.
    """
    if max(config.samples.evaluations) == 1:
        raise SystemExit(f"samples.evaluations of {BASE} must hold something larger than 1 to compare one step with")
    runs, members = {BASE: config}, []
    names = {_settings(config): BASE}
    for ablation, group in config.ablations.items():
        for arm, made in _plain_first(config, ablation):
            for seed, changed in zip(group.seeds, made, strict=True):
                run = names.setdefault(_settings(changed), f"{ablation}-{arm}-s{seed}")
                if ablation in config.active:
                    runs.setdefault(run, changed)
                    members.append(Member(ablation, arm, seed, run))
    return runs, members


def _plain_first(config: Config, ablation: str) -> list[tuple[str, list[Config]]]:
    """Arms of an ablation with their config for each seed; one that comes to the settings of the config leads."""
    group = config.ablations[ablation]
    made = {
        arm: [_changed(config, overrides, seed, where=f"ablation {ablation}, arm {arm}") for seed in group.seeds]
        for arm, overrides in group.arms.items()
    }
    plain = _settings(_changed(config, {}, group.seeds[0], where="every_arm"))
    return sorted(made.items(), key=lambda named: _settings(named[1][0]) != plain)


def _changed(config: Config, overrides: Overrides, seed: int, *, where: str) -> Config:
    """The config of one arm: what every arm changes, then what this one does, then its seed."""
    plain = config.model_dump() | {"ablations": {}, "active": [], "every_arm": None}
    for change in (config.every_arm or {}, overrides, {"train": {"seed": seed}}):
        plain = _merge(plain, change)
    try:
        return read_config(plain)
    except SystemExit as error:
        raise SystemExit(f"{where}: {error}") from None


def _settings(config: Config) -> str:
    return "\n".join(getattr(config, section).model_dump_json() for section in TRAINED)


def _merge(values: dict, overrides: dict) -> dict:
    """Values with those of overrides put in, section by section."""
    inner = {k: _merge(values[k], v) if isinstance(v, dict) and isinstance(values.get(k), dict) else v
             for k, v in overrides.items()}  # fmt: skip
    return {**values, **inner}
