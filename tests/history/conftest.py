"""Makes the helpers of this area and of the monitors importable."""

from __future__ import annotations

import sys
from pathlib import Path

for folder in (Path(__file__).parent, Path(__file__).parents[1] / "support"):
    sys.path.insert(0, str(folder))
