"""`[canary]`: by how much a new deployment may be worse than the old one, and how sure a verdict is."""

from __future__ import annotations

from typing import Annotated

import msgspec

__all__ = ["CanaryConfig"]

_Share = Annotated[float, msgspec.Meta(ge=0, lt=1)]


class CanaryConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[canary]`: margins and error rates of canary verdicts."""

    false_verdicts: Annotated[
        float,
        msgspec.Meta(
            gt=0,
            lt=0.5,
            description="Share of canaries exactly at a margin that may get a wrong verdict, however often "
            "one looks. It is divided evenly over the checks. Lowering it makes verdicts later.",
        ),
    ] = 0.05
    margin_budget_share: Annotated[
        float,
        msgspec.Meta(
            gt=0,
            le=1,
            description="Margin of an objective, as a share of its error budget (1 - target): a canary may "
            "be worse than the stable deployment by at most that. Lowering it makes verdicts later.",
        ),
    ] = 1.0
    margins: Annotated[
        dict[str, _Share],
        msgspec.Meta(
            max_length=32,
            description="Margins of single objectives by name, as a difference of shares of bad events, "
            'instead of the share of the budget, such as {"task-accuracy" = 0.02}.',
        ),
    ] = {}
    latency_quantile: Annotated[
        float, msgspec.Meta(gt=0, lt=1, description="Quantile of latency that is compared, 0 to 1.")
    ] = 0.95
    latency_margin: Annotated[
        float,
        msgspec.Meta(
            gt=0,
            le=10,
            description="How much longer the canary's quantile may be, as a share of the stable one's; 0.25 "
            "allows a quarter more.",
        ),
    ] = 0.25
    drift_margin: Annotated[
        float,
        msgspec.Meta(
            gt=0,
            lt=1,
            description="Difference in the share of any class, category or bin that is not worth stopping a "
            "rollout for. Drift fails a canary; it is never what a pass waits for.",
        ),
    ] = 0.1
    min_events: Annotated[
        int,
        msgspec.Meta(
            ge=1,
            description="Effective events that each deployment must have before a check says anything.",
        ),
    ] = 100
