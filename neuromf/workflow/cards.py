"""GPUs of this machine, and whether the training of a study fits on them. Asks nvidia-smi and never imports torch."""

import json
import shutil
import subprocess
import sys

QUERY = ("nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits")
CHECK = "import json, sys; from neuromf.benchmarks import memory; memory.refuse_small_card(**json.loads(sys.argv[1]))"
MIB_IN_MB = 1.048576


def smallest_card_mb() -> float:
    """Memory of the smallest GPU of this machine in MB (10^6 bytes); 0 without a GPU."""
    if not shutil.which(QUERY[0]):
        return 0.0
    done = subprocess.run(QUERY, capture_output=True, text=True)
    sizes = [float(line) for line in done.stdout.split() if line.replace(".", "").isdigit()]
    return min(sizes, default=0.0) * MIB_IN_MB


def reason_for_refusal(settings: str) -> str:
    """Why the training of a study does not fit on the smallest GPU; "" if it does, or without a GPU.

    Arguments:
        settings: JSON with the arguments study, runs and shape of `benchmarks.memory.refuse_small_card`.
    """
    if not (card_mb := smallest_card_mb()):
        return ""
    values = json.dumps({**json.loads(settings), "card_mb": card_mb})
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", CHECK, values], capture_output=True, text=True)
    return done.stderr.strip() if done.returncode else ""
