"""The history on disk: writes parcels, each exactly once, and keeps age, size and number of files bounded.

Order of a write: (1) the engine's commit that closes a window carries the parcel; (2) `write` makes a file
for each table, each one whole or not at all, durable when it returns; (3) the next commit deletes the parcel.
A crash in between repeats (2), which gives the same files. Order of joining: (1) the joined file is written;
(2) those it holds are deleted. A crash in between leaves both, which readers of `mlmon.history.read` tell
apart and the next upkeep cleans up; a parcel that comes again after it was joined is known by its digest.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections import OrderedDict
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from mlmon.catalog import drift as catalog
from mlmon.errors import HistoryError
from mlmon.history.files import (
    digest_of,
    file_metadata,
    folder_of,
    list_folder,
    read_digests,
    replace_file,
    window_name,
)
from mlmon.history.tables import parcel_of
from mlmon.history.upkeep import Upkeep
from mlmon.monitors.base import Sample

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mlmon.clock import Clock
    from mlmon.history.config import HistoryConfig

__all__ = ["History"]

log = logging.getLogger(__name__)

#: Folders whose joined parcels are remembered, so that a write reads no footers: five tables, a few dates.
_REMEMBERED = 16


class History:
    """Keeps closed windows. One thread writes and maintains; any thread may call `samples`.

    Several sidecars may share a directory: files of different parcels have different names, and upkeep is
    done by one at a time (a lock on the directory).

    Args:
        config: where, how much, how long.
        clock: for the age of what is kept.

    Attributes:
        windows: parcels written since the process started.
        failures: writes and upkeeps that failed, and parcels given up because they cannot be read.
    """

    def __init__(self, config: HistoryConfig, clock: Clock) -> None:
        self._directory = Path(config.directory)
        self._upkeep = Upkeep(config, clock)
        self._joined: OrderedDict[Path, dict[Path, frozenset[str]]] = OrderedDict()
        self._added_bytes = 0
        self.windows = 0
        self.failures = 0

    def write(self, key: str, chunks: Sequence[bytes]) -> None:
        """Write a parcel. Idempotent: the same key gives the same files, however often and whenever.

        Chunks that cannot be read (damaged, or of a newer mlmon) are given up with a warning, since trying
        again would not help.

        Args:
            key: names the parcel; a window that closes twice, in two partitions, has two.
            chunks: what `encode_window` made.

        Raises:
            HistoryError: the disk is full or cannot be written; try again later.
        """
        try:
            window, tables = parcel_of(list(chunks))
        except HistoryError as error:
            self.failures += 1
            log.warning("parcel %s is given up: %s", key, error)
            return
        digest = digest_of([key])
        fresh = False
        with self._failing(f"parcel {key} cannot be written to {self._directory}"):
            for name, table in tables.items():
                folder = folder_of(self._directory, name, window)
                path = folder / window_name(window.start_us, digest)
                if path.exists() or digest in self._joined_in(folder):
                    continue
                marked = table.replace_schema_metadata(file_metadata([digest]))
                self._added_bytes += replace_file(path, [marked], marked.schema)
                fresh = True
        self.windows += fresh

    def _joined_in(self, folder: Path) -> frozenset[str]:
        """Digests of the parcels in the joined files of a folder; footers are read once each."""
        known = self._joined.pop(folder, {})
        now: dict[Path, frozenset[str]] = {}
        for file in list_folder(folder):
            if file.joined:
                now[file.path] = known.get(file.path) or _digests_or_none(file.path)
        self._joined[folder] = now
        while len(self._joined) > _REMEMBERED:
            self._joined.popitem(last=False)
        return frozenset().union(*now.values())

    def maintain(self) -> bool:
        """One bounded step of upkeep: delete what is too old or too much, or join files of one folder.

        Call it every few seconds. Does nothing while another process does it.

        Returns:
            Whether there is more to do at once.

        Raises:
            HistoryError: the disk cannot be read or written; the next call tries again.
        """
        if not self._directory.exists():
            return False
        with self._failing(f"upkeep of {self._directory} failed"), self._lock() as ours:
            if not ours:
                return False
            more = self._upkeep.step()
            self._added_bytes = 0
        return more

    @contextmanager
    def _failing(self, what: str) -> Iterator[None]:
        try:
            yield
        except HistoryError:
            self.failures += 1
            raise
        except (OSError, pa.ArrowException) as error:
            self.failures += 1
            raise HistoryError(f"{what}: {error}") from error

    @contextmanager
    def _lock(self) -> Iterator[bool]:
        handle = os.open(self._directory / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True
        finally:
            os.close(handle)

    def samples(self, pending: int = 0) -> Iterator[Sample]:
        """What to publish of the history.

        Args:
            pending: parcels that wait in the checkpoint.
        """
        yield Sample(catalog.HISTORY_WINDOWS, (), float(self.windows))
        yield Sample(catalog.HISTORY_EXPIRED, (), float(self._upkeep.expired))
        yield Sample(catalog.HISTORY_BYTES, (), float(self._upkeep.bytes + self._added_bytes))
        yield Sample(catalog.HISTORY_FAILURES, (), float(self.failures + self._upkeep.broken))
        yield Sample(catalog.HISTORY_PENDING, (), float(pending))


def _digests_or_none(path: Path) -> frozenset[str]:
    try:
        return read_digests(path)
    except (HistoryError, FileNotFoundError):
        return frozenset()
