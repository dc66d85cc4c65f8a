"""Schedules of weights: functions of the epoch (0, 1, ...).

Reference:
    Cyclical annealing schedule (Fu et al., 2019), NAACL
"""

from collections.abc import Callable

Schedule = Callable[[float], float]


def constant(value: float) -> Schedule:
    """The same value in every epoch."""
    return lambda epoch: value


def linear(target: float, epochs: float, start: float = 0.0) -> Schedule:
    """0 until `start`, then linearly to `target` within `epochs`, then `target`."""

    def at(epoch: float) -> float:
        if epochs <= 0:
            return target if epoch >= start else 0.0
        return target * min(1.0, max(0.0, (epoch - start) / epochs))

    return at


def cyclical(target: float, epochs: float, cycles: int = 4, ratio: float = 0.5) -> Schedule:
    """`cycles` ramps from 0 to `target` within `epochs`, each over the fraction `ratio` of its cycle; then `target`."""
    period = epochs / cycles

    def at(epoch: float) -> float:
        return target if epoch >= epochs else target * min(1.0, (epoch % period) / (ratio * period))

    return at


def decayed(schedule: Schedule, start: float, end: float, fraction: float) -> Schedule:
    """`schedule` until `start`, multiplied by a factor that falls linearly to `fraction` at `end` and stays there."""
    progress = linear(1.0, end - start, start)
    return lambda epoch: schedule(epoch) * (1 - (1 - fraction) * progress(epoch))


SCHEDULES: dict[str, Callable[..., Schedule]] = {"constant": constant, "linear": linear, "cyclical": cyclical}


def make_schedule(name: str, *arguments: float, **options: float) -> Schedule:
    """A schedule of `SCHEDULES` by name.

    Raises:
        ValueError: If there is no schedule of this name.
    """
    if name not in SCHEDULES:
        raise ValueError(f"a schedule must be one of {', '.join(SCHEDULES)}; got {name!r}")
    return SCHEDULES[name](*arguments, **options)
