"""Thin command lines, one per rule of the workflow: read arguments, one library call, write.

A job starts faster without packages that MONAI imports whenever they are installed and that no job uses. Importing
this package hides them from MONAI, in this process; the library itself hides nothing.
"""

import gc
import sys
from importlib.abc import MetaPathFinder
from types import ModuleType

HIDDEN = {"transformers", "PIL", "huggingface_hub", "jsonschema", "matplotlib", "scipy.signal", "skimage", "sklearn"}
HIDDEN |= {"torchvision"}  # which needs PIL and cannot be imported twice


class _HiddenFromMonai(MetaPathFinder):
    """Raises ModuleNotFoundError for HIDDEN packages while MONAI is being imported, as if they were not installed."""

    def find_spec(self, name: str, path: object = None, target: ModuleType | None = None) -> None:
        monai = sys.modules.get("monai")
        if name in HIDDEN and monai and getattr(monai.__spec__, "_initializing", False):
            raise ModuleNotFoundError(f"{name}: hidden from MONAI in jobs of the workflow", name=name)


sys.meta_path.insert(0, _HiddenFromMonai())
if sys.argv[:1] == ["-m"]:  # a job: garbage collection starts once its arguments are parsed (_cli.py)
    gc.disable()
