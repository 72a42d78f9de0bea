"""OpenTelemetry spans of a request and of its parts: tokenize, queue, inference.

Needs `opentelemetry-api`; without it, and without an SDK that records, nothing is done. Spans are made when
the request is over, from the times that were noted anyway; so nothing is kept open on the way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlmon import __version__

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = ["Part", "Tracing"]

#: Name of a part, when it began and ended, in nanoseconds since 1970.
Part = tuple[str, int, int]


class Tracing:
    """Makes spans with the tracer provider that the process has set; harmless without one.

    Args:
        attributes: of every request's span.
    """

    def __init__(self, attributes: Mapping[str, str]) -> None:
        self._attributes = dict(attributes)
        try:
            from opentelemetry import propagate, trace
        except ImportError:
            self._api: Any = None
            return
        self._api, self._propagate = trace, propagate
        self._tracer = trace.get_tracer("mlmon.server", __version__)

    def _recording(self) -> bool:
        """Whether the process has a tracer provider; without one no span of it is anything."""
        api = self._api
        return api is not None and not isinstance(api.get_tracer_provider(), api.ProxyTracerProvider)

    def record(
        self,
        name: str,
        headers: Iterable[tuple[bytes, bytes]],
        whole: tuple[int, int],
        parts: Sequence[Part],
        attributes: Mapping[str, Any],
    ) -> None:
        """Make the span of a request, under that of its caller, and those of its parts.

        Args:
            name: of the request's span.
            headers: of the request; those of trace context count.
            whole: when it began and ended, nanoseconds since 1970.
            parts: of it.
            attributes: of its span.
        """
        if not self._recording():
            return
        carrier = {key.decode("latin-1"): value.decode("latin-1") for key, value in headers}
        span = self._tracer.start_span(
            name,
            context=self._propagate.extract(carrier),
            kind=self._api.SpanKind.SERVER,
            start_time=whole[0],
            attributes=self._attributes | dict(attributes),
        )
        if span.is_recording():
            inside = self._api.set_span_in_context(span)
            for part, begun, ended in parts:
                self._tracer.start_span(part, context=inside, start_time=begun).end(end_time=ended)
        span.end(end_time=whole[1])
