"""The test kit, public: what it takes to test code that uses mlmon without waiting or faking.

`strategies` (events for Hypothesis) is imported on its own, since Hypothesis is no dependency of mlmon.
"""

from __future__ import annotations

from mlmon.testing.clock import ManualClock

__all__ = ["ManualClock"]
