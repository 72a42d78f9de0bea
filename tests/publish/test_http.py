"""The port over real sockets: what it answers, whom it lets in, and what it does with bad clients."""

from __future__ import annotations

import base64
import gzip
import http.client
import json
import logging
import socket
import ssl
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_classic

from mlmon.catalog.sidecar import SERIES
from mlmon.errors import ConfigError
from mlmon.monitors.base import Sample
from mlmon.publish import Health, HttpConfig, MetricsServer, Snapshot, SnapshotCollector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from conftest import Certificates

OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
FROM_SECRET = {"password_env": "SECRET"}
WELL = Health(alive=True, ready=True)


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


@pytest.fixture
def serve() -> Iterator[Callable[..., MetricsServer]]:
    servers: list[MetricsServer] = []

    def start(
        health: Callable[[], Health] = lambda: WELL,
        environ: dict[str, str] | None = None,
        collector: SnapshotCollector | None = None,
        **config: Any,
    ) -> MetricsServer:
        if collector is None:
            collector = SnapshotCollector([])
            collector.publish(Snapshot(own=[Sample(SERIES, (), 7.0)]))
        server = MetricsServer(HttpConfig(**{"port": 0, **config}), collector, health, environ or {})
        servers.append(server)
        server.start()
        return server

    yield start
    for server in servers:
        server.close()


def ask(
    server: MetricsServer,
    path: str = "/metrics",
    method: str = "GET",
    headers: dict[str, str] | None = None,
    context: ssl.SSLContext | None = None,
) -> Answer:
    if context is None:
        connection = http.client.HTTPConnection(server.host, server.port, timeout=20)
    else:
        connection = http.client.HTTPSConnection(server.host, server.port, timeout=20, context=context)
    try:
        connection.request(method, path, headers=headers or {})
        reply = connection.getresponse()
        return Answer(reply.status, dict(reply.getheaders()), reply.read())
    finally:
        connection.close()


def basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def test_both_formats_are_negotiated_and_parse(serve: Callable[..., MetricsServer]) -> None:
    server = serve()
    fancy = ask(server, headers={"Accept": OPENMETRICS})
    assert fancy.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    assert [f.name for f in parse_openmetrics(fancy.body.decode())] == ["mlmon_series"]
    plain = ask(server)
    assert plain.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert [f.samples[0].value for f in parse_classic(plain.body.decode())] == [7.0]
    assert (plain.status, fancy.status) == (200, 200)


def test_compression_when_asked_for(serve: Callable[..., MetricsServer]) -> None:
    server = serve()
    zipped = ask(server, headers={"Accept-Encoding": "gzip"})
    assert zipped.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(zipped.body) == ask(server).body


def test_head_has_the_headers_and_no_body(serve: Callable[..., MetricsServer]) -> None:
    server = serve()
    head, get = ask(server, method="HEAD"), ask(server)
    assert head.body == b""
    assert head.headers["Content-Length"] == str(len(get.body))


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "BREW"])
def test_other_methods_are_refused(serve: Callable[..., MetricsServer], method: str) -> None:
    answer = ask(serve(), method=method)
    assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")


def test_paths(serve: Callable[..., MetricsServer]) -> None:
    server = serve()
    assert ask(server, "/metrics?x=1").status == 200
    assert ask(server, "/").status == 200
    for path in ("/nothing", "/metrics/", "/../metrics"):
        answer = ask(server, path)
        assert answer.status == 404
        assert b"/metrics" in answer.body


def test_probes_say_why(serve: Callable[..., MetricsServer]) -> None:
    state = [WELL]
    server = serve(lambda: state[0])
    assert ask(server, "/healthz")[::2] == (200, b'{"alive": true, "reasons": []}\n')
    assert ask(server, "/readyz")[::2] == (200, b'{"ready": true, "reasons": []}\n')
    state[0] = Health(alive=True, ready=False, reasons=("no partition is assigned",))
    answer = ask(server, "/readyz")
    assert answer.status == 503
    assert answer.headers["Content-Type"] == "application/json"
    assert json.loads(answer.body) == {"ready": False, "reasons": ["no partition is assigned"]}
    assert ask(server, "/healthz").status == 200
    state[0] = Health(alive=False, ready=False, reasons=("the loop stands still",))
    assert ask(server, "/healthz").status == 503


