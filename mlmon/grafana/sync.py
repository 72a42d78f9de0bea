"""What a Grafana has beside what it should have: compared, said, and changed on request.

Idempotent: what is as it should be is left alone, so that a second push changes nothing. What Grafana keeps
of its own (numeric id, version) is not compared. Dashboards that are not ours are never touched, nor deleted
when they stop being ours.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from mlmon import __version__
from mlmon.errors import ConfigError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from mlmon.grafana.client import Grafana

__all__ = [
    "FOLDER_UID",
    "Change",
    "Wanted",
    "apply",
    "differences",
    "plan",
    "pull",
    "read_boards",
    "read_points",
]

FOLDER_UID = "mlmon"
_OWN = ("id", "version", "iteration")
_REDACTED = "[REDACTED]"
#: Paths named of what differs; the rest are counted.
_NAMED = 5
_JSON = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a Grafana should have.

    Attributes:
        boards: dashboards, each with its uid.
        points: contact points, each with its uid, secrets filled in.
        folder: title of the folder of the dashboards.
    """

    boards: Sequence[_JSON]
    points: Sequence[_JSON] = ()
    folder: str = "mlmon"


@dataclass(frozen=True, slots=True)
class Change:
    """One thing, and what is to be done with it.

    Attributes:
        action: `keep` what is right, `blocked` what Grafana does not let be changed.
        what: `folder`, `dashboard`, `contact point`.
        name: which.
        detail: where it differs, or why it is blocked.
        make: does it.
    """

    action: Literal["create", "update", "keep", "blocked"]
    what: str
    name: str
    detail: str = ""
    make: Callable[[Grafana], None] | None = None

    def __str__(self) -> str:
        return f"{self.action:<8}{self.what} {self.name}" + (f": {self.detail}" if self.detail else "")


def plan(grafana: Grafana, wanted: Wanted) -> Iterator[Change]:
    """What would have to be done, in the order in which it is done."""
    yield _folder(grafana, wanted.folder)
    for board in wanted.boards:
        yield _board(grafana, board)
    if wanted.points:
        there = {point.get("uid"): point for point in grafana.contact_points()}
        for point in wanted.points:
            yield _point(point, there.get(point["uid"]))


def apply(grafana: Grafana, changes: Iterable[Change], tell: Callable[[Change], None]) -> bool:
    """Do it, telling each before it is done; returns whether nothing was blocked."""
    free = True
    for change in changes:
        tell(change)
        free &= change.action != "blocked"
        if change.make is not None:
            change.make(grafana)
    return free


def _folder(grafana: Grafana, title: str) -> Change:
    there = grafana.folder(FOLDER_UID)
    if there is not None:
        # its title may be the organisation's own
        return Change("keep", "folder", there.get("title", title))
    return Change("create", "folder", title, make=lambda g: g.create_folder(FOLDER_UID, title))


def _board(grafana: Grafana, board: _JSON) -> Change:
    uid = board["uid"]
    there = grafana.dashboard(uid)
    message = f"mlmon {__version__}"
    if there is None:
        return Change(
            "create", "dashboard", uid, make=lambda g: g.save_dashboard(board, FOLDER_UID, message, None)
        )
    old, meta = there["dashboard"], there.get("meta", {})
    places = list(differences(_plain(old), _plain(board)))
    if meta.get("folderUid", "") != FOLDER_UID:
        places.append("its folder")
    if not places:
        return Change("keep", "dashboard", uid)
    if meta.get("provisioned"):
        return Change("blocked", "dashboard", uid, "provisioned from a file there: change that file")
    version = old.get("version")
    return Change(
        "update",
        "dashboard",
        uid,
        _named(places),
        lambda g: g.save_dashboard(board, FOLDER_UID, message, version),
    )


def _point(point: _JSON, there: _JSON | None) -> Change:
    name = f"{point['name']} ({point['type']})"
    if there is None:
        return Change(
            "create", "contact point", name, make=lambda g: g.save_contact_point(point, exists=False)
        )
    places = [place for place in differences(there, point) if not _hidden(place, there)]
    # what Grafana adds of its own, such as the provenance, is not asked for
    places = [place for place in places if place.split(".")[0] in point]
    if not places:
        return Change("keep", "contact point", name)
    return Change(
        "update",
        "contact point",
        name,
        _named(places),
        lambda g: g.save_contact_point(point, exists=True),
    )


