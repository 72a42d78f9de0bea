"""Fixtures of every area: a real Kafka broker."""

from __future__ import annotations

import gc
import importlib.util
import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

with warnings.catch_warnings():
    # Deprecated calls of kafka-python's own; warnings are errors from the first conftest on.
    warnings.simplefilter("ignore", DeprecationWarning)
    import kafka  # noqa: F401

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType


# Examples that take long to make or to try say only that the machine is busy.
hypothesis.settings.register_profile(
    "mlmon",
    hypothesis.settings(),
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("mlmon")


def pytest_configure(config: pytest.Config) -> None:
    """Warnings are errors, but these are kafka-python's own and harmless."""
    for line in (
        "ignore:(read_text|open_text) is deprecated:DeprecationWarning",  # while it is imported
        "ignore:unclosed <socket.*laddr=.'0.0.0.0':ResourceWarning",  # a connection that was refused
        "ignore:unclosed <ssl.SSLSocket:ResourceWarning",  # a handshake that failed
    ):
        config.addinivalue_line("filterwarnings", line)


def pytest_sessionfinish() -> None:
    """Sockets that kafka-python dropped go now, with the filters above, and not after them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def _broker_module() -> ModuleType:
    """tests/kafka/broker.py, by path: a package named `kafka` in tests/ would hide the client library."""
    name = "mlmon_test_broker"
    if name not in sys.modules:
        path = Path(__file__).parent / "kafka" / "broker.py"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


@pytest.fixture(scope="session")
def kafka_broker() -> Iterator[object]:
    """A running broker (`KafkaBroker` of tests/kafka/broker.py), shared by the whole run.

    Use topics and groups with names of your own. Whoever stops it starts it again. Without a way to run one
    the test is skipped, or failed where CI=true.
    """
    module = _broker_module()
    try:
        broker = module.find_broker()
    except module.BrokerUnavailableError as error:
        if os.environ.get("CI", "").lower() in ("1", "true"):
            pytest.fail(str(error))
        pytest.skip(str(error))
    yield broker
    broker.close()
