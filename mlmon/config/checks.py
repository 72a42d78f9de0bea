"""What no single component can know: choices that contradict each other, and choices worth a second look."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlmon.config.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlmon.config.model import Config

__all__ = ["cautions", "conflicts"]


def conflicts(config: Config) -> list[Problem]:
    """Every pair of choices that cannot be run together."""
    return list(_conflicts(config))


def _conflicts(config: Config) -> Iterator[Problem]:
    if config.checkpoint.kind == "kafka" and config.source.kind != "kafka":
        yield Problem(
            "checkpoint.kind",
            '"kafka"',
            f'it writes the offsets of a Kafka source, but source.kind is "{config.source.kind}"',
            'set checkpoint.kind = "sqlite", or source.kind = "kafka"',
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
    if config.checkpoint.interval_seconds > config.windows.size_seconds:
        yield (
            f"checkpoint.interval_seconds = {config.checkpoint.interval_seconds:g} is longer than "
            f"windows.size_seconds = {config.windows.size_seconds}: readings of a window appear only at the "
            "commit after it closes. Shorten the interval."
        )
