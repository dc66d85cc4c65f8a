"""Which gate of an earlier phase a gate inherits its state from."""

from collections.abc import Sequence

SAMPLES = 5  # its gate rates samples: the report opens with a failure, and nothing else is blocked by it


def inherited_phase(phase: int, phases: Sequence[int]) -> int | None:
    """The phase whose blocked gate blocks that of `phase`, too: the one before, without phase 5.

    Arguments:
        phase: Phase of the gate.
        phases: Phases of the study, ascending.

    Returns:
        The phase before; None for the first one.
    """
    return max((before for before in phases if before < phase and before != SAMPLES), default=None)