@pytest.mark.parametrize("origin", ["environment", "file"])
def test_the_password_guards_metrics_and_reasons(
    serve: Callable[..., MetricsServer], tmp_path: Path, origin: str
) -> None:
    secret = "pässword: with colon"  # noqa: S105 - of this test
    path = tmp_path / "password"
    path.write_text(secret + "\n", encoding="utf-8")
    where = {"password_env": "SECRET"} if origin == "environment" else {"password_file": str(path)}
    health = Health(alive=True, ready=False, reasons=("why",))
    server = serve(lambda: health, {"SECRET": secret}, username="prometheus", **where)
    assert ask(server, headers=basic("prometheus", secret)).status == 200
    for wrong in (
        {},
        basic("prometheus", secret + "x"),
        basic("prometheus", ""),
        basic("Prometheus", secret),
        {"Authorization": "Basic ???"},
        {"Authorization": "Bearer " + basic("prometheus", secret)["Authorization"][6:]},
        {"Authorization": ""},
    ):
        answer = ask(server, headers=wrong)
        assert answer.status == 401
        assert answer.headers["WWW-Authenticate"].startswith("Basic ")
        assert b"mlmon_series" not in answer.body
    assert json.loads(ask(server, "/readyz").body) == {"ready": False}
    assert json.loads(ask(server, "/readyz", headers=basic("prometheus", secret)).body) == {
        "ready": False,
        "reasons": ["why"],
    }


