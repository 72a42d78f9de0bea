"""The Kubernetes example: valid by the schemas, few rights, and configurations that mlmon takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from mlmon.config import cautions, parse_config

ROOT = Path(__file__).resolve().parents[2]
MANIFEST = ROOT / "examples/kubernetes/sidecar.yaml"
DOCUMENTS: list[dict[str, Any]] = [
    document for document in yaml.safe_load_all(MANIFEST.read_text(encoding="utf-8")) if document
]
EXAMPLE = (ROOT / "examples/fastapi/app.py").read_text(encoding="utf-8")
BY_NAME = {(document["kind"], document["metadata"]["name"]): document for document in DOCUMENTS}
PODS = {
    name: document["spec"]["template"]["spec"]
    for (kind, name), document in BY_NAME.items()
    if kind == "Deployment"
}
CONFIGS = {
    name: parse_config(document["data"]["mlmon.toml"], name)
    for (kind, name), document in BY_NAME.items()
    if kind == "ConfigMap"
}


def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [*pod.get("initContainers", ()), *pod["containers"]]


def mlmon_container(pod: dict[str, Any]) -> dict[str, Any]:
    (found,) = (container for container in containers(pod) if container["name"] == "mlmon")
    return found


@pytest.mark.parametrize("version", ["1.29", "1.33"])
@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: f"{d['kind']}-{d['metadata']['name']}")
def test_every_document_is_valid_by_the_schema(document: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize("name", PODS)
def test_pods_have_few_rights(name: str) -> None:
    pod = PODS[name]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] >= 10_000
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert not any(pod.get(key) for key in ("hostNetwork", "hostPID", "hostIPC"))
    for container in containers(pod):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"]["memory"]
        assert container["resources"]["requests"].keys() == {"cpu", "memory"}
        assert not container["image"].endswith(":latest")
        assert ":" in container["image"]


@pytest.mark.parametrize("name", PODS)
def test_the_user_is_the_images(name: str) -> None:
    dockerfile = (ROOT / "docker/sidecar.Dockerfile").read_text(encoding="utf-8")
    context = PODS[name]["securityContext"]
    assert f"USER {context['runAsUser']}:{context['runAsGroup']}" in dockerfile


@pytest.mark.parametrize("name", PODS)
def test_what_is_mounted_is_there_and_bounded(name: str) -> None:
    volumes = {volume["name"]: volume for volume in PODS[name]["volumes"]}
    used = {mount["name"] for container in containers(PODS[name]) for mount in container["volumeMounts"]}
    assert used == set(volumes)
    for volume in volumes.values():
        if "emptyDir" in volume:
            assert volume["emptyDir"]["sizeLimit"]
        if "configMap" in volume:
            assert ("ConfigMap", volume["configMap"]["name"]) in BY_NAME


@pytest.mark.parametrize("name", PODS)
def test_the_configuration_fits_the_pod(name: str) -> None:
    pod = PODS[name]
    container = mlmon_container(pod)
    (volume,) = (v["configMap"]["name"] for v in pod["volumes"] if "configMap" in v)
    config = CONFIGS[volume]
    assert cautions(config) == []
    assert container["ports"] == [{"name": "metrics", "containerPort": config.http.port}]
    assert config.http.password_env in {item["name"] for item in container["env"]}
    mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
    assert container["args"][-1].rpartition("/")[0] in mounts
    files = [config.source.kafka.tls_ca_file, config.source.kafka.sasl_password_file]
    if config.source.kind == "spool":
        files = [config.source.spool.directory, config.checkpoint.sqlite.path, config.dead_letters.directory]
    for path in files:
        assert path is not None
        assert any(path == mount or path.startswith(f"{mount}/") for mount in mounts), path


def test_the_sidecar_outlives_the_server_and_does_not_take_it_out_of_service() -> None:
    pod = PODS["model-server"]
    sidecar = mlmon_container(pod)
    assert sidecar in pod["initContainers"]
    assert sidecar["restartPolicy"] == "Always"
    assert "readinessProbe" not in sidecar
    assert sidecar["livenessProbe"]["httpGet"]["path"] == "/healthz"
    (server,) = pod["containers"]
    spools = [
        mount["mountPath"]
        for container in (sidecar, server)
        for mount in container["volumeMounts"]
        if mount["name"] == "spool"
    ]
    assert spools == [CONFIGS["mlmon-spool"].source.spool.directory] * 2
    assert {item["name"]: item["value"] for item in server["env"]} == {"MLMON_EXAMPLE_SPOOL": spools[0]}
    assert "(MLMON_EXAMPLE_SPOOL)" in EXAMPLE
    assert f'@app.get("{server["readinessProbe"]["httpGet"]["path"]}")' in EXAMPLE


def test_the_kafka_deployment_keeps_nothing_on_disk() -> None:
    pod = PODS["mlmon-kafka"]
    assert CONFIGS["mlmon-kafka"].checkpoint_kind == "kafka"
    writable = [mount for mount in mlmon_container(pod)["volumeMounts"] if not mount.get("readOnly")]
    assert [mount["mountPath"] for mount in writable] == ["/tmp"]  # noqa: S108 - the container's own
    assert mlmon_container(pod)["readinessProbe"]["httpGet"]["path"] == "/readyz"
