"""What counts as lost: ownership goes on only from one generation to the next under one member id."""

from __future__ import annotations

import pytest
from kafka.structs import ConsumerGroupMetadata, TopicPartition

from mlmon.errors import FencedError
from mlmon.sources.kafka_group import Membership

A, B, C = (TopicPartition("t", n) for n in range(3))


class Consumer:
    """What a membership asks of a consumer."""

    def __init__(self, member="m1"):
        self.member = member
        self.paused = []
        self.sought = {}

    def group_metadata(self):
        return ConsumerGroupMetadata("g", 999, self.member, None)

    def pause(self, tp):
        self.paused.append(tp)

    def seek(self, tp, offset):
        self.sought[tp] = offset


@pytest.fixture
def group():
    membership = Membership("g", None)
    consumer = Consumer()
    _, voice = membership.renew()
    membership.bind(consumer)
    return membership, voice, consumer


def told(membership):
    assigned, revoked = membership.changes()
    return sorted(assigned), sorted(revoked)


def test_a_cooperative_change_keeps_what_stays(group):
    membership, voice, consumer = group
    voice.joined([A, B], 4)
    assert told(membership) == (["t-0", "t-1"], [])
    assert consumer.paused == [A, B]
    voice.joined([B, C], 5)
    voice.on_partitions_revoked([A])
    voice.on_partitions_assigned([C])
    assert told(membership) == (["t-2"], ["t-0"])
    assert consumer.paused == [A, B, C]
    assert told(membership) == ([], [])


@pytest.mark.parametrize(("member", "generation"), [("m2", 5), ("m1", 6), ("m1", 4)])
def test_any_break_loses_everything_though_the_library_says_nothing(group, member, generation):
    membership, voice, consumer = group
    voice.joined([A, B], 4)
    told(membership)
    membership.sought(A)
    assert membership.readable() == {A}
    consumer.member = member
    voice.joined([A, C], generation)
    assert membership.readable() == frozenset()
    assert told(membership) == (["t-0", "t-2"], ["t-0", "t-1"])
    assert membership.readable() == frozenset()
    assert consumer.paused == [A, B, A, C]


def test_two_changes_between_polls_are_told_as_one(group):
    membership, voice, _ = group
    voice.joined([A], 1)
    told(membership)
    voice.joined([A, B], 2)
    voice.joined([A, C], 3)
    assert told(membership) == (["t-2"], [])
    voice.joined([C], 4)
    voice.joined([A, C], 5)
    assert told(membership) == (["t-0"], ["t-0"])


def test_a_claim_names_the_generation_that_was_told(group):
    membership, voice, _ = group
    voice.joined([A], 1)
    with pytest.raises(FencedError, match="rebalanced"):
        membership.claim(["t-0"])
    told(membership)
    claim = membership.claim(["t-0"])
    assert (claim.group_id, claim.generation_id, claim.member_id) == ("g", 1, "m1")
    with pytest.raises(FencedError, match="t-1"):
        membership.claim(["t-0", "t-1"])
    voice.on_partitions_lost([A])
    with pytest.raises(FencedError):
        membership.claim(["t-0"])
    assert told(membership) == ([], ["t-0"])


def test_a_buried_consumer_is_not_heard(group):
    membership, voice, _ = group
    voice.joined([A], 1)
    told(membership)
    _, heir = membership.renew()
    membership.bind(Consumer("m2"))
    heir.joined([A], 2)
    voice.on_partitions_revoked([A])
    voice.joined([B], 3)
    assert told(membership) == (["t-0"], ["t-0"])
    assert membership.partition("t-0") == A
    assert membership.partition("t-1") is None
