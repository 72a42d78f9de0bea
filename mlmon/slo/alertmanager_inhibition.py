"""Which alerts stay unsaid while another one fires.

Root causes have an order, as the drift pager's do: a wrong version explains unknown tokens, these explain
drift, and drift explains wrong answers. A symptom already carries the root cause's label once it is known, so
it joins the cause's notification; these rules keep it from sending that notification again, and cover the
minutes in which the symptom was there first and named itself as its cause.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from mlmon.slo.alerting import NO_DATA, alert_name
from mlmon.slo.model import CRITICAL_ACCURACY, STANDARD

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["BLINDING", "inhibit_rules"]

_DEAD = "MlmonSidecarDown"
_LAGGING, _STUCK = "MlmonPipelineLagging", "MlmonWatermarkStuck"
_BROKEN = ("MlmonSourceFailing", "MlmonCheckpointFailing")
#: Pages that say that mlmon does not see what goes on now.
BLINDING = (_DEAD, *_BROKEN, _LAGGING, _STUCK)
_VERSION, _TOKENIZER = "MlmonVersionMismatch", "MlmonUnknownTokenJump"
_DRIFT, _DRIFT_NEAR = "MlmonDriftPage", "MlmonDriftNear"
_BURN = "MlmonErrorBudgetBurn.*"
_FAST, _SLOW, _CRITICAL = (alert_name(c) for c in (STANDARD[0], STANDARD[1], CRITICAL_ACCURACY))


def inhibit_rules(outage_slos: Iterable[str]) -> list[dict[str, Any]]:
    """All of them, in the form of Alertmanager's `inhibit_rules`.

    Args:
        outage_slos: objectives whose burn no cause silences.
    """
    return [*_tickets(), *_pipeline(), *_services(outage_slos), *_burns()]


def _rule(source: Sequence[str], target: Sequence[str], *equal: str) -> dict[str, Any]:
    rule: dict[str, Any] = {"source_matchers": list(source), "target_matchers": list(target)}
    return {**rule, "equal": list(equal)} if equal else rule


def _named(*names: str) -> str:
    return f'alertname="{names[0]}"' if len(names) == 1 and "*" not in names[0] else _any_of(names)


def _any_of(names: Sequence[str]) -> str:
    return f'alertname=~"{"|".join(names)}"'


def _tickets() -> list[dict[str, Any]]:
    """A page over the tickets with its cause; a page that names no model speaks of all of a service's."""
    page, ticket = 'severity="page"', 'severity="ticket"'
    return [
        _rule([page], [ticket], "service", "model", "root_cause"),
        _rule([page, 'model=""'], [ticket], "service", "root_cause"),
    ]


def _pipeline() -> list[dict[str, Any]]:
    """Dead over behind, and blind over "no data"."""
    return [
        _rule([_named(_DEAD)], ['root_cause="pipeline"', f'alertname!="{_DEAD}"'], "service"),
        _rule([_named(*_BROKEN)], [_named(_LAGGING, _STUCK)], "service", "instance"),
        _rule([_named(_LAGGING)], [_named(_STUCK)], "service", "instance"),
        _rule([_named(*BLINDING)], [_named(_BURN), 'root_cause="pipeline"'], "service"),
        _rule([_named(*BLINDING)], [_named(NO_DATA)]),
    ]


def _services(outage_slos: Iterable[str]) -> list[dict[str, Any]]:
    """Version over tokenizer over drift over burn."""
    spared = "|".join(re.escape(name).replace(r"\-", "-") for name in outage_slos)
    harmless = [f'slo!~"{spared}"'] if spared else []
    drift = (_DRIFT, _DRIFT_NEAR)
    return [
        _rule([_named(_VERSION)], [_named(_TOKENIZER, *drift, _BURN), *harmless], "service", "model"),
        _rule([_named(_TOKENIZER)], [_named(*drift, _BURN), *harmless], "service", "model"),
        _rule([_named(_DRIFT)], [_named(_BURN), *harmless], "service", "model", "root_cause"),
    ]


def _burns() -> list[dict[str, Any]]:
    """The fastest of one objective's pages over the slower ones; with few labels a burn is no page."""
    page, same = 'severity="page"', ("service", "model", "slo")
    return [
        _rule([_named(_FAST), page], [_named(_CRITICAL, _SLOW)], *same),
        _rule([_named(_CRITICAL), page], [_named(_SLOW)], *same),
    ]
