"""The executive board: is the promise kept, how much is left, how old is what serves, what does it cost."""

from __future__ import annotations

from mlmon.catalog import drift, requests, sidecar
from mlmon.grafana.promql import LIVE, newest, of, per_second, ratio
from mlmon.grafana.recorded import BUDGET, BURN, EXHAUSTION, achieved, recorded, target
from mlmon.grafana.spec import Board, Column, Figure, Grid, Lines, Query, Row, Step, Variable

__all__ = ["BOARD"]

_MODEL = "service, model"
_NAME = "{{service}} / {{model}}"
_LEFT = (Step(None, "red"), Step(0.0, "orange"), Step(0.25, "green"))
_BURN = (Step(None, "green"), Step(1.0, "orange"), Step(6.0, "red"))

_OBJECTIVES = Row(
    "Objectives",
    (
        Figure(
            title="Objectives out of budget",
            about="Objectives that have spent more errors than their period allows. 0 is what was promised.",
            unit="none",
            queries=(Query(f"sum({recorded(BUDGET)} <= bool 0)"),),
            steps=(Step(None, "green"), Step(1.0, "red")),
        ),
        Figure(
            title="Least budget left",
            about="Of the objective that has least: 100 % is a period without an error, below 0 % the "
            "promise is broken.",
            unit="percentunit",
            queries=(Query(f"min({recorded(BUDGET)})"),),
            steps=_LEFT,
        ),
        Grid(
            title="Objectives by model",
            about="Target, what was achieved over the period, budget left, burn over the last hour (1 spends "
            "the budget exactly by the end of the period) and when the budget is gone at that burn; empty "
            "where nothing burns.",
            unit="none",
            queries=(
                Query(target()),
                Query(achieved()),
                Query(recorded(BUDGET)),
                Query(recorded(BURN)),
                Query(recorded(EXHAUSTION)),
            ),
            columns=(
                Column("service", "Service"),
                Column("model", "Model"),
                Column(
                    "slo",
                    "Objective",
                    link="/d/mlmon-oncall?var-service=${__data.fields.Service}&var-model=${__data.fields.Model}",
                ),
                Column("Value #A", "Target", "percentunit"),
                Column("Value #B", "Achieved", "percentunit"),
                Column("Value #C", "Budget left", "percentunit", steps=_LEFT),
                Column("Value #D", "Burn", "none", steps=_BURN),
                Column("Value #E", "Gone in", "s"),
            ),
            none="no objective has data yet",
            width=16,
            height=10,
        ),
        Lines(
            title="Error budget left",
            about="Share of the period's budget that is left. It recovers as errors leave the period.",
            unit="percentunit",
            queries=(Query(recorded(BUDGET), f"{{{{slo}}}} · {_NAME}"),),
            high=1.0,
            steps=(Step(None, "red"), Step(0.0, "transparent")),
            width=12,
        ),
        Lines(
            title="Achieved",
            about="Share of good events over the period, by objective: answered, in time, with known tokens, "
            "and right, where labels arrive (task and masked-token accuracy).",
            unit="percentunit",
            queries=(Query(achieved(), f"{{{{slo}}}} · {_NAME}"),),
            high=1.0,
            width=12,
        ),
    ),
)

_SINCE = f"max by (service, model, deployment, version) ({of(requests.VERSION_SINCE)})"
_SHARE = (
    "sum by (service, model, deployment, version) (label_replace("
    f'{of(requests.VERSION_TRAFFIC)}, "version", "$1", "model_version", "(.*)"))'
)
_PAGER = (Step(None, "green"), Step(1.0, "red"))

