"""neuromf: 3D brain MRI in one network evaluation. Import the rooms by name; this file imports none of them."""

import sys
from importlib.abc import MetaPathFinder
from types import ModuleType

UNASKED = {"transformers"}  # which peft brings; jobs do without more (workflow_scripts)


class _Unasked(MetaPathFinder):
    """Hides UNASKED from MONAI while that is imported, and from nobody else.

    MONAI imports whatever it could use of what is installed, for parts that nobody here uses: that is most of its
    import, in every job. Without them it stands as it does where they are not installed.
    """

    def find_spec(self, name: str, path: object = None, target: ModuleType | None = None) -> None:
        monai = sys.modules.get("monai")
        if name in UNASKED and monai and getattr(monai.__spec__, "_initializing", False):
            raise ModuleNotFoundError(f"{name}: MONAI is imported without it", name=name)


sys.meta_path.insert(0, _Unasked())
