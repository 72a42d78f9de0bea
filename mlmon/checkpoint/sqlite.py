"""The checkpoint in one SQLite file: state, positions and the extent of the dead letters in one transaction.

For a sidecar that reads a spool or files, and for one alone on a broker without transactions. What a
returned `write` has committed survives `kill -9` at any moment; with `synchronous = "full"` also a power
failure. After one with `"normal"` the store is whole but may be some commits old: the records since are read
and counted again from there, so totals stay right as long as the log still has them.

A lock file (flock) keeps a second sidecar out; it dies with its process, so nothing stale is left behind.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec

from mlmon.checkpoint.base import Stored, Written
from mlmon.checkpoint.letters import LettersState
from mlmon.errors import CheckpointError, FencedError, LockedError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from mlmon.checkpoint.base import DeadLetter, PartitionChange
    from mlmon.checkpoint.letters import DeadLetterFile

__all__ = ["FORMAT", "SqliteCheckpoint", "SqliteCheckpointConfig", "scan_sqlite"]

#: Version of the tables below. A reader refuses a higher one.
FORMAT = 1
_APPLICATION_ID = 0x6D6C6D6E  # "mlmn"
_TABLES = (
    "CREATE TABLE partitions (name TEXT PRIMARY KEY, next_offset INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE TABLE records (partition TEXT NOT NULL, key BLOB NOT NULL, value BLOB NOT NULL,"
    " PRIMARY KEY (partition, key))",
    "CREATE TABLE letters (id INTEGER PRIMARY KEY CHECK (id = 0), base INTEGER NOT NULL,"
    " length INTEGER NOT NULL, following INTEGER NOT NULL)",
    f"PRAGMA application_id = {_APPLICATION_ID}",
    f"PRAGMA user_version = {FORMAT}",
)
_SET_LETTERS = "UPDATE letters SET base = ?, length = ?, following = ?"


class SqliteCheckpointConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where and how the checkpoint is stored."""

    path: Annotated[
        str, msgspec.Meta(min_length=1, description="The SQLite file; made with its directory when missing.")
    ]
    synchronous: Annotated[
        Literal["normal", "full"],
        msgspec.Meta(
            description="normal: a commit survives the death of the process. full: it also survives a power "
            "failure, and waits for the disk."
        ),
    ] = "normal"


class SqliteCheckpoint:
    """A `Checkpoint` in one file. One thread uses it at a time.

    The lock is taken by `open`, which `load` and `write` call when it has not been; `scan` takes none.
    """

    def __init__(self, config: SqliteCheckpointConfig, letters: DeadLetterFile) -> None:
        self._config = config
        self._path = Path(config.path)
        self._letters = letters
        self._lock = -1
        self._connection: sqlite3.Connection | None = None

    def open(self) -> None:
        """Take the lock, make or check the file, and cut dead letters back to the last commit.

        Raises:
            LockedError: another process holds it; the message names its process id.
            CheckpointError: the file is of another program or a newer version, or cannot be used.
        """
        self._opened()

    def load(self, partition: str) -> Stored | None:
        """The last committed state of a partition, or None when there is none."""
        with self._errors("read"):
            connection = self._opened()
            row = connection.execute(
                "SELECT next_offset FROM partitions WHERE name = ?", (partition,)
            ).fetchone()
            return None if row is None else Stored(row[0], _records(connection, partition))

    def write(self, changes: Sequence[PartitionChange], letters: Sequence[DeadLetter]) -> Written:
        """Commit. Order: (1) letters to their file, (2) one transaction, (3) letters over the bound go.

        Raises:
            FencedError: the lock or the database file was removed or replaced, so another may own it.
            CheckpointError: the outcome is unknown; `load` tells.
        """
        done = False
        try:
            with self._errors("written"):
                connection = self._opened()
                self._check_owned()
                state = self._letters.append(letters)
                if self._config.synchronous == "full":
                    self._letters.sync()
                connection.execute("BEGIN IMMEDIATE")
                written = sum(_apply(connection, change) for change in changes)
                connection.execute(_SET_LETTERS, state)
                connection.execute("COMMIT")
                done = True
                if letters:
                    self._letters.trim()
        finally:
            if not done:
                self._drop()
        return Written(written)

    def scan(self) -> Iterator[tuple[str, Stored]]:
        """Every stored partition, as of one moment; works while another process holds the lock."""
        return scan_sqlite(self._path)

    def peers(self, own: frozenset[str]) -> Mapping[str, bytes]:  # noqa: ARG002 - the contract's signature
        """Nothing: the lock leaves no others."""
        return {}

    def close(self) -> None:
        """Close the file and give the lock back."""
        self._drop()
        if self._lock >= 0:
            os.close(self._lock)
        self._lock = -1

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            with self._errors("opened"):
                self._path.parent.mkdir(parents=True, exist_ok=True)
                if self._lock < 0:
                    self._lock = _take_lock(self._path)
                self._connection = self._connect()
        return self._connection

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, isolation_level=None, timeout=5.0, check_same_thread=False)
        try:
            fresh = _check(connection, self._path)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(f"PRAGMA synchronous = {self._config.synchronous}")
            connection.execute("PRAGMA journal_size_limit = 67108864")
            if fresh:
                connection.execute("BEGIN IMMEDIATE")
                for statement in _TABLES:
                    connection.execute(statement)
                state = self._letters.restore(None)
                connection.execute("INSERT INTO letters VALUES (0, ?, ?, ?)", state)
                connection.execute("COMMIT")
            else:
                row = connection.execute("SELECT base, length, following FROM letters").fetchone()
                state = self._letters.restore(LettersState(*row))
                connection.execute(_SET_LETTERS, state)
        except BaseException:
            connection.close()
            raise
        return connection

    def _check_owned(self) -> None:
        """Somebody who deletes the lock or the database from under us lets another sidecar in."""
        held = os.fstat(self._lock)
        try:
            there = _lock_path(self._path).stat()
            gone = not self._path.exists() or (there.st_ino, there.st_dev) != (held.st_ino, held.st_dev)
        except FileNotFoundError:
            gone = True
        if gone:
            self.close()
            raise FencedError(
                f"the checkpoint {self._path} or its lock was removed or replaced while in use: "
                "stop the sidecar before touching its files"
            )

    @contextlib.contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            self._drop()
            raise CheckpointError(f"the checkpoint {self._path} cannot be {what}: {error}") from error

    def _drop(self) -> None:
        """Forget the connection, and with it an open transaction; the lock stays."""
        self._letters.close()
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()


