"""What `mlmon check` looks at: everything a configuration connects to, each with what to do about it."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from mlmon.app.build import load_baselines, token_tables
from mlmon.checkpoint.letters import DeadLetterFile
from mlmon.checkpoint.sqlite import SqliteCheckpoint
from mlmon.clock import SystemClock
from mlmon.errors import ConfigError, LockedError, MlmonError
from mlmon.kafka_check import Finding, check_kafka
from mlmon.registry.file import VersionRegistry
from mlmon.sources.replay import ReplaySource

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlmon.config import Config

__all__ = ["check"]


def check(config: Config) -> Iterator[Finding]:
    """Findings one by one, as they are made; the slow ones (brokers) last."""
    yield from _files(config)
    yield from _baselines(config)
    yield from _history(config)
    yield _port(config)
    if config.checkpoint_kind == "sqlite":
        yield _sqlite(config)
    if config.source.kind == "spool":
        yield _spool(Path(config.source.spool.directory))
    elif config.source.kind == "replay":
        yield _replay(config)
    else:
        checkpoint = config.checkpoint.kafka if config.checkpoint_kind == "kafka" else None
        yield from check_kafka(config.source.kafka, checkpoint)


def _files(config: Config) -> Iterator[Finding]:
    path = config.registry.versions_file
    if path is None:
        yield Finding(True, "no version registry: no version is expected, so none mismatches", "")
    else:
        try:
            yield Finding(True, f"version registry {path}: {len(VersionRegistry(path))} entries", "")
        except ConfigError as error:
            yield Finding(False, f"version registry {path} cannot be used", str(error))
    for name, tokenizer in config.registry.tokenizers.items():
        try:
            token_tables({name: tokenizer})
            yield Finding(True, f"tokenizer of {name}: {tokenizer}", "")
        except ConfigError as error:
            yield Finding(False, f"tokenizer of {name} cannot be used", str(error))


def _baselines(config: Config) -> Iterator[Finding]:
    if not config.baseline.files:
        yield Finding(True, "no baseline: drift is not judged (mlmon baseline build makes one)", "")
        return
    try:
        store = load_baselines(config)
    except MlmonError as error:
        yield Finding(False, "a baseline cannot be used", str(error))
        return
    for scope, held in ({} if store is None else store.scopes).items():
        name = " / ".join(part or "-" for part in scope)
        judged = sum(r.blocks > 0 for part in held.segments.values() for r in part.fields.values())
        yield Finding(True, f"baseline of {name}: {judged} fields can be judged", "")


def _history(config: Config) -> Iterator[Finding]:
    if not config.history.enabled:
        return
    directory = Path(config.history.directory)
    there = next(path for path in (directory, *directory.parents) if path.exists())
    if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
        yield Finding(True, f"history {directory} can be written", "")
    else:
        yield Finding(
            False,
            f"the history {directory} cannot be written: {there} is no directory this user may write to",
            "name another history.directory, or set history.enabled = false",
        )


def _port(config: Config) -> Finding:
    where = f"{config.http.host}:{config.http.port}"
    try:
        family = socket.AF_INET6 if ":" in config.http.host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((config.http.host, config.http.port))
    except OSError as error:
        return Finding(
            False,
            f"metrics cannot be served on {where}: {error.strerror}",
            "stop what uses it, or set http.port",
        )
    return Finding(True, f"metrics can be served on {where}", "")


def _sqlite(config: Config) -> Finding:
    checkpoint = SqliteCheckpoint(
        config.checkpoint.sqlite, DeadLetterFile(config.dead_letters, SystemClock())
    )
    try:
        checkpoint.open()
    except LockedError as error:
        return Finding(True, f"the checkpoint is in use: {error}", "")
    except MlmonError as error:
        return Finding(False, "the checkpoint cannot be used", str(error))
    finally:
        checkpoint.close()
    return Finding(True, f"checkpoint {config.checkpoint.sqlite.path} can be written", "")


def _spool(directory: Path) -> Finding:
    if not directory.exists():
        return Finding(
            False,
            f"the spool {directory} does not exist yet",
            "start the model server with its emitter on this directory, or name the directory it writes to",
        )
    if not os.access(directory, os.R_OK | os.X_OK):
        return Finding(False, f"the spool {directory} cannot be read", "give this user read access to it")
    slots = sum(1 for path in directory.glob("slot-*") if path.is_dir())
    return Finding(True, f"spool {directory}: {slots} slots", "")


def _replay(config: Config) -> Finding:
    if config.source.replay is None:
        return Finding(False, "no files to replay are named", 'add paths = ["events.jsonl"]')
    try:
        ReplaySource(config.source.replay).close()
    except MlmonError as error:
        return Finding(False, "the files to replay cannot be read", str(error))
    return Finding(True, f"files to replay: {', '.join(config.source.replay.paths)}", "")