_HEALTH = Row(
    "Model health and age",
    (
        Figure(
            title="Drift",
            about="Whether a page for drift is due: what the model is asked, says or is made of has moved by "
            "more than it may.",
            unit="none",
            queries=(Query(newest(drift.PAGER_ALARM, by=_MODEL), _NAME),),
            words={"0": ("steady", "green"), "1": ("drifted", "red")},
            steps=_PAGER,
            sparkline=False,
            width=4,
        ),
        Figure(
            title="Wrong version",
            about="Share of checked requests that another version answered than the registry expects.",
            unit="percentunit",
            queries=(Query(newest(requests.VERSION_MISMATCH_RATIO, LIVE, by=_MODEL), _NAME),),
            steps=(Step(None, "green"), Step(0.000001, "red")),
            width=5,
        ),
        Figure(
            title="Newest version serves for",
            about="Time since the newest version answered its first request: the last release that was seen "
            "at work.",
            unit="s",
            queries=(Query(f"time() - max by ({_MODEL}) ({of(requests.VERSION_SINCE)})", _NAME),),
            sparkline=False,
            width=5,
        ),
        Figure(
            title="Last training",
            about="Time since the last training ended, well or not, as the version registry's file says. One "
            "that failed makes a ticket.",
            unit="s",
            queries=(Query(f"time() - max by ({_MODEL}) ({of(sidecar.TRAINING_TIME)})", _NAME),),
            sparkline=False,
            width=5,
        ),
        Figure(
            title="Age of the baseline",
            about="Time since the newest event in the baseline that the model is compared with. Retrain or "
            "rebuild it when the world it shows is past.",
            unit="s",
            queries=(Query(f"time() - max by ({_MODEL}) ({of(drift.BASELINE_TIME)})", _NAME),),
            sparkline=False,
            width=5,
        ),
        Lines(
            title="Evidence of drift",
            about="Evidence over all that is watched, as a share of the evidence at which a page is due (1, "
            "the edge of the band). Logarithmic: each step is ten times the evidence.",
            unit="none",
            queries=(
                Query(
                    ratio(newest(drift.PAGER_EVIDENCE, by=_MODEL), newest(drift.PAGER_THRESHOLD, by=_MODEL)),
                    _NAME,
                ),
            ),
            log=True,
            steps=(Step(None, "transparent"), Step(1.0, "red")),
            width=12,
        ),
        Grid(
            title="What serves",
            about="Versions that answered in the newest window, when each was first seen and its share of "
            "the traffic.",
            unit="none",
            queries=(Query(f"{_SINCE} * 1000"), Query(_SHARE)),
            columns=(
                Column("service", "Service"),
                Column("model", "Model"),
                Column("deployment", "Deployment"),
                Column("version", "Version"),
                Column("Value #A", "Since", "dateTimeFromNow"),
                Column("Value #B", "Share", "percentunit"),
            ),
            sort="Since",
        ),
    ),
)


def _device_seconds(part: str) -> str:
    """Seconds of the model's device for each request, by model."""
    where = (LIVE, f'part="{part}"')
    latency = requests.LATENCY.estimated
    return ratio(
        per_second(latency, *where, by=_MODEL, part="sum"),
        per_second(latency, *where, by=_MODEL, part="count"),
    )


_DEVICE = f"(({_device_seconds('inference')}) or ({_device_seconds('total')}))"

_COST = Row(
    "Traffic and cost",
    (
        Lines(
            title="Requests a day",
            about="Requests of the last 24 hours: estimated from the sampled events, shadow traffic left "
            "out.",
            unit="short",
            queries=(
                Query(f"sum by ({_MODEL}) (increase({of(requests.REQUESTS.estimated, LIVE)}[1d]))", _NAME),
            ),
            low=0.0,
        ),
        Lines(
            title="Device time of a request",
            about="Mean time in the model; where the server does not report it, mean latency.",
            unit="s",
            queries=(Query(_DEVICE, _NAME),),
            low=0.0,
        ),
        Lines(
            title="Cost of 1,000 requests",
            about="Device time of a request times the price of a device hour typed in at the top, in its "
            "currency. An estimate: a device that waits costs too.",
            unit="none",
            queries=(Query(f"1000 * {_DEVICE} * $price / 3600", _NAME),),
            low=0.0,
            decimals=4,
        ),
    ),
)

BOARD = Board(
    name="executive",
    title="mlmon / executive",
    about="Whether what was promised is kept, how healthy and how old the models are, and what they cost.",
    since="30d",
    rows=(_OBJECTIVES, _HEALTH, _COST),
    variables=(
        Variable("price", "Device hour", "Price of one hour of one device, in any currency.", default="1"),
    ),
)
