"""`/canary/verdict` and `/canary/gate` on the sidecar's port: what rollout controllers ask.

The verdict is JSON, for Argo Rollouts' web provider and people. The gate answers by its status, for Flagger's
webhooks: 200 until the canary has failed, 409 from then on. Both read the history, in the connection's thread
and one at a time; the loop is not touched.
"""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

import msgspec

from mlmon.canary.read import ARM_COLUMNS, Question, read_arms
from mlmon.canary.verdict import State, judge
from mlmon.errors import HistoryError
from mlmon.monitors.slo_objectives import read_objectives
from mlmon.publish.connections import Reply

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlmon.canary.verdict import Verdict
    from mlmon.clock import Clock
    from mlmon.config import Config

__all__ = ["CanaryRoute", "question_of"]

_JSON = "application/json"
_NAMES = ("service", "model", "stable", "canary", "since", "until")


class CanaryRoute:
    """Answers questions about canaries. Any thread may call `answer`.

    Args:
        config: where the history is, margins, objectives.
        clock: for times such as `since=30m`.
    """

    def __init__(self, config: Config, clock: Clock) -> None:
        self._directory = config.history.directory
        self._canary = config.canary
        self._clock = clock
        objectives = read_objectives(config.monitors.slo.objectives_file).objectives
        self._budgets = {objective.name: objective.versions[-1].budget for objective in objectives}
        self._reading = threading.Lock()

    def verdict(self, question: Question) -> Verdict:
        """Judge from the history.

        Raises:
            HistoryError: it cannot be read.
        """
        with self._reading:
            pair = read_arms(self._directory, question, self._budgets)
        return judge(pair, self._canary)

    def answer(self, path: str) -> Reply:
        """The reply to a path with its query."""
        place, _, query = path.partition("?")
        try:
            question = question_of(query, self._clock.now_us())
        except ValueError as error:
            return _reply(HTTPStatus.BAD_REQUEST, {"error": str(error)})
        try:
            verdict = self.verdict(question)
        except HistoryError as error:
            return _reply(HTTPStatus.SERVICE_UNAVAILABLE, {"error": str(error)})
        failed = place.endswith("/gate") and verdict.verdict is State.FAIL
        return _reply(HTTPStatus.CONFLICT if failed else HTTPStatus.OK, verdict)


def _reply(status: HTTPStatus, content: object) -> Reply:
    return Reply(status, _JSON, msgspec.json.encode(content) + b"\n")


def question_of(query: str, now_us: int) -> Question:
    """Read a query string.

    `service` is required; `model`; `stable` and `canary` as `column=value` with commas between several, by
    default `deployment=stable` and `deployment=canary`; `since` and `until` as a time in UTC or as how long
    ago, such as `30m`.

    Raises:
        ValueError: what was expected, what came.

    Example:
        >>> q = question_of("service=shop&canary=version%3D2&stable=version%3D1&since=1h", 7_200_000_000)
        >>> q.stable, q.since_us
        ({'version': '1'}, 3600000000)
    """
    given = dict(parse_qsl(query, keep_blank_values=True))
    unknown = sorted(given.keys() - set(_NAMES))
    if unknown:
        raise ValueError(f"unknown parameters {', '.join(unknown)}: expected some of {', '.join(_NAMES)}")
    if not given.get("service"):
        raise ValueError("service: expected the name of a service, such as ?service=shop&since=1h")
    return Question(
        given["service"],
        given.get("model", ""),
        _columns("stable", given.get("stable", "deployment=stable")),
        _columns("canary", given.get("canary", "deployment=canary")),
        _moment("since", given.get("since"), now_us),
        _moment("until", given.get("until"), now_us),
    )


def _columns(name: str, text: str) -> Mapping[str, str]:
    found = {}
    for pair in text.split(","):
        column, equals, value = pair.partition("=")
        if not equals or column not in ARM_COLUMNS:
            raise ValueError(
                f"{name}: expected COLUMN=VALUE with a column of {', '.join(ARM_COLUMNS)}; got {pair!r}"
            )
        found[column] = value
    return found


def _moment(name: str, text: str | None, now_us: int) -> int | None:
    """A time in µs; `30m` is so long ago."""
    if not text:
        return None
    units = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
    if text[-1] in units and text[:-1].isdigit():
        return now_us - int(text[:-1]) * units[text[-1]] * 1_000_000
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            f"{name}: expected a time such as 2026-01-31T12:30Z, or how long ago such as 30m; got {text!r}"
        ) from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
