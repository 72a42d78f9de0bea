"""The compose stack: valid by its schema, and closed to the outside as it says."""

from __future__ import annotations

import importlib.util
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlmon.config import cautions, load_config

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"
COMPOSE: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
PROMETHEUS: dict[str, Any] = yaml.safe_load(
    (DOCKER / "prometheus/prometheus.yml").read_text(encoding="utf-8")
)


def run(*command: str) -> None:
    """Run a program that checks a file; what it prints is the failure."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def tool(name: str, package: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed: apt-get install {package}")
    return path


def test_the_file_is_valid_by_the_compose_schema() -> None:
    schema = ("--builtin-schema", "vendor.compose-spec")
    run(sys.executable, "-m", "check_jsonschema", *schema, "docker/compose.yaml")


@pytest.mark.parametrize("name", SERVICES)
def test_ports_are_published_on_the_loopback_address_only(name: str) -> None:
    for port in SERVICES[name].get("ports", ()):
        assert re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port), port


def test_no_two_services_publish_one_port() -> None:
    ports = [port.split(":")[1] for service in SERVICES.values() for port in service.get("ports", ())]
    assert len(ports) == len(set(ports)) >= 5


@pytest.mark.parametrize("name", SERVICES)
def test_containers_have_few_rights(name: str) -> None:
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service.get("privileged")
    assert "cap_add" not in service
    assert service.get("network_mode") != "host"
    assert service["mem_limit"]
    assert service["pids_limit"]
    # Kafka's start script writes into its image; everything else runs on a read-only root.
    assert service.get("read_only", False) is (name != "kafka")


@pytest.mark.parametrize("name", SERVICES)
def test_images_are_pinned(name: str) -> None:
    service = SERVICES[name]
    if "build" in service:
        context = (DOCKER / service["build"]["context"]).resolve()
        assert context == ROOT
        assert (context / service["build"]["dockerfile"]).is_file()
    else:
        tag = service["image"].rpartition(":")[2]
        assert re.fullmatch(r"v?\d+\.\d+\.\d+", tag), service["image"]


def test_the_broker_is_the_version_that_the_tests_run() -> None:
    pom = (ROOT / "tests/kafka/pom.xml").read_text(encoding="utf-8")
    version = SERVICES["kafka"]["image"].rpartition(":")[2]
    assert f"<version>{version}</version>" in pom
    assert SERVICES["topics"]["image"] == SERVICES["kafka"]["image"]


@pytest.mark.parametrize("name", SERVICES)
def test_mounts_exist_and_are_read_only_or_declared(name: str) -> None:
    for mount in SERVICES[name].get("volumes", ()):
        source, target, *mode = mount.split(":")
        assert target.startswith("/")
        if source.startswith("."):
            assert (DOCKER / source).resolve().exists(), mount
            assert mode == ["ro"], mount
        else:
            assert source in COMPOSE["volumes"], mount


def test_every_long_running_service_has_a_health_check() -> None:
    for name, service in SERVICES.items():
        if service["restart"] == "no":
            continue
        image_brings_it = "build" in service and "HEALTHCHECK" in (
            ROOT / service["build"]["dockerfile"]
        ).read_text(encoding="utf-8")
        assert "healthcheck" in service or image_brings_it, name


def test_what_a_service_waits_for_can_come_true() -> None:
    for name, service in SERVICES.items():
        for other, how in service.get("depends_on", {}).items():
            if how["condition"] == "service_completed_successfully":
                assert SERVICES[other]["restart"] == "no", (name, other)
            else:
                assert how["condition"] == "service_healthy"
                assert SERVICES[other]["restart"] != "no", (name, other)


def test_secrets_are_files_that_are_not_committed() -> None:
    used = {secret for service in SERVICES.values() for secret in service.get("secrets", ())}
    assert used == set(COMPOSE["secrets"])
    maker = (DOCKER / "make-secrets").read_text(encoding="utf-8")
    for name, secret in COMPOSE["secrets"].items():
        path = (DOCKER / secret["file"]).resolve()
        assert path.parent == DOCKER / "secrets"
        assert name in maker
        run("git", "check-ignore", "--quiet", str(path))


def test_no_password_stands_in_an_environment() -> None:
    for name, service in SERVICES.items():
        for key in service.get("environment", {}):
            if re.search(r"PASSWORD|SECRET|TOKEN", key):
                assert key.endswith("__FILE"), (name, key)


def test_secrets_are_made_once_and_only_the_owner_can_enter_their_folder(tmp_path: Path) -> None:
    script = tmp_path / "docker" / "make-secrets"
    (tmp_path / "docker" / "secrets").mkdir(parents=True)
    shutil.copy2(DOCKER / "make-secrets", script)
    run(str(script))
    made = {path.name: path.read_text() for path in (tmp_path / "docker/secrets").iterdir()}
    assert set(made) == set(COMPOSE["secrets"])
    assert all(len(text) == 32 and re.fullmatch(r"[\w-]+", text) for text in made.values())
    assert len(set(made.values())) == len(made)
    assert stat.S_IMODE((tmp_path / "docker/secrets").stat().st_mode) == 0o700
    run(str(script))
    assert {path.name: path.read_text() for path in (tmp_path / "docker/secrets").iterdir()} == made


def test_the_sidecars_configuration_fits_the_stack() -> None:
    config = load_config(DOCKER / "mlmon.toml")
    assert cautions(config) == []
    kafka = SERVICES["kafka"]["environment"]
    (address,) = config.source.kafka.bootstrap_servers
    assert f"INSIDE://{address}" in kafka["KAFKA_ADVERTISED_LISTENERS"].split(",")
    created = [part for part in SERVICES["topics"]["entrypoint"] if part.startswith("--topic=")]
    assert created == [f"--topic={topic}" for topic in config.source.kafka.topics]
    mount = "./mlmon.toml:/etc/mlmon/mlmon.toml:ro"
    assert mount in SERVICES["sidecar"]["volumes"]
    (scrape,) = (job for job in PROMETHEUS["scrape_configs"] if job["job_name"] == "mlmon")
    (target,) = scrape["dns_sd_configs"]
    assert target["names"] == ["sidecar"]
    assert target["port"] == config.http.port
    assert SERVICES["sidecar"]["ports"] == [f"127.0.0.1:{config.http.port}:{config.http.port}"]
    assert scrape["basic_auth"]["username"] == config.http.username
    assert scrape["basic_auth"]["password_file"] == config.http.password_file
    assert Path(config.http.password_file or "").name in SERVICES["sidecar"]["secrets"]
    assert Path(config.http.password_file or "").name in SERVICES["prometheus"]["secrets"]


def load_example() -> Any:
    """examples/fastapi/app.py, imported from its file; importing it trains nothing."""
    path = ROOT / "examples/fastapi/app.py"
    spec = importlib.util.spec_from_file_location("mlmon_compose_example", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_example_sends_to_the_topic_that_the_sidecar_reads() -> None:
    settings = load_example().Settings.from_environment(SERVICES["example"]["environment"])
    config = load_config(DOCKER / "mlmon.toml")
    assert settings.kafka == config.source.kafka.bootstrap_servers[0]
    assert (settings.topic,) == config.source.kafka.topics
    assert SERVICES["example"]["profiles"] == ["example"]


def test_prometheus_takes_its_configuration() -> None:
    run(
        tool("promtool", "prometheus"), "check", "config", "--syntax-only", "docker/prometheus/prometheus.yml"
    )
    (rules,) = PROMETHEUS["rule_files"]
    assert f"../alerts/rules:{rules.rpartition('/')[0]}:ro" in SERVICES["prometheus"]["volumes"]


def test_alertmanager_takes_its_configuration() -> None:
    amtool = tool("amtool", "prometheus-alertmanager")
    run(amtool, "check-config", "docker/alertmanager/alertmanager.yml")


def test_grafana_finds_its_sources_and_dashboards() -> None:
    provisioning = ROOT / "dashboards/provisioning"
    assert "../dashboards/provisioning:/etc/grafana/provisioning:ro" in SERVICES["grafana"]["volumes"]
    sources = yaml.safe_load((provisioning / "datasources/mlmon.yaml").read_text(encoding="utf-8"))
    for source in sources["datasources"]:
        name, port = source["url"].removeprefix("http://").split(":")
        assert any(publish.endswith(f":{port}") for publish in SERVICES[name]["ports"])
    boards = yaml.safe_load((provisioning / "dashboards/mlmon.yaml").read_text(encoding="utf-8"))
    (provider,) = boards["providers"]
    assert f"../dashboards/json:{provider['options']['path']}:ro" in SERVICES["grafana"]["volumes"]
