"""The outbox: a parcel is delivered at least once, never before its commit, and given up only when full."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mlmon.engine.outbox import MAX_PARCELS, Outbox

STATE = dict[bytes, bytes]


def commit(outbox: Outbox, stored: dict[str, STATE]) -> None:
    """A commit that succeeds, of every partition."""
    for partition, records in stored.items():
        puts, deletes = outbox.changes(partition)
        records.update(puts)
        for key in deletes:
            del records[key]
    outbox.committed()


def test_nothing_is_due_before_its_commit_and_nothing_is_kept_after_its_delivery() -> None:
    outbox, stored = Outbox(), {"a": {}}
    outbox.add("w1", "a", [b"one", b"two"])
    assert list(outbox.due()) == []
    commit(outbox, stored)
    assert list(outbox.due()) == [("w1", [b"one", b"two"])]
    assert sorted(stored["a"].values()) == [b"one", b"two"]
    assert outbox.delivered("w1") == "a"
    assert list(outbox.due()) == []
    commit(outbox, stored)
    assert stored["a"] == {}
    assert len(outbox) == 0


def test_a_window_without_anything_to_keep_is_no_parcel() -> None:
    outbox = Outbox()
    assert outbox.add("w1", "a", []) == 0
    assert len(outbox) == 0


def test_what_was_due_at_a_crash_is_due_again_in_order_and_other_records_are_left_alone() -> None:
    outbox, stored = Outbox(), {"a": {b"meta": b"m", b"wx": b"y"}}
    outbox.add("w1", "a", [bytes([i]) for i in range(12)])
    outbox.add("w2", "a", [b"z"])
    commit(outbox, stored)
    again = Outbox()
    again.load("a", stored["a"])
    assert list(again.due()) == [("w1", [bytes([i]) for i in range(12)]), ("w2", [b"z"])]
    again.drop("a")
    assert len(again) == 0
    assert stored["a"][b"meta"] == b"m"


def test_a_full_outbox_gives_up_the_oldest_and_says_so() -> None:
    outbox, stored = Outbox(), {"a": {}}
    given_up = sum(outbox.add(f"w{i:05d}", "a", [b"x"]) for i in range(MAX_PARCELS + 3))
    assert given_up == 3
    assert len(outbox) == MAX_PARCELS
    commit(outbox, stored)
    assert next(outbox.due())[0] == "w00003"
    assert len(stored["a"]) == MAX_PARCELS
    outbox.add("new", "a", [b"x"])
    commit(outbox, stored)
    assert len(stored["a"]) == MAX_PARCELS


class Life(RuleBasedStateMachine):
    """Windows close, commits succeed or fail, the process crashes: every committed parcel arrives."""

    def __init__(self) -> None:
        super().__init__()
        self.outbox = Outbox()
        self.stored: dict[str, STATE] = {"a": {}, "b": {}}
        self.history: dict[str, list[bytes]] = {}
        self.safe: dict[str, list[bytes]] = {}
        self.open: dict[str, list[bytes]] = {}
        self.count = 0

    @rule(
        partition=st.sampled_from(["a", "b"]), chunks=st.lists(st.binary(max_size=3), min_size=1, max_size=3)
    )
    def close_window(self, partition: str, chunks: list[bytes]) -> None:
        self.count += 1
        self.open[f"{self.count:04d}"] = chunks
        self.outbox.add(f"{self.count:04d}", partition, chunks)

    @rule()
    def commit(self) -> None:
        commit(self.outbox, self.stored)
        self.safe.update(self.open)
        self.open.clear()

    @rule(delivered=st.booleans())
    def deliver(self, delivered: bool) -> None:
        for name, chunks in self.outbox.due():
            assert name in self.safe, "delivered before it was safe"
            self.history[name] = list(chunks)
            if not delivered:
                break  # a crash between the write and its note
            self.outbox.delivered(name)

    @rule()
    def crash(self) -> None:
        self.open.clear()
        self.outbox = Outbox()
        for partition, records in self.stored.items():
            self.outbox.load(partition, records)

    @invariant()
    def nothing_committed_is_lost(self) -> None:
        due = dict(self.outbox.due())
        assert {name: list(chunks) for name, chunks in (due | self.history).items()} == self.safe


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
