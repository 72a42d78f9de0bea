"""`tests/support` on the path, and a real Prometheus."""

from __future__ import annotations

import sys
from pathlib import Path

_SUPPORT = str(Path(__file__).parents[1] / "support")
if _SUPPORT not in sys.path:
    sys.path.insert(0, _SUPPORT)

from prometheus_kit import prometheus_server  # noqa: E402 - found by the line above

__all__ = ["prometheus_server"]
