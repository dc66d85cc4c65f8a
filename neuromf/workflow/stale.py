"""Jobs left stale behind gates."""

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

FORCING = {"-f", "--force", "-F", "--forceall", "-R", "--forcerun"}  # options of Snakemake


def left_behind(logs: Sequence[str], arguments: Sequence[str]) -> int:
    """How many jobs a further run would make after one that judged gates; 0 after any other, and where jobs are forced.

    Snakemake (9.27) does not ask what lies behind a stale gate whether it is stale for reasons of its own, since gates
    are `ancient`: a dry run finds what it left.

    Arguments:
        logs: Of Snakemake, of the run that ended.
        arguments: Those that it was called with.
    """
    judged = any(re.search(r"rule gate:$", Path(log).read_text(encoding="utf-8"), re.M) for log in logs)
    if not judged or FORCING & set(arguments):
        return 0
    command = [sys.executable, "-m", "snakemake", *arguments, "--dry-run"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    jobs = re.search(r"^total +(\d+)$", done.stdout, re.M)
    return int(jobs[1]) if jobs else 0
