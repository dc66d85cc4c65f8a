"""What every script here shares: typed arguments, one log format, a refusal to run behind a blocked gate."""

import argparse
import json
import logging
from collections.abc import Sequence
from pathlib import Path

TYPES = {"path": Path, "paths": Path, "int": int, "str": str, "json": json.loads}


def arguments(doc: str | None, argv: Sequence[str] | None, *names: str) -> argparse.Namespace:
    """Parsed command line for names such as "volumes", "steps:int", "config:json" or "shards:paths".

    A name without a type is a path; "paths" takes one or more. Every argument is required, except
    "gate": where given, it is the gate of the phase before, and a blocked one ends the script here.
    """
    parser = argparse.ArgumentParser(description=doc)
    for name in names:
        name, _, kind = name.partition(":")
        parser.add_argument(
            f"--{name}", type=TYPES[kind or "path"], nargs="+" if kind == "paths" else None, required=True
        )
    parser.add_argument("--gate", type=Path, help="results/gates/phase_N.json of the phase before")
    args = parser.parse_args(argv)
    log_to_terminal()
    if args.gate:
        from neuromf.gates import require_open

        require_open(args.gate)
    return args


def log_to_terminal() -> None:
    """Library messages at INFO on stderr, in columns, so that long steps show their progress."""
    from rich.console import Console
    from rich.logging import RichHandler

    handler = RichHandler(console=Console(stderr=True, width=110), show_path=False, log_time_format="%H:%M:%S")
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[handler], force=True)
    logging.getLogger("neuromf").setLevel(logging.INFO)