def test_the_password_is_nowhere_to_be_seen(
    serve: Callable[..., MetricsServer], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server = serve(environ={"SECRET": "hunter2"}, username="me", **FROM_SECRET)
    ask(server, headers=basic("me", "hunter2"))
    ask(server, headers=basic("me", "hunter3"))
    encoded = basic("me", "hunter2")["Authorization"].split()[1]
    assert "GET /metrics" in caplog.text
    assert "hunter" not in caplog.text
    assert encoded not in caplog.text


@pytest.mark.parametrize(
    ("environ", "config", "words"),
    [
        ({}, {"username": "me", "password_env": "SECRET"}, "SECRET.*expected the password, got nothing"),
        ({}, {"username": "me", "password_file": "/nowhere/at/all"}, "/nowhere/at/all.*expected a readable"),
        ({"S": "x"}, {"username": "a:b", "password_env": "S"}, "username: expected a name without a colon"),
        ({}, {"tls_cert_file": "/nowhere", "tls_key_file": "/nowhere"}, "certificate /nowhere.*expected PEM"),
        ({}, {"host": "no-such-host.invalid"}, "http.host 'no-such-host.invalid': expected an address"),
        ({}, {"host": "203.0.113.1"}, "cannot listen on 203.0.113.1:0"),
    ],
)
def test_a_configuration_that_cannot_be_served_is_an_error(
    environ: dict[str, str], config: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        MetricsServer(HttpConfig(port=0, **config), SnapshotCollector([]), lambda: WELL, environ)


@pytest.mark.parametrize(
    "config",
    [
        {"username": "me"},
        {"password_env": "SECRET"},
        {"password_env": "SECRET", "password_file": "x"},
        {"username": "me", "password_env": "SECRET", "password_file": "x"},
        {"tls_cert_file": "x"},
        {"tls_key_file": "x"},
        {"tls_client_ca_file": "x"},
        {"port": 65_536},
        {"max_connections": 0},
        {"timeout_seconds": 0},
        {"address": "127.0.0.1"},
    ],
)
def test_combinations_that_make_no_sense_are_refused(config: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(config, HttpConfig)


def test_the_default_is_the_loopback_without_a_warning(
    serve: Callable[..., MetricsServer], caplog: pytest.LogCaptureFixture
) -> None:
    server = serve()
    assert (HttpConfig().host, server.host) == ("127.0.0.1", "127.0.0.1")
    assert server.url == f"http://127.0.0.1:{server.port}"
    assert caplog.records == []


def test_listening_to_the_world_without_a_password_is_warned_about(
    serve: Callable[..., MetricsServer], caplog: pytest.LogCaptureFixture
) -> None:
    serve(host="0.0.0.0")  # noqa: S104 - that is the point
    assert "set username and a password" in caplog.text
    caplog.clear()
    serve(environ={"SECRET": "x"}, host="0.0.0.0", username="me", **FROM_SECRET)  # noqa: S104
    assert caplog.text == ""


def test_a_taken_port_is_named_with_a_remedy(serve: Callable[..., MetricsServer]) -> None:
    port = serve().port
    with pytest.raises(ConfigError, match=rf"127.0.0.1:{port} is taken by another program.*http.port"):
        serve(port=port)


def test_close_frees_the_port(serve: Callable[..., MetricsServer]) -> None:
    first = serve()
    port = first.port
    first.close()
    with pytest.raises(ConnectionRefusedError):
        ask(first)
    assert ask(serve(port=port)).status == 200


def test_a_server_that_was_never_started_can_be_closed() -> None:
    server = MetricsServer(HttpConfig(port=0), SnapshotCollector([]), lambda: WELL)
    server.close()


class Broken:
    name = "broken"

    def collect(self, series: object, summary: object) -> list[Sample]:
        raise RuntimeError("no figures")


def test_a_failing_monitor_is_an_answer_and_a_log_line(
    serve: Callable[..., MetricsServer], caplog: pytest.LogCaptureFixture
) -> None:
    collector = SnapshotCollector([Broken()])  # type: ignore[list-item]
    collector.publish(Snapshot(counters={"broken": {None: None}}))  # type: ignore[dict-item]
    server = serve(collector=collector)
    assert ask(server).status == 500
    assert "no figures" in caplog.text
    assert ask(server, "/healthz").status == 200


def raw(server: MetricsServer, data: bytes) -> socket.socket:
    connection = socket.create_connection((server.host, server.port), timeout=20)
    connection.sendall(data)
    return connection


def read_all(connection: socket.socket) -> bytes:
    found = b""
    while piece := connection.recv(65536):
        found += piece
    return found


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET /metrics HTTP/9.9\r\n\r\n", b"505"),
        (b"GET /metrics HTTP/1.1\r\nX: " + b"y" * 16_400, b"431"),
        (b"\x16\x03\x01\x02\x00\x01 hello\r\n\r\n", b"400"),
    ],
)
def test_what_is_no_request_gets_an_error(
    serve: Callable[..., MetricsServer], data: bytes, status: bytes
) -> None:
    server = serve()
    with raw(server, data) as connection:
        assert status in read_all(connection).split(b"\r\n")[0]
    assert ask(server).status == 200


def test_a_client_that_hangs_up_harms_nobody(
    serve: Callable[..., MetricsServer], caplog: pytest.LogCaptureFixture
) -> None:
    server = serve()
    for data in (b"", b"GET", b"GET /metrics HTTP/1.1\r\n\r\n"):
        raw(server, data).close()
    assert ask(server).status == 200
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


def test_a_trickling_client_is_cut_off_at_the_deadline(serve: Callable[..., MetricsServer]) -> None:
    server = serve(timeout_seconds=0.5, max_connections=1)
    begun = time.monotonic()
    with raw(server, b"GET /metrics HTTP/1.1\r\n") as connection:
        connection.settimeout(0.05)
        ended = False
        while not ended and time.monotonic() - begun < 60:
            try:
                connection.sendall(b"X")
                ended = connection.recv(10) == b""
            except TimeoutError:
                continue
            except OSError:
                ended = True
        assert 0.4 < time.monotonic() - begun < 30, "each byte must not prolong the deadline"
    assert until_served(server).status == 200


def until_served(server: MetricsServer) -> Answer:
    """Ask until a slot is free again."""
    deadline = time.monotonic() + 60
    while (answer := ask(server)).status == 503:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return answer


def test_a_client_that_does_not_read_is_cut_off_at_the_deadline(serve: Callable[..., MetricsServer]) -> None:
    collector = SnapshotCollector([])
    collector.publish(Snapshot(own=[Sample(SERIES, (), 1.0)] * 1))
    collector.render = lambda *, openmetrics: b"x" * 64_000_000  # type: ignore[method-assign]
    server = serve(collector=collector, timeout_seconds=0.5, max_connections=1)
    with raw(server, b"GET /metrics HTTP/1.1\r\n\r\n") as connection:
        deadline = time.monotonic() + 60
        while ask(server, "/healthz").status == 503:
            assert time.monotonic() < deadline, "the slot was never freed"
            time.sleep(0.02)
        assert received(connection) < 64_000_000


def received(connection: socket.socket) -> int:
    """How many bytes still come before the connection ends, properly or not."""
    count = 0
    try:
        while piece := connection.recv(1 << 20):
            count += len(piece)
    except OSError:
        pass
    return count


def test_connections_beyond_the_bound_get_503_at_once_and_are_counted(
    serve: Callable[..., MetricsServer],
) -> None:
    server = serve(max_connections=2, timeout_seconds=20)
    idle = [raw(server, b"GET /metrics HTTP/1.1\r\n") for _ in range(2)]
    begun = time.monotonic()
    answer = ask(server)
    assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
    assert time.monotonic() - begun < 15
    assert server.refused == 1
    assert [(s.metric.name, s.value) for s in server.samples()] == [("mlmon_http_refused_connections", 1.0)]
    for connection in idle:
        connection.sendall(b"\r\n")
        assert read_all(connection).startswith(b"HTTP/1.1 200")
        connection.close()
    assert until_served(server).status == 200


def test_many_scrapes_at_once_are_all_answered(serve: Callable[..., MetricsServer]) -> None:
    server = serve(max_connections=32)
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(ask(server).status)) for _ in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert found == [200] * 24


