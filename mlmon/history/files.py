"""How the history lies on disk: names, what a file holds, and listings that are right while files change.

    DIRECTORY/TABLE/date=YYYY-MM-DD/w-START-DIGEST.parquet    one closed window
    DIRECTORY/TABLE/date=YYYY-MM-DD/c-START-DIGEST.parquet    several, joined

START is the (first) window's start in µs, DIGEST names the parcel or parcels within. A joined file lists
their digests in its footer; a file all of whose digests are in another one of its folder has been joined
already and is on its way out (`superseded`), so a reader that leaves it out counts no window twice.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from mlmon.errors import HistoryError
from mlmon.history.tables import SCHEMA_VERSION

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from mlmon.windows import Window

__all__ = [
    "HistoryFile",
    "digest_of",
    "digests_in",
    "file_metadata",
    "folder_of",
    "joined_name",
    "list_dates",
    "list_folder",
    "read_digests",
    "replace_file",
    "superseded",
    "sync_folder",
    "window_name",
]

_VERSION, _DIGESTS = b"mlmon.history.version", b"mlmon.history.parcels"
_NAME = re.compile(r"([wc])-(-?\d+)-([0-9a-f]{24})\.parquet")
_FOLDER = re.compile(r"date=(\d{4}-\d\d-\d\d)")
#: Listings of a folder that changes are repeated so often at most.
_LISTINGS = 100


@dataclass(frozen=True, slots=True, order=True)
class HistoryFile:
    """A file of the history.

    Attributes:
        start_us: start of its first window, µs.
        joined: whether it holds several parcels.
        digest: of its parcel, or of the digests of its parcels.
        path: where it is.
        size: bytes.
        changed: when it was written, seconds since 1970.
    """

    start_us: int
    joined: bool
    digest: str
    path: Path
    size: int
    changed: float


def digest_of(names: Iterable[str]) -> str:
    """Digest of the names of parcels, whatever their order."""
    text = json.dumps(sorted(names))
    return hashlib.blake2b(text.encode(), digest_size=12, person=b"mlmon-history").hexdigest()


def folder_of(directory: Path, table: str, window: Window) -> Path:
    """Where a window's rows belong."""
    day = datetime.fromtimestamp(window.start_us // 1_000_000, UTC).date()
    return directory / table / f"date={day.isoformat()}"


def window_name(start_us: int, digest: str) -> str:
    """Name of the file of one parcel."""
    return f"w-{start_us}-{digest}.parquet"


def joined_name(start_us: int, digests: Iterable[str]) -> str:
    """Name of the file that holds these parcels."""
    return f"c-{start_us}-{digest_of(digests)}.parquet"


def file_metadata(digests: Iterable[str]) -> dict[bytes, bytes]:
    """What a file says of itself in its footer."""
    return {_VERSION: b"%d" % SCHEMA_VERSION, _DIGESTS: json.dumps(sorted(digests)).encode()}


def read_digests(path: Path) -> frozenset[str]:
    """The digests of the parcels in a file.

    Raises:
        FileNotFoundError: it is gone.
        HistoryError: it is broken, or as for `digests_in`.
    """
    try:
        footer = pq.read_metadata(path)
    except FileNotFoundError:
        raise
    except (OSError, pa.ArrowException) as error:
        raise HistoryError(f"{path} cannot be read: {error}") from error
    return digests_in(path, footer)


def digests_in(path: Path, footer: pq.FileMetaData) -> frozenset[str]:
    """The digests of the parcels in a file, from its footer.

    Raises:
        HistoryError: it is no file of the history, or of another version.
    """
    found: Mapping[bytes, bytes] = footer.metadata or {}
    if found.get(_VERSION) != b"%d" % SCHEMA_VERSION:
        raise HistoryError(
            f"{path} has version {found.get(_VERSION, b'none').decode()} of the history, this mlmon reads "
            f"{SCHEMA_VERSION}"
        )
    return frozenset(json.loads(found[_DIGESTS]))


def list_dates(directory: Path, table: str) -> list[date]:
    """The dates a table has folders for, oldest first."""
    try:
        names = [path.name for path in (directory / table).iterdir()]
    except FileNotFoundError:
        return []
    found = (_FOLDER.fullmatch(name) for name in names)
    return sorted(date.fromisoformat(match[1]) for match in found if match)


def list_folder(folder: Path) -> list[HistoryFile]:
    """The files of a folder by start, as they are at one moment.

    A listing during which files are joined may miss the new file and the old ones, so the folder is listed
    until two listings in a row agree: files are put in before others are taken out.

    Raises:
        HistoryError: it never stands still.
    """
    before = _scan(folder)
    for _ in range(_LISTINGS):
        now = _scan(folder)
        if [file.path for file in now] == [file.path for file in before]:
            return now
        before = now
    raise HistoryError(f"{folder} changes all the time: {_LISTINGS} listings in a row differ")


def _scan(folder: Path) -> list[HistoryFile]:
    return sorted(_entries(folder))


def _entries(folder: Path) -> Iterator[HistoryFile]:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                match = _NAME.fullmatch(entry.name)
                if match is None:
                    continue
                try:
                    info = entry.stat()
                except FileNotFoundError:
                    continue
                kind, start, digest = match.groups()
                path = Path(entry.path)
                yield HistoryFile(int(start), kind == "c", digest, path, info.st_size, info.st_mtime)
    except FileNotFoundError:
        return


def superseded(files: Iterable[HistoryFile], digests: Mapping[Path, frozenset[str]]) -> list[HistoryFile]:
    """Files whose parcels are all in another file of the same folder.

    Args:
        files: of one folder.
        digests: what each of the joined files among them holds; unreadable ones are left out.
    """
    held = {file.path: digests.get(file.path, frozenset()) for file in files if file.joined}
    gone = []
    for file in files:
        own = held[file.path] if file.joined else frozenset([file.digest])
        if own and any(own <= other and path != file.path for path, other in held.items()):
            gone.append(file)
            held.pop(file.path, None)
    return gone


def replace_file(path: Path, write: Iterable[pa.Table], schema: pa.Schema) -> int:
    """Write tables into a file that appears whole or not at all, and stays after a power failure.

    Returns:
        Its size, bytes.
    """
    if not path.parent.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        sync_folder(path.parent.parent)
        sync_folder(path.parent.parent.parent)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            with pq.ParquetWriter(file, schema, compression="zstd") as writer:
                for table in write:
                    writer.write_table(table)
            file.flush()
            os.fsync(file.fileno())
            size = file.tell()
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)
    return size


def sync_folder(folder: Path) -> None:
    """Make what was created, renamed or deleted in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
