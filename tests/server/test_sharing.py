"""Shadow work's share of the device's time."""

from __future__ import annotations

import pytest

from mlmon.server.work.sharing import QUIET_SECONDS, SHARE, ShadowShare


def test_where_no_interactive_work_comes_every_batch_may_be_full() -> None:
    share = ShadowShare(0.02)
    for number in range(5):
        assert share.seconds(number * 0.02) == 0.02
        assert share.wait(number * 0.02) == 0
        share.spend(0.02)


def test_while_interactive_work_comes_shadow_work_has_its_share_of_the_time() -> None:
    share, now, taken = ShadowShare(0.02), 5.0, 0.0
    for _ in range(10_000):
        share.came(now)
        given = share.seconds(now)
        assert 0 <= given <= 0.02
        share.spend(given)
        taken += given
        now += 0.007
    assert taken == pytest.approx(SHARE * (now - 5.0), rel=0.01)


def test_what_was_overdrawn_is_saved_up_again() -> None:
    share = ShadowShare(0.02)
    share.came(1.0)
    share.seconds(1.0)
    share.spend(0.5)  # one piece that took long
    now = 1.0
    while share.seconds(now) < 0.02:
        share.came(now)
        now += 0.01
    assert now - 1.0 == pytest.approx(0.5 / SHARE, abs=0.02)


def test_who_waits_is_told_when_there_will_be_time() -> None:
    share = ShadowShare(0.02)
    share.came(1.0)
    share.seconds(1.0)
    share.spend(0.001)
    wait = share.wait(1.0)
    assert wait == pytest.approx(0.001 / SHARE)
    assert share.seconds(1.0 + wait) == pytest.approx(0.02)
    share.spend(1.0)
    assert share.wait(1.0 + wait) == pytest.approx(QUIET_SECONDS - wait), "by then none has come for a while"
    assert share.seconds(1.0 + QUIET_SECONDS) == 0.02
