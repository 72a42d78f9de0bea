"""What `mlmon render` is told: `alerts/config.toml`, a section for each thing that is rendered."""

from __future__ import annotations

import msgspec

from mlmon.slo.alertmanager import NotifyConfig
from mlmon.slo.health import HealthSettings
from mlmon.slo.windows import RuleSettings

__all__ = ["RenderConfig"]


class RenderConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`alerts/config.toml`; every key has a default.

    Attributes:
        rules: what is the same in every rule.
        health: the alerts beside the objectives.
        notify: who is told.
    """

    rules: RuleSettings = RuleSettings()
    health: HealthSettings = HealthSettings()
    notify: NotifyConfig = NotifyConfig()