def tls_config(certificates: Certificates, **more: Any) -> dict[str, Any]:
    return {"tls_cert_file": str(certificates.cert), "tls_key_file": str(certificates.key), **more}


def test_tls_at_least_1_2(serve: Callable[..., MetricsServer], certificates: Certificates) -> None:
    server = serve(**tls_config(certificates))
    assert server.url.startswith("https://")
    context = ssl.create_default_context(cafile=str(certificates.ca))
    assert ask(server, context=context).status == 200
    with pytest.raises(ssl.SSLError):
        ask(server, context=ssl.create_default_context())
    old = ssl.create_default_context(cafile=str(certificates.ca))
    old.set_ciphers("DEFAULT:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        old.minimum_version = ssl.TLSVersion.TLSv1
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionResetError)):
        ask(server, context=old)


def test_a_client_ca_lets_only_its_clients_in(
    serve: Callable[..., MetricsServer], certificates: Certificates
) -> None:
    server = serve(**tls_config(certificates, tls_client_ca_file=str(certificates.ca)))
    context = ssl.create_default_context(cafile=str(certificates.ca))
    with pytest.raises((ssl.SSLError, ConnectionError)):
        ask(server, context=context)
    context.load_cert_chain(certificates.client_cert, certificates.client_key)
    assert ask(server, context=context).status == 200


def test_a_silent_client_does_not_hold_up_tls_for_others(
    serve: Callable[..., MetricsServer], certificates: Certificates
) -> None:
    server = serve(**tls_config(certificates, timeout_seconds=20))
    context = ssl.create_default_context(cafile=str(certificates.ca))
    with raw(server, b""):
        begun = time.monotonic()
        assert ask(server, context=context).status == 200
        assert time.monotonic() - begun < 15


def test_a_key_of_another_certificate_is_refused(certificates: Certificates) -> None:
    config = HttpConfig(
        port=0, tls_cert_file=str(certificates.cert), tls_key_file=str(certificates.client_key)
    )
    with pytest.raises(ConfigError, match="expected PEM files that belong together"):
        MetricsServer(config, SnapshotCollector([]), lambda: WELL)


def test_ipv6_loopback(serve: Callable[..., MetricsServer], caplog: pytest.LogCaptureFixture) -> None:
    try:
        server = serve(host="::1")
    except ConfigError as error:
        pytest.skip(f"no IPv6 here: {error}")
    assert ask(server).status == 200
    assert server.url == f"http://[::1]:{server.port}"
    assert caplog.text == ""
