"""Snakemake in a process forked from one that has imported it: each start is the same program without its imports.

Nothing of this repository is imported before the fork, because tests run copies of it.
"""

import atexit
import functools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

SERVER = """
import json, os, sys
import pandas, pydantic, snakemake.cli
for line in sys.stdin:
    job = json.loads(line)
    if not (child := os.fork()):
        for number, name in ((0, os.devnull), (1, job["stdout"]), (2, job["stderr"])):
            os.dup2(os.open(name, os.O_RDWR), number)
        os.chdir(job["cwd"])
        os.environ.clear()
        os.environ.update(job["env"])
        sys.path[1:1] = [path for path in job["env"].get("PYTHONPATH", "").split(os.pathsep) if path]
        sys.argv = ["snakemake", *job["arguments"]]
        snakemake.cli.main()
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@functools.cache
def server() -> subprocess.Popen:
    """The process that forks; it ends with the tests."""
    process = subprocess.Popen([sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(process.communicate)  # closes its input
    return process


def snakemake(
    arguments: Sequence[str], *, cwd: Path, env: dict[str, str] | None = None, check: bool = False
) -> subprocess.CompletedProcess:
    """Result of `python -m snakemake` with these arguments, as from `subprocess.run` with captured text."""
    with tempfile.TemporaryDirectory() as folder:
        out, error = (Path(folder) / name for name in ("stdout", "stderr"))
        out.touch(), error.touch()
        job = {"arguments": [*map(str, arguments)], "cwd": str(cwd), "env": env or dict(os.environ)}
        print(json.dumps({**job, "stdout": str(out), "stderr": str(error)}), file=server().stdin, flush=True)
        code = int(server().stdout.readline())
        done = subprocess.CompletedProcess(job["arguments"], code, out.read_text(), error.read_text())
    if check:
        done.check_returncode()
    return done
