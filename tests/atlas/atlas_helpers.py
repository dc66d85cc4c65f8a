"""Where real data are, and the default policies for spaces."""

import os
from pathlib import Path

REAL_DATA = Path(os.environ.get("NEUROMF_REAL_DATA", Path(__file__).parents[2] / "../shared/data"))
SPACE = {"tal": "transform", "unknown": "keep"}
