"""Thin command lines, one per rule of the workflow: read arguments, one library call, write."""

import gc
import sys
from importlib.abc import MetaPathFinder
from types import ModuleType

UNASKED = {
    *("PIL", "huggingface_hub", "jsonschema", "matplotlib", "scipy.signal", "skimage", "sklearn", "transformers"),
    "torchvision",  # which wants PIL, and cannot be imported twice
}

if sys.argv[:1] == ["-m"]:  # in a job, which collects garbage once it has its arguments (_cli.py)
    gc.disable()


class _Unasked(MetaPathFinder):
    """Hides UNASKED from MONAI while that is imported, and from nobody else.

    MONAI imports whatever it could use of what is installed, for parts that no job uses: that is most of its import,
    in every job. Without them it stands as it does where they are not installed. Only jobs do so, not the library.
    """

    def find_spec(self, name: str, path: object = None, target: ModuleType | None = None) -> None:
        monai = sys.modules.get("monai")
        if name in UNASKED and monai and getattr(monai.__spec__, "_initializing", False):
            raise ModuleNotFoundError(f"{name}: MONAI is imported without it", name=name)


sys.meta_path.insert(0, _Unasked())
