"""SLO specs in; rules, their tests and Alertmanager configuration out."""

from __future__ import annotations

from mlmon.slo.openslo import load_specs

__all__ = ["load_specs"]