def _hidden(place: str, there: _JSON) -> bool:
    """Whether a difference is only that Grafana does not show a secret."""
    value: Any = there
    for key in place.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return isinstance(value, str) and value == _REDACTED


def _plain(board: _JSON) -> _JSON:
    return {key: value for key, value in board.items() if key not in _OWN}


def _named(places: Sequence[str]) -> str:
    more = len(places) - _NAMED
    return ", ".join(places[:_NAMED]) + (f", and {more} more" if more > 0 else "")


def differences(old: Any, new: Any, at: str = "") -> Iterator[str]:
    """Where two JSON values differ, as paths; panels are named by their titles.

    Example:
        >>> list(differences({"a": 1, "b": [{"title": "x", "w": 1}]}, {"b": [{"title": "x", "w": 2}]}))
        ['a', 'b[x].w']
    """
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            below = f"{at}.{key}" if at else key
            if key not in old or key not in new:
                yield below
            else:
                yield from differences(old[key], new[key], below)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for number, (one, other) in enumerate(zip(old, new, strict=True)):
            name = other.get("title", number) if isinstance(other, dict) else number
            yield from differences(one, other, f"{at}[{name}]")
    elif old != new or isinstance(old, bool) != isinstance(new, bool):
        yield at


def pull(grafana: Grafana, uids: Iterable[str], folder: Path) -> Iterator[tuple[str, str]]:
    """Write the dashboards of a Grafana into files, so that changes made there can be seen and kept.

    Yields:
        (uid, what happened): `written`, `unchanged` or `not there`.
    """
    for uid in uids:
        there = grafana.dashboard(uid)
        if there is None:
            yield uid, "not there"
            continue
        text = json.dumps(_plain(there["dashboard"]), indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        path = folder / f"{uid.removeprefix('mlmon-')}.json"
        if path.exists() and path.read_text(encoding="utf-8") == text:
            yield uid, "unchanged"
            continue
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        yield uid, "written"


def read_boards(texts: Mapping[str, str]) -> list[_JSON]:
    """Dashboards from files' texts.

    Raises:
        ConfigError: a file is no dashboard, or two have one uid.
    """
    boards: dict[str, _JSON] = {}
    for path, text in texts.items():
        try:
            board = json.loads(text)
        except ValueError as error:
            raise ConfigError(f"{path}: expected the JSON of a dashboard: {error}") from error
        if not isinstance(board, dict) or not {"uid", "title", "panels"} <= board.keys():
            raise ConfigError(f"{path}: expected a dashboard with uid, title and panels")
        if board["uid"] in boards:
            raise ConfigError(f"{path}: another file has a dashboard with the uid {board['uid']!r} too")
        boards[board["uid"]] = board
    return list(boards.values())


def read_points(path: Path) -> list[_JSON]:
    """Contact points from a YAML file: `uid`, `name`, `type`, `settings`; secrets as `{file: PATH}`.

    Raises:
        ConfigError: the file cannot be read, or is something else.
        MissingExtraError: the extra `grafana` is not installed.
    """
    try:
        import yaml
    except ImportError as error:
        raise MissingExtraError("PyYAML", "grafana") from error
    try:
        points = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: expected a YAML file of contact points: {error}") from error
    if not isinstance(points, list):
        raise ConfigError(f"{path}: expected a list of contact points, got {type(points).__name__}")
    return [_read_point(path, number, point) for number, point in enumerate(points)]


def _read_point(path: Path, number: int, point: Any) -> _JSON:
    keys = ("uid", "name", "type", "settings")
    if not isinstance(point, dict) or any(key not in point for key in keys):
        raise ConfigError(f"{path}: contact point {number}: expected {', '.join(keys)}")
    settings = point["settings"]
    if not isinstance(settings, dict):
        raise ConfigError(f"{path}: contact point {point['name']}: expected settings as a mapping")
    filled = {key: _secret(path, value) for key, value in settings.items()}
    return {**point, "settings": filled}


def _secret(path: Path, value: Any) -> Any:
    if not isinstance(value, dict) or value.keys() != {"file"}:
        return value
    source = path.parent / str(value["file"])
    try:
        return source.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: expected a readable file with a secret: {error}") from error
