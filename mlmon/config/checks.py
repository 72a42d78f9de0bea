"""What no single component can know: choices that contradict each other, and choices worth a second look."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from mlmon.config.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mlmon.config.model import Config

__all__ = ["cautions", "conflicts"]

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_IN_CLEAR = {"PLAIN": "the password and the events travel", "OAUTHBEARER": "the token and the events travel"}


def conflicts(config: Config, given: Mapping[str, Any] | None = None) -> list[Problem]:
    """Every pair of choices that cannot be run together.

    Args:
        config: the choices.
        given: the file's tables, to tell what was written from what is a default.
    """
    return [*_unused(config, given or {}), *_impossible(config)]


def _unused(config: Config, given: Mapping[str, Any]) -> Iterator[Problem]:
    """Tables of sources and checkpoints that are not the chosen ones: nobody would read them."""
    for table, chosen in (("source", config.source.kind), ("checkpoint", config.checkpoint_kind)):
        others = given.get(table, {}).keys() - {"kind", chosen}
        for other in sorted(others):
            yield Problem(
                f"{table}.{other}",
                None,
                f'it is given, but {table}.kind is "{chosen}"',
                f'set {table}.kind = "{other}", or remove [{table}.{other}]',
            )


def _impossible(config: Config) -> Iterator[Problem]:
    if config.checkpoint.kind == "kafka" and config.source.kind != "kafka":
        yield Problem(
            "checkpoint.kind",
            '"kafka"',
            f'it writes the offsets of a Kafka source, but source.kind is "{config.source.kind}"',
            'set checkpoint.kind = "sqlite", or source.kind = "kafka"',
        )
    if config.source.kind == "replay" and config.source.replay is None:
        yield Problem(
            "source.replay.paths",
            None,
            'missing; source.kind is "replay", but no files are named',
            'add  paths = ["events.jsonl"]  under [source.replay]',
        )
    spool, letters = config.source.spool.directory, config.dead_letters.directory
    if config.source.kind == "spool" and os.path.normpath(spool) == os.path.normpath(letters):
        yield Problem(
            "dead_letters.directory",
            f'"{letters}"',
            "it is the spool directory (source.spool.directory), which is for events alone",
            "name another directory",
        )
    if config.checkpoint_kind == "kafka" and config.source.kind == "kafka":
        yield from _own_topics(config)


def _own_topics(config: Config) -> Iterator[Problem]:
    """The topics that mlmon writes must not be among those it reads, nor be one and the same."""
    group, names = config.source.kafka.group, config.checkpoint.kafka
    state = names.state_topic or f"{group}-mlmon-state"
    letters = names.dead_letter_topic or f"{group}-mlmon-dead-letters"
    for key, topic in (("state_topic", state), ("dead_letter_topic", letters)):
        if topic in config.source.kafka.topics:
            yield Problem(
                "source.kafka.topics",
                f'["{topic}", …]',
                f"mlmon writes this topic itself (checkpoint.kafka.{key})",
                "take it out, or name another topic for what mlmon writes",
            )
    if state == letters:
        yield Problem(
            "checkpoint.kafka.dead_letter_topic",
            f'"{letters}"',
            "it is the state topic too, which is compacted and would lose letters",
            "name two different topics",
        )


def cautions(config: Config) -> list[str]:
    """What can be run but may not be what was meant, a sentence each; for the log and for `mlmon check`."""
    return list(_cautions(config))


def _cautions(config: Config) -> Iterator[str]:
    if config.source.kind == "kafka" and config.checkpoint_kind == "sqlite":
        yield (
            'checkpoint.kind = "sqlite" with the Kafka source allows one sidecar only: a second one in the '
            'group would count from its own file. Use checkpoint.kind = "kafka" to run several.'
        )
    if config.loop.checkpoint_interval_seconds > config.windows.size_seconds:
        yield (
            f"loop.checkpoint_interval_seconds = {config.loop.checkpoint_interval_seconds:g} is longer than "
            f"windows.size_seconds = {config.windows.size_seconds}: readings of a window appear only at the "
            "commit after it closes. Shorten the interval."
        )
    if config.http.host not in _LOOPBACK and not (config.http.username or config.http.tls_client_ca_file):
        yield (
            f'http.host = "{config.http.host}" lets other machines read the metrics without a password: they '
            "name services, models and versions. Set http.username and a password, or keep 127.0.0.1."
        )
    kafka = config.source.kafka
    if config.source.kind == "kafka" and kafka.sasl_mechanism is not None and not kafka.tls:
        yield (
            f'source.kafka.sasl_mechanism = "{kafka.sasl_mechanism}" without tls = true: '
            f"{_IN_CLEAR.get(kafka.sasl_mechanism, 'events travel')} unencrypted. "
            "Set source.kafka.tls = true."
        )
