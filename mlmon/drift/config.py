"""How drift is judged and when it pages."""

from __future__ import annotations

from typing import Annotated

import msgspec

__all__ = ["MONTH_SECONDS", "AlertsConfig", "DriftConfig"]

#: A month, for the budget: 30 days.
MONTH_SECONDS = 30 * 86_400


class AlertsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[alerts]`: how many false pages are tolerated. The only thing there is to choose."""

    false_pages_per_month: Annotated[
        float,
        msgspec.Meta(
            gt=0,
            le=1000,
            description="False pages of one service tolerated in 30 days, all its drift detectors together. "
            "Fewer pages means that a small drift is found later.",
        ),
    ] = 1.0


class DriftConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[drift]`: when a window has enough events to be judged, and how much of it is shown."""

    min_events: Annotated[
        int,
        msgspec.Meta(
            ge=20,
            le=1_000_000,
            description="Sampled events that a series needs to be judged. A window with fewer is judged "
            "together with those after it.",
        ),
    ] = 200
    max_wait_seconds: Annotated[
        int,
        msgspec.Meta(
            ge=60,
            le=7 * 86_400,
            description="Event time after which a series that still has too few events is judged all the "
            "same; fields that cannot be judged then say so.",
        ),
    ] = 6 * 3600
    top_fields: Annotated[
        int,
        msgspec.Meta(
            ge=1,
            le=1000,
            description="Fields shown for each series and monitor: those with the most evidence. Each costs "
            "some 10 Prometheus samples.",
        ),
    ] = 10
