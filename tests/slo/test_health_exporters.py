"""Alerts that read other exporters, where containers are not named like their services."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

sys.path.append(str(Path(__file__).parent))

from rules_kit import needs_promtool, promtool

from mlmon.slo.health import HealthSettings, health_alert
from mlmon.slo.health_services import service_rules
from mlmon.slo.promql import Group, rules_yaml
from mlmon.slo.windows import RuleSettings

SETTINGS = RuleSettings()
NAMED = HealthSettings(gpu_container_label="container", container_pattern=r"(\w+)-server(?:-v\d+)?")
ALERTS = ("MlmonGpuMemoryNearFull", "MlmonOomRestarts")
WATCHED = {'mlmon_requests_total{service="checkout",model="encoder",status="ok"}': "0+10x90"}


def gpu(container: str, label: str = "container") -> dict[str, str]:
    labels = f'{{{label}="{container}",gpu="0"}}'
    return {f"DCGM_FI_DEV_FB_USED{labels}": "99x90", f"DCGM_FI_DEV_FB_FREE{labels}": "1x90"}


def kills(container: str) -> dict[str, str]:
    pod = f'namespace="x",pod="p-1",container="{container}"'
    reason = f'kube_pod_container_status_last_terminated_reason{{{pod},reason="OOMKilled"}}'
    return {f"kube_pod_container_status_restarts_total{{{pod}}}": "0x30 1x9 2x9 3x40", reason: "1x90"}


def check(directory: Path, health: HealthSettings, series: dict[str, str], *, fires: bool) -> None:
    """Both alerts fire for the service checkout after 80 minutes, or neither does, as promtool finds."""
    alerts = [health_alert(rule, SETTINGS, health) for rule in service_rules(SETTINGS, health)]
    chosen = [alert for alert in alerts if alert.alert in ALERTS]
    (directory / "rules.yml").write_text(rules_yaml([Group("g", "1m", chosen)], "a test"), encoding="utf-8")
    expected: dict[str, Any] = {
        "expr": 'count by (alertname) (ALERTS{alertstate="firing",service="checkout"})',
        "eval_time": "80m",
        "exp_samples": [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in ALERTS if fires],
    }
    test = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [expected],
    }
    path = directory / "test.yml"
    # JSON is YAML
    path.write_text(json.dumps({"rule_files": ["rules.yml"], "tests": [test]}), encoding="utf-8")
    done = promtool("test", "rules", str(path))
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool[0]
@needs_promtool[1]
@pytest.mark.parametrize("container", ["checkout-server", "checkout-server-v12"])
def test_a_pattern_finds_the_service_in_the_name_of_a_container(tmp_path: Path, container: str) -> None:
    series = {**WATCHED, **gpu(container), **kills(container)}
    check(tmp_path, NAMED, series, fires=True)


@needs_promtool[0]
@needs_promtool[1]
def test_other_containers_are_nobodys(tmp_path: Path) -> None:
    for container in ("checkout", "sidecar-of-checkout-server", "search-server"):
        series = {**WATCHED, **gpu(container), **kills(container)}
        check(tmp_path, NAMED, series, fires=False)


@needs_promtool[0]
@needs_promtool[1]
def test_by_default_the_container_is_called_like_the_service(tmp_path: Path) -> None:
    series = {**WATCHED, **gpu("checkout", "exported_container"), **kills("checkout")}
    check(tmp_path, HealthSettings(), series, fires=True)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("container_pattern", ".+", "expected a group that is the service"),
        ("container_pattern", "(.+", "expected a regular expression"),
        ("gpu_container_label", "a-b", "gpu_container_label"),
    ],
)
def test_settings_that_cannot_be(key: str, value: str, message: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=message):
        msgspec.convert({key: value}, HealthSettings)
