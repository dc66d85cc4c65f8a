"""neuromf: 3D brain MRI in one network evaluation. Import the rooms by name; this file imports none of them."""

import sys
from importlib.abc import MetaPathFinder
from types import ModuleType


class _Unasked(MetaPathFinder):
    """Hides transformers from MONAI while that is imported, and from nobody else.

    MONAI imports it, where it is there (peft brings it), for networks that nobody here uses: 2.3 of the 5.7 seconds
    of its import, in every job. Without it MONAI stands as it does where it is not installed.
    """

    def find_spec(self, name: str, path: object = None, target: ModuleType | None = None) -> None:
        monai = sys.modules.get("monai")
        if name.split(".")[0] == "transformers" and monai and getattr(monai.__spec__, "_initializing", False):
            raise ModuleNotFoundError(f"{name}: MONAI is imported without it", name=name)


sys.meta_path.insert(0, _Unasked())
