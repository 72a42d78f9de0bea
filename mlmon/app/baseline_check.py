"""What `mlmon baseline check` looks at: is a baseline whole, does it fit the configuration, is it good."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlmon.app.build import token_tables
from mlmon.baseline.file import load_baseline
from mlmon.calibration import drift_monitors
from mlmon.errors import BaselineError
from mlmon.kafka_check import Finding
from mlmon.monitors import Surroundings, build_monitors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlmon.baseline.model import Baseline, Scope
    from mlmon.config import Config

__all__ = ["check_baseline"]

_NAMED = 3


def check_baseline(path: str, config: Config) -> Iterator[Finding]:
    """Findings one by one; the file first, and no more where it cannot be used."""
    try:
        baseline = load_baseline(path, config.baseline.digests.get(path))
    except BaselineError as error:
        yield Finding(False, f"{path} cannot be used", str(error))
        return
    pinned = "pinned, " if path in config.baseline.digests else ""
    yield Finding(True, f"{path}: form and digest ({pinned}{baseline.digest[:16]}…)", "")
    if path not in config.baseline.files:
        yield Finding(
            False,
            f"{path} is not used by the configuration",
            f"add it to  [baseline] files = [{', '.join(map(repr, (*config.baseline.files, path)))}]",
        )
    yield from _coverage(baseline, config)
    yield from _quality(baseline)


def _coverage(baseline: Baseline, config: Config) -> Iterator[Finding]:
    surroundings = Surroundings(tables=token_tables(config.registry.tokenizers))
    names = {one.name for one in drift_monitors(build_monitors(config.monitor_configs, surroundings))}
    for key, scope in sorted(baseline.scopes.items()):
        where = " / ".join(part or "-" for part in key)
        missing = sorted(names - scope.parameters.keys())
        unused = sorted(scope.parameters.keys() - names)
        if missing:
            yield Finding(
                False,
                f"{where}: nothing for the monitor {', '.join(missing)}",
                "its events carried nothing that the monitor reads, or the monitor was not enabled when it "
                "was built: build it again, or take the monitor out of [monitors] enabled",
            )
        if unused:
            yield Finding(
                False,
                f"{where}: the monitor {', '.join(unused)} is in the baseline, but not enabled",
                "add it to [monitors] enabled, so that its drift is judged",
            )
        if not missing and not unused:
            yield Finding(True, f"{where}: {', '.join(sorted(names))}", "")
        yield _segments(where, scope, config.series.segment_by)


def _segments(where: str, scope: Scope, segment_by: tuple[str, ...]) -> Finding:
    """Whether segments are told apart by the keys that the configuration has."""
    found = [name for name in scope.segments if name not in ("", "other")]
    keys = ",".join(segment_by) or "nothing"
    wrong = [name for name in found if not _is_segment(name, segment_by)]
    if wrong or (segment_by and not found):
        built = wrong[0] if wrong else "nothing"
        return Finding(
            False,
            f"{where}: built with segments such as {built}, the configuration has {keys}",
            "build it again with the same [series] segment_by",
        )
    return Finding(True, f"{where}: {len(found)} segments by {keys}", "")


def _is_segment(name: str, segment_by: tuple[str, ...]) -> bool:
    """Whether a segment's name has these keys in this order; values may hold anything."""
    rest = name
    for index, key in enumerate(segment_by):
        if not rest.startswith(f"{key}="):
            return False
        following = segment_by[index + 1] if index + 1 < len(segment_by) else None
        place = -1 if following is None else rest.find(f",{following}=")
        rest = rest[place + 1 :] if place >= 0 else ""
    return bool(segment_by) and not rest


def _quality(baseline: Baseline) -> Iterator[Finding]:
    for key, scope in sorted(baseline.scopes.items()):
        where = " / ".join(part or "-" for part in key)
        whole = scope.segments[""]
        if not whole.problems:
            yield Finding(True, f"{where}: all of {len(whole.fields)} fields can be judged", "")
            continue
        names = ", ".join(list(whole.problems)[:_NAMED])
        yield Finding(
            False,
            f"{where}: {len(whole.problems)} of {len(whole.fields)} fields cannot be judged: {names}",
            next(iter(whole.problems.values())),
        )
    for warning in baseline.warnings:
        what, _, remedy = warning.rpartition(": ")
        yield Finding(False, what or warning, remedy)
