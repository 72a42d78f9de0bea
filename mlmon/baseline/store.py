"""Baselines that are in use: which scope speaks for a series, and where it came from.

Several files may be loaded, as a rule one for each model. What speaks for a version that no baseline was
built for depends on what is watched: the input (text, features) stays the same when the model changes, so the
newest scope of the same model stands in; what a model puts out does not, since another version is another
space.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from mlmon.baseline.file import load_baseline

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from mlmon.baseline.model import Baseline, FieldReference, Parameters, Scope, ScopeKey, Segment

__all__ = ["INPUT_MONITORS", "BaselineStore"]

log = logging.getLogger(__name__)

#: Monitors of the input. All others watch what a model version puts out.
INPUT_MONITORS = frozenset({"tokenizer", "features"})


class BaselineStore:
    """Look-ups in any number of baselines; immutable.

    Where two baselines have the same scope the one with the newest events counts, and a warning is logged.

    Attributes:
        baselines: all of them, in the order given.
        scopes: what counts, by service, model and version.
        warnings: scopes that were in several baselines, in words.

    Example:
        >>> from mlmon.baseline import Baseline, Scope, ScopeKey
        >>> scope = Scope({}, {}, first_us=0, last_us=9, burst=1.0, block=50)
        >>> store = BaselineStore([Baseline({ScopeKey("shop", "intent", "1"): scope}, 0, "a test")])
        >>> asked = ScopeKey("shop", "intent", "2")
        >>> store.find(asked, "features") == (ScopeKey("shop", "intent", "1"), scope)
        True
        >>> store.find(asked, "embeddings") is None
        True
    """

    def __init__(self, baselines: Iterable[Baseline] = ()) -> None:
        self.baselines = tuple(baselines)
        self.warnings: list[str] = []
        self._from: dict[ScopeKey, Baseline] = {}
        scopes: dict[ScopeKey, Scope] = {}
        for baseline in self.baselines:
            for key, scope in baseline.scopes.items():
                if key in scopes:
                    self._warn(key, scopes[key], scope)
                    if scope.last_us <= scopes[key].last_us:
                        continue
                scopes[key], self._from[key] = scope, baseline
        self.scopes: Mapping[ScopeKey, Scope] = scopes
        self._newest: dict[tuple[str, str], ScopeKey] = {}
        for key in sorted(scopes, key=lambda one: (scopes[one].last_us, one)):
            self._newest[key.service, key.model] = key

    @staticmethod
    def load(paths: Iterable[str], digests: Mapping[str, str] | None = None) -> BaselineStore:
        """Read baseline files.

        Args:
            paths: paths or URLs.
            digests: by path, the digest that a file must have.

        Raises:
            BaselineError: a file cannot be used; see `load_baseline`.
        """
        pinned = digests or {}
        return BaselineStore([load_baseline(path, pinned.get(path)) for path in paths])

    def find(self, scope: ScopeKey, monitor: str) -> tuple[ScopeKey, Scope] | None:
        """The scope by which a monitor's fields of this scope are judged, or None."""
        found = self.scopes.get(scope)
        if found is not None:
            return scope, found
        if monitor not in INPUT_MONITORS:
            return None
        key = self._newest.get((scope.service, scope.model))
        return None if key is None else (key, self.scopes[key])

    def parameters(self, monitor: str, scope: ScopeKey) -> Parameters | None:
        """How a monitor turns events of this scope into fields (a `FindParameters`), or None."""
        found = self.find(scope, monitor)
        return None if found is None else found[1].parameters.get(monitor)

    def segment(self, scope: ScopeKey, segment: str, monitor: str) -> Segment | None:
        """The reference of a segment ("": all together) for a monitor's fields, or None."""
        found = self.find(scope, monitor)
        return None if found is None else found[1].segments.get(segment)

    def reference(self, scope: ScopeKey, segment: str, monitor: str, field: str) -> FieldReference | None:
        """The reference of one field, or None where no baseline has it."""
        found = self.segment(scope, segment, monitor)
        return None if found is None else found.fields.get(f"{monitor}/{field}")

    def digest_of(self, scope: ScopeKey) -> str:
        """The digest of the baseline that a scope of `scopes` came from.

        Raises:
            KeyError: no baseline has this scope.
        """
        return self._from[scope].digest

    def _warn(self, key: ScopeKey, held: Scope, other: Scope) -> None:
        newer = "the later" if other.last_us > held.last_us else "the earlier"
        text = (
            f"{key.service} / {key.model} / {key.version} is in two baselines: {newer} in the list counts, "
            "since its events are newer; leave the other out"
        )
        self.warnings.append(text)
        log.warning(text)
