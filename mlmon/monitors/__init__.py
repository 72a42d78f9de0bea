"""What is watched: every monitor there is, in one table. A new one is a file and a line here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from mlmon.baseline.model import no_parameters
from mlmon.monitors.embeddings import EmbeddingsConfig, EmbeddingsMonitor
from mlmon.monitors.features import FeaturesConfig, FeaturesMonitor
from mlmon.monitors.predictions import PredictionsConfig, PredictionsMonitor
from mlmon.monitors.samples import SamplesConfig, SamplesMonitor
from mlmon.monitors.shadow import ShadowConfig, ShadowMonitor
from mlmon.monitors.slo import SloConfig, SloMonitor
from mlmon.monitors.tokenizer import TokenizerConfig, TokenizerMonitor, no_tables
from mlmon.monitors.traffic import TrafficConfig, TrafficMonitor
from mlmon.monitors.versions import VersionsConfig, VersionsMonitor, nothing_expected

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import msgspec

    from mlmon.baseline.model import FindParameters
    from mlmon.monitors.base import Monitor
    from mlmon.monitors.tokenizer import TokenCounter
    from mlmon.monitors.versions import ExpectedVersions

__all__ = ["MONITORS", "MonitorEntry", "Surroundings", "build_monitors"]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What monitors are given beside their configuration.

    Attributes:
        tables: token table of a (model, model version), or None.
        expected: what should serve.
        parameters: what a baseline says of how a monitor turns a scope's events into fields.
    """

    tables: Callable[[str, str], TokenCounter | None] = no_tables
    expected: ExpectedVersions = nothing_expected
    parameters: FindParameters = no_parameters


@dataclass(frozen=True, slots=True)
class MonitorEntry:
    """One line of the table.

    Attributes:
        config: the class of its section `[monitors.NAME]`.
        build: makes the monitor. A monitor's methods take its own summary, which the protocol cannot say.
    """

    config: type[msgspec.Struct]
    build: Callable[[Any, Surroundings], Any]


#: By name, which is the monitor's `name`, its configuration section and its place in the state.
MONITORS: dict[str, MonitorEntry] = {
    "traffic": MonitorEntry(TrafficConfig, lambda config, _: TrafficMonitor(config)),
    "tokenizer": MonitorEntry(
        TokenizerConfig, lambda config, around: TokenizerMonitor(config, around.tables, around.parameters)
    ),
    "versions": MonitorEntry(VersionsConfig, lambda config, around: VersionsMonitor(config, around.expected)),
    "samples": MonitorEntry(SamplesConfig, lambda config, _: SamplesMonitor(config)),
    "features": MonitorEntry(
        FeaturesConfig, lambda config, around: FeaturesMonitor(config, around.parameters)
    ),
    "embeddings": MonitorEntry(
        EmbeddingsConfig, lambda config, around: EmbeddingsMonitor(config, around.parameters)
    ),
    "predictions": MonitorEntry(
        PredictionsConfig, lambda config, around: PredictionsMonitor(config, around.parameters)
    ),
    "slo": MonitorEntry(SloConfig, lambda config, _: SloMonitor(config)),
    "shadow": MonitorEntry(ShadowConfig, lambda config, _: ShadowMonitor(config)),
}


def build_monitors(
    configs: Mapping[str, msgspec.Struct], surroundings: Surroundings | None = None
) -> tuple[Monitor, ...]:
    """Make the monitors that `configs` names, in the order of the table.

    Raises:
        KeyError: a name is not in the table.

    Example:
        >>> [monitor.name for monitor in build_monitors({"traffic": TrafficConfig()})]
        ['traffic']
    """
    around = Surroundings() if surroundings is None else surroundings
    unknown = configs.keys() - MONITORS.keys()
    if unknown:
        raise KeyError(f"unknown monitors {sorted(unknown)}: expected some of {list(MONITORS)}")
    return tuple(
        cast("Monitor", entry.build(configs[name], around))
        for name, entry in MONITORS.items()
        if name in configs
    )
