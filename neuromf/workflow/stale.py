"""Jobs that stay stale after a run that evaluated gates."""

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

FORCING = {"-f", "--force", "-F", "--forceall", "-R", "--forcerun"}  # options of Snakemake


def count_stale_jobs(logs: Sequence[str], arguments: Sequence[str]) -> int:
    """Number of jobs that are stale after a run that evaluated gates; 0 after other runs, and if jobs were forced.

    Gates are `ancient` inputs. Snakemake (9.27) does not check whether jobs behind a stale gate are stale for other
    reasons, so a dry run counts them afterwards.

    Arguments:
        logs: Log files of Snakemake of the finished run.
        arguments: Its command-line arguments.
    """
    evaluated = any(re.search(r"rule gate:$", Path(log).read_text(encoding="utf-8"), re.M) for log in logs)
    if not evaluated or FORCING & set(arguments):
        return 0
    command = [sys.executable, "-m", "snakemake", *arguments, "--dry-run"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    jobs = re.search(r"^total +(\d+)$", done.stdout, re.M)
    return int(jobs[1]) if jobs else 0
