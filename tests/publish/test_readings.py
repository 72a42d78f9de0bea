"""Which readings stay on the board."""

from __future__ import annotations

from monitor_kit import SERIES

from mlmon.catalog.requests import TOKENS_PER_WORD, UNKNOWN_TOKEN_RATIO, VERSION_TRAFFIC
from mlmon.monitors.base import Reading
from mlmon.publish import ReadingBoard
from mlmon.windows import Window

WINDOWS = [Window(start * 10, start * 10 + 10) for start in range(6)]


def reading(value: float, window: int, segment: str = "a", metric=UNKNOWN_TOKEN_RATIO) -> Reading:
    labels = tuple(SERIES._replace(segment=segment))
    return Reading(metric, labels, value, WINDOWS[window], 5, 5.0)


def share(version: str, window: int, model: str = "intent") -> Reading:
    labels = ("search", model, "stable", version, "", "", "")
    return Reading(VERSION_TRAFFIC, labels, 0.5, WINDOWS[window], 5, 5.0)


def shown(board: ReadingBoard) -> dict[tuple[str, ...], float]:
    return {(r.metric.name, r.labels[4]): r.value for r in board.current()}


def test_the_newest_window_wins_whatever_the_order() -> None:
    board = ReadingBoard()
    board.add([reading(0.2, 2)])
    board.add([reading(0.1, 1), reading(0.3, 3), reading(0.25, 2)])
    assert shown(board) == {("mlmon_unknown_token_ratio", "a"): 0.3}


def test_metrics_and_series_are_kept_apart() -> None:
    board = ReadingBoard()
    board.add([reading(0.1, 1), reading(0.2, 1, "b"), reading(1.5, 1, metric=TOKENS_PER_WORD)])
    assert len(board) == 3


def test_a_series_that_vanished_expires_and_others_stay() -> None:
    board = ReadingBoard()
    board.add([reading(0.1, 1), reading(0.2, 3, "b"), share("1", 1)])
    assert board.expire(WINDOWS[1].end_us) == 0, "a window that ends at the bound stays"
    assert board.expire(WINDOWS[1].end_us + 1) == 2
    assert shown(board) == {("mlmon_unknown_token_ratio", "b"): 0.2}
    assert board.expire(2**62) == 1
    assert board.current() == ()


def test_a_full_board_counts_what_it_leaves_out_and_still_updates_what_it_has() -> None:
    board = ReadingBoard(max_readings=2)
    board.add([reading(0.1, 1), reading(0.2, 1, "b"), reading(0.3, 1, "c"), reading(0.4, 2)])
    assert shown(board) == {("mlmon_unknown_token_ratio", "a"): 0.4, ("mlmon_unknown_token_ratio", "b"): 0.2}
    assert board.dropped == 1
    assert [(s.metric.name, s.value) for s in board.samples()] == [("mlmon_dropped_readings", 1.0)]
    board.expire(2**62)
    board.add([reading(0.3, 3, "c")])
    assert len(board) == 1


def test_a_version_that_no_longer_serves_is_gone_with_the_next_window() -> None:
    board = ReadingBoard()
    board.add([share("1", 1), share("2", 1), share("1", 1, "ranker")])
    board.add([share("2", 2), share("3", 2), share("9", 1)])
    assert {(r.labels[1], r.labels[3]) for r in board.current()} == {
        ("intent", "2"),
        ("intent", "3"),
        ("ranker", "1"),
    }
