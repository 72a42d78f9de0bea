"""Documents by kind and name, and what a reference between them leads to."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from mlmon.slo.openslo_objects import (
    ConditionDoc,
    Header,
    PolicyDoc,
    Reference,
    SliDoc,
    SloDoc,
    SourceDoc,
    TargetDoc,
)
from mlmon.slo.reader import nearest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mlmon.slo.openslo_objects import Document

__all__ = ["Library"]

_KIND: dict[type, str] = {
    SourceDoc: "DataSource",
    SloDoc: "SLO",
    SliDoc: "SLI",
    PolicyDoc: "AlertPolicy",
    ConditionDoc: "AlertCondition",
    TargetDoc: "AlertNotificationTarget",
    Header: "Service",
}
_T = TypeVar("_T", SourceDoc, SloDoc, SliDoc, PolicyDoc, ConditionDoc, TargetDoc, Header)


class Library:
    """All documents of a set of files; names are unique within their kind."""

    def __init__(self, found: Iterable[Document]) -> None:
        self._by_kind: dict[type, dict[str, Document]] = {}
        for document in found:
            head = _head(document)
            named = self._by_kind.setdefault(type(document), {})
            if head.name in named:
                place = _head(named[head.name]).item
                head.item.complain(
                    f"one {head.kind} of the name {head.name}",
                    f"rename it; the first is in {place.file} on line {place.line}",
                    "a second one",
                )
            named.setdefault(head.name, document)

    def all(self, kind: type[_T]) -> Iterator[_T]:
        """The documents of a kind, in the order of the files."""
        for document in self._by_kind.get(kind, {}).values():
            if isinstance(document, kind):
                yield document

    def find(self, reference: Reference, kind: type[_T]) -> _T | None:
        """The document that a reference names; where there is none, a problem and None."""
        named = {_head(found).name: found for found in self.all(kind)}
        if reference.name not in named:
            remedy = nearest(reference.name, named) if named else "write that document, or name its file too"
            reference.item.complain(f"the name of a document of kind {_KIND[kind]}", remedy)
        return named.get(reference.name)

    def resolve(self, thing: _T | Reference, kind: type[_T]) -> _T | None:
        """A document written in place as it is, or the one that a reference names."""
        return self.find(thing, kind) if isinstance(thing, Reference) else thing


def _head(document: Document) -> Header:
    return document if isinstance(document, Header) else document.head
