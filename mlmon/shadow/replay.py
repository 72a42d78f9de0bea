"""Texts to a server, several at a time and several to a request, and an answer or a reason for each."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from mlmon.shadow.clients import client_for
from mlmon.shadow.wire import ReplayError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mlmon.shadow.clients import Answer, Client, MaskedCount
    from mlmon.shadow.config import EndpointConfig

__all__ = ["Replay"]

_T = TypeVar("_T")
#: Statuses by which a server refuses contents: of a batch, one text may be to blame.
_CONTENTS = (400, 413, 422)


class Replay:
    """One server that is replayed to. Used by one thread; has `concurrency` threads of its own.

    Args:
        endpoint: the server.
        client: asks it; None makes the one of its kind.

    Attributes:
        name: of the server, in events and reports.
    """

    def __init__(self, endpoint: EndpointConfig, client: Client | None = None) -> None:
        self._endpoint = endpoint
        self._client = client_for(endpoint) if client is None else client
        self._threads = ThreadPoolExecutor(endpoint.concurrency, "mlmon-shadow")
        model = f"{endpoint.model}/{endpoint.version}".rstrip("/")
        self.name = endpoint.name or model or endpoint.url.partition("://")[2]

    def ask(self, texts: Sequence[str], task: str, top_k: int) -> list[Answer | ReplayError]:
        """An answer to each text, or why there is none."""
        return self._all(texts, lambda part: self._client.ask(part, task, top_k))

    def masked(self, texts: Sequence[str], seed: int) -> list[MaskedCount | ReplayError]:
        """What came back of each text's masked tokens, by the server's own masks."""
        return self._all(texts, lambda part: self._client.masked(part, seed))

    def close(self) -> None:
        """End the threads and close the connections."""
        self._threads.shutdown(cancel_futures=True)
        self._client.close()

    def _all(self, texts: Sequence[str], ask: Callable[[Sequence[str]], list[_T]]) -> list[_T | ReplayError]:
        size = self._endpoint.batch
        parts = [texts[start : start + size] for start in range(0, len(texts), size)]
        found = self._threads.map(lambda part: _asked(part, ask), parts)
        return [answer for answers in found for answer in answers]


def _asked(part: Sequence[str], ask: Callable[[Sequence[str]], list[_T]]) -> list[_T | ReplayError]:
    """Ask for a batch; where its contents are refused, for each text alone."""
    try:
        return list(ask(part))
    except ReplayError as error:
        if error.status not in _CONTENTS or len(part) == 1:
            return [error] * len(part)
    return [answer for text in part for answer in _asked([text], ask)]
