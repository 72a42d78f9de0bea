"""The interpreter of a process that serves."""

from __future__ import annotations

import gc
import sys

import pytest

from mlmon.server.work.interpreter import SWITCH_SECONDS, settle


def test_what_is_loaded_is_frozen_and_threads_take_short_turns() -> None:
    before = sys.getswitchinterval()
    gc.unfreeze()
    try:
        settle()
        assert gc.get_freeze_count() > 10_000
        assert sys.getswitchinterval() == pytest.approx(SWITCH_SECONDS)
    finally:
        gc.unfreeze()
        sys.setswitchinterval(before)
