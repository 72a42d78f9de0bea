"""The dead letters of a configuration, wherever they are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlmon.checkpoint.kafka_letters_read import read_kafka_letters
from mlmon.checkpoint.letters import read_letters

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlmon.checkpoint.letters import Letter
    from mlmon.config import Config

__all__ = ["read_configured_letters"]


def read_configured_letters(config: Config) -> Iterator[Letter]:
    """All letters kept at present, one at a time, in order within a partition of the topic or the files.

    Raises:
        CheckpointError: they cannot be read.
    """
    if config.checkpoint_kind == "kafka":
        kafka = config.source.kafka
        topic = config.checkpoint.kafka.dead_letter_topic or f"{kafka.group}-mlmon-dead-letters"
        return read_kafka_letters(kafka, topic)
    return read_letters(config.dead_letters.directory)
