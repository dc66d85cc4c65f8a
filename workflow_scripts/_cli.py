"""What every script here shares: typed arguments, one log format, a refusal to run behind a blocked gate."""

import argparse
import atexit
import errno
import gc
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

TYPES: dict[str, Callable[[str], Any]] = {"path": Path, "paths": Path, "int": int, "str": str, "json": json.loads}
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
SHUT = {errno.EROFS, errno.EACCES, errno.EPERM}
SMALLER = {  # what a rule needs less memory with
    "vae": "vae.batch",
    "encode": "volumes.shape",
    "train": "train.batch (and raise train.accumulate)",
    "sample": "samples.batch",
}


def arguments(doc: str | None, argv: Sequence[str] | None, *names: str) -> argparse.Namespace:
    """Parsed command line for names such as "volumes", "steps:int", "config:json" or "shards:paths".

    A name without a type is a path; "paths" takes one or more. Every argument is required, except
    "gate": where given, it is the gate of the phase before, and a blocked one ends the script here; and "code", the
    digest of the code that runs.
    """
    sys.excepthook = explain
    parser = argparse.ArgumentParser(description=doc)
    for name in names:
        name, _, kind = name.partition(":")
        parser.add_argument(
            f"--{name}", type=TYPES[kind or "path"], nargs="+" if kind == "paths" else None, required=True
        )
    parser.add_argument("--gate", type=Path, help="results/gates/phase_N.json of the phase before")
    parser.add_argument("--code", default="", help="digest of the code that runs")
    args = parser.parse_args(argv)
    log_to_terminal()
    if not gc.isenabled():  # a job, see __init__
        begin()
    if args.gate:
        from neuromf.workflow.gates import require_open

        require_open(args.gate)
    return args


def begin() -> None:
    """From here on a job works. What it has imported is no garbage: not now, nor at its end, which would take 1 s."""
    gc.freeze()
    gc.enable()
    atexit.register(say_work, time.monotonic())


def say_work(begun: float) -> None:
    """The last line of a job's log, which `neuromf.overhead` reads."""
    cores = os.environ.get("OMP_NUM_THREADS", "1")  # as Snakemake sets it
    logging.getLogger("neuromf").info(
        "worked %.2f s on %s core%s", time.monotonic() - begun, cores, "s" * (cores != "1")
    )


def log_to_terminal() -> None:
    """Library messages at INFO on stderr, in columns, so that long steps show their progress."""
    from rich.console import Console
    from rich.logging import RichHandler

    handler = RichHandler(console=Console(stderr=True, width=110), show_path=False, log_time_format="%H:%M:%S")
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[handler], force=True)
    logging.getLogger("neuromf").setLevel(logging.INFO)


def explain(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Python's own report of what ended a script, then one line on what to do where the machine was the reason."""
    sys.__excepthook__(kind, error, trace)
    if said := advice(error, Path(sys.argv[0]).stem):
        print(said, file=sys.stderr, flush=True)


def advice(error: BaseException, rule: str) -> str:
    """What to do about memory, disks and permissions, for the rule that met them; nothing about anything else."""
    number = getattr(error, "errno", None)
    where = os.path.abspath(getattr(error, "filename", None) or ".")
    if isinstance(error, MemoryError) or number == errno.ENOMEM or _no_memory(error):
        less = f", or lower {SMALLER[rule]} in the config" if rule in SMALLER else ""
        more = f"raise its mem_mb (--set-resources {rule}:mem_mb=N, or the profile)"
        return f"Rule {rule} ran out of memory: {more}{less}."
    if number in FULL:
        return f"Rule {rule} found the disk of {where} full. What was whole stays: make room and run again."
    if number in SHUT:
        return f"Rule {rule} may not write {where}. Make it writable, or name another folder with --directory."
    return ""


def _no_memory(error: BaseException) -> bool:
    """Whether torch says that memory is at an end, of the machine or of the GPU."""
    return isinstance(error, RuntimeError) and any(words in str(error) for words in ("can't allocate", "out of memory"))