def scan_sqlite(path: str | Path) -> Iterator[tuple[str, Stored]]:
    """Every partition stored in a checkpoint file, as of one moment, without lock or writing.

    Raises:
        CheckpointError: the file is of another program or a newer version, or cannot be read.
    """
    path = Path(path)
    if not path.exists():
        return
    try:
        with contextlib.closing(_read_only(path)) as connection:
            if _check(connection, path):
                return
            connection.execute("BEGIN")
            for name, next_offset in connection.execute("SELECT * FROM partitions ORDER BY name").fetchall():
                yield name, Stored(next_offset, _records(connection, name))
    except sqlite3.Error as error:
        raise CheckpointError(f"the checkpoint {path} cannot be read: {error}") from error


def _read_only(path: Path) -> sqlite3.Connection:
    uri = path.absolute().as_uri()
    connection = sqlite3.connect(f"{uri}?mode=ro", uri=True, isolation_level=None, timeout=5.0)
    try:
        connection.execute("PRAGMA user_version")
    except sqlite3.OperationalError:
        connection.close()
        if Path(f"{path}-wal").exists():
            raise
        # closed in order, on a volume that may not be written: nothing can change while we look
        connection = sqlite3.connect(f"{uri}?mode=ro&immutable=1", uri=True, isolation_level=None)
    except sqlite3.DatabaseError:
        pass  # `_check` meets it again and says what it is
    return connection


def _records(connection: sqlite3.Connection, partition: str) -> dict[bytes, bytes]:
    return dict(connection.execute("SELECT key, value FROM records WHERE partition = ?", (partition,)))


def _apply(connection: sqlite3.Connection, change: PartitionChange) -> int:
    name = change.partition
    connection.executemany(
        "DELETE FROM records WHERE partition = ? AND key = ?", ((name, key) for key in change.deletes)
    )
    connection.executemany(
        "INSERT INTO records VALUES (?, ?, ?)"
        " ON CONFLICT (partition, key) DO UPDATE SET value = excluded.value",
        ((name, key, value) for key, value in change.puts.items()),
    )
    connection.execute(
        "INSERT INTO partitions VALUES (?, ?)"
        " ON CONFLICT (name) DO UPDATE SET next_offset = excluded.next_offset",
        (name, change.next_offset),
    )
    return sum(len(key) + len(value) for key, value in change.puts.items())


def _check(connection: sqlite3.Connection, path: Path) -> bool:
    """Whether the database is a new, empty one.

    Raises:
        CheckpointError: it is of another program, or of a newer version of this one.
    """
    try:
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_NOTADB:
            raise CheckpointError(f"{path} is not an SQLite database: name another path") from error
        raise
    if application == 0 and version == 0 and tables == 0:
        return True
    if application != _APPLICATION_ID:
        raise CheckpointError(f"{path} is a database of another program: name another path")
    if version != FORMAT:
        raise CheckpointError(
            f"{path} has checkpoint format {version}, and this version of mlmon has {FORMAT}: "
            "run the version that wrote it, or name another path to start anew"
        )
    return False


def _lock_path(path: Path) -> Path:
    return path.with_name(path.name + ".lock")


def _take_lock(path: Path) -> int:
    lock = os.open(_lock_path(path), os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(lock, 32, 0).decode("ascii", "replace").strip()
        os.close(lock)
        raise LockedError(
            f"the checkpoint {path} is held by process {holder or 'unknown'}: stop that sidecar, "
            "or give this one a checkpoint path of its own"
        ) from None
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    return lock
