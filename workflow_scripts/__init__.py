"""Thin command lines, one per rule of the workflow: read arguments, one library call, write."""

import gc
import sys

from neuromf import UNASKED

UNASKED |= {
    *("PIL", "huggingface_hub", "jsonschema", "matplotlib", "scipy.signal", "skimage", "sklearn"),
    "torchvision",  # which wants PIL, and cannot be imported twice
}
if sys.argv[:1] == ["-m"]:  # in a job, which collects garbage once it has its arguments (_cli.py)
    gc.disable()
