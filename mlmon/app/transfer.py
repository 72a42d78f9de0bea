"""Events into a log by hand: what `mlmon emit` and `mlmon dlq replay` share.

Unlike the emitter this drops nothing: a record is written or the error is raised.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mlmon.attach.kafka_sink import KafkaSink, KafkaSinkConfig
from mlmon.attach.sinks import OutRecord, SpoolSink
from mlmon.errors import ConfigError
from mlmon.events.encode import ARROW_CONTENT_TYPE, CONTENT_TYPE_HEADER, encode_batch
from mlmon.kafka_client import KafkaConnection
from mlmon.sources.spool_writer import SpoolWriterConfig

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlmon.attach.sinks import Sink
    from mlmon.config import Config
    from mlmon.events.batch import EventBatch

__all__ = ["open_sink", "records", "write_batch"]

_EVENTS_PER_RECORD = 256


def open_sink(config: Config) -> Sink:
    """A sink onto the log that the configuration reads.

    Raises:
        ConfigError: the configured source is a replay, which cannot be written to.
    """
    if config.source.kind == "spool":
        return SpoolSink(SpoolWriterConfig(directory=config.source.spool.directory))
    if config.source.kind == "kafka":
        kafka = config.source.kafka
        connection = {name: getattr(kafka, name) for name in KafkaConnection.__struct_fields__}
        return KafkaSink(KafkaSinkConfig(**connection, topic=kafka.topics[0]))
    raise ConfigError('source.kind is "replay": events can be written to a spool or to Kafka only')


def records(batch: EventBatch) -> Iterator[OutRecord]:
    """Cut a batch into records of one service and model each, keyed by them, in order."""
    services, service_names = batch.codes("service")
    models, model_names = batch.codes("model_name")
    pairs = services.astype(np.int64) * len(model_names) + models
    headers = [(CONTENT_TYPE_HEADER, ARROW_CONTENT_TYPE.encode())]
    for pair in np.unique(pairs).tolist():
        part = batch.take(np.flatnonzero(pairs == pair))
        key = f"{service_names[pair // len(model_names)]}/{model_names[pair % len(model_names)]}".encode()
        for start in range(0, len(part), _EVENTS_PER_RECORD):
            piece = part.slice(start, min(_EVENTS_PER_RECORD, len(part) - start))
            yield OutRecord(key, encode_batch(piece), headers, len(piece))


def write_batch(sink: Sink, batch: EventBatch) -> int:
    """Write all events of a batch; returns how many.

    Raises:
        SourceError: the log does not take them.
    """
    written = 0
    for record in records(batch):
        sink.write(record)
        written += record.events
    return written
