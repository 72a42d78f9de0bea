"""A sample of texts for shadow evaluation: what is kept of requests, what is not, and when nothing is."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from server_kit import configured, process, read_metrics, run, sentences, talking
from test_process import options

from mlmon.attach.mirror_kafka import KafkaMirrorConfig
from mlmon.attach.mirror_record import MirrorRecord
from mlmon.attach.mirror_spool import list_files
from mlmon.cli.serve import _configured
from mlmon.errors import ConfigError
from mlmon.server.app import build_server
from mlmon.shadow.reading import KafkaMirrorReader

if TYPE_CHECKING:
    from pathlib import Path

    from server_kit import Made

    from mlmon.server.app import Server
    from mlmon.server.model import LoadedModel

#: Of three tokens.
TEXT = "the [MASK] sat"
#: A budget that nothing is too much for.
PLENTY = {"tokens_per_second": 1e6, "burst_tokens": 1e6}


def mirroring(loaded: LoadedModel, folder: Path, events: Any = None, **mirror: Any) -> Server:
    """A server with events in `folder/events` and a mirror in `folder/mirror`."""
    spool = {"kind": "spool", "spool": {"directory": str(folder / "events")}}
    place = {"kind": "spool", "spool": {"directory": str(folder / "mirror")}, "budget": PLENTY}
    return build_server(loaded, configured(events=spool | (events or {}), mirror=place | mirror))


def mirrored(folder: Path) -> dict[str, MirrorRecord]:
    """What is in the mirror, by id."""
    lines = [line for path in list_files(folder / "mirror") for line in path.read_bytes().splitlines()]
    records = [MirrorRecord.decoded(line) for line in lines]
    assert len({record.event_id for record in records}) == len(records)
    return {record.event_id: record for record in records}


def post(server: Server, *requests: tuple[str, Any, dict[str, str]]) -> list[httpx.Response]:
    """Send requests one after the other and end the server: so what is read then was written at its end."""

    async def work() -> list[httpx.Response]:
        async with talking(server) as client:
            return [await client.post(path, json=body, headers=headers) for path, body, headers in requests]

    found: list[httpx.Response] = run(work())
    return found


def of(server: Server, outcome: str) -> float:
    """What the server's own metrics say of its mirror."""
    found = server.registry.get_sample_value("mlmon_mirror_requests_total", {"outcome": outcome})
    assert found is not None
    return found


def test_a_text_is_kept_with_the_answer_that_was_given(bert: LoadedModel, tmp_path: Path) -> None:
    server = mirroring(bert, tmp_path, {"service": "search", "deployment": "canary", "top_k": 3})
    body = {"inputs": [TEXT, "another [MASK]"], "parameters": {"top_k": 5}}
    several = {"inputs": "[MASK] sat on the [MASK]"}
    plain, two = post(
        server,
        ("/fill-mask", body, {"x-request-id": "one"}),
        ("/fill-mask", several, {"x-request-id": "two"}),
    )
    records = mirrored(tmp_path)
    assert set(records) == {"one", "two"}
    one, best = records["one"], plain.json()[0]
    assert (one.text, one.sequence) == (TEXT, best[0]["sequence"])
    assert one.top_labels == [row["token_str"] for row in best[:3]]
    assert one.top_scores == pytest.approx([row["score"] for row in best[:3]], abs=1e-6)
    assert (one.service, one.deployment, one.task) == ("search", "canary", "fill-mask")
    assert one.model_version == server.serving.served.version
    assert records["two"].sequence == two.json()[0][0]["sequence"]
    assert of(server, "written") == 2
    assert server.registry.get_sample_value("mlmon_mirror_queue") == 0


def test_vectors_are_kept_where_events_carry_them(bert: LoadedModel, tmp_path: Path) -> None:
    server = mirroring(bert, tmp_path, {"embedding": "mean"})
    post(server, ("/embed", {"inputs": TEXT}, {"x-request-id": "vector"}))
    record = mirrored(tmp_path)["vector"]
    assert (record.text, record.task, record.sequence) == (TEXT, "embedding", None)
    assert len(record.embedding or ()) == bert.info.hidden_size


def test_replays_probes_and_what_has_no_answer_to_compare_are_left_out(
    bert: LoadedModel, tmp_path: Path
) -> None:
    server = mirroring(bert, tmp_path)
    mask = {"inputs": TEXT}
    answers = post(
        server,
        ("/fill-mask", mask, {"x-mlmon-lane": "shadow"}),
        ("/fill-mask", mask, {"x-mlmon-probe": "golden-1"}),
        ("/score", {"inputs": "the cat sat"}, {}),
        ("/tokenize", {"inputs": "the cat sat"}, {}),
        ("/v1/embeddings", {"input": [5, 6]}, {}),
        ("/fill-mask", {"inputs": "no mask"}, {}),
        ("/fill-mask", mask, {"x-request-id": "traffic"}),
    )
    assert [answer.status_code for answer in answers] == [200] * 5 + [422, 200]
    assert set(mirrored(tmp_path)) == {"traffic"}
    assert server.mirror is not None
    assert server.mirror.stats().offered == 1


def test_only_what_became_an_event_is_mirrored(bert: LoadedModel, tmp_path: Path) -> None:
    server = mirroring(bert, tmp_path, {"sample_rate": 0.5})
    texts = [f"{text} [MASK]" for text in sentences(60)]
    post(server, *(("/fill-mask", {"inputs": text}, {"x-request-id": text}) for text in texts))
    records = mirrored(tmp_path)
    assert 15 < len(records) < 45
    assert {record.sampling_weight for record in records.values()} == {2.0}, "each stands for two"


def test_the_budget_is_kept_to(bert: LoadedModel, tmp_path: Path) -> None:
    tight = {"tokens_per_second": 1e-6, "burst_tokens": 4.0}
    server = mirroring(bert, tmp_path, budget=tight)
    post(server, *(("/fill-mask", {"inputs": TEXT}, {"x-request-id": str(n)}) for n in range(10)))
    assert set(mirrored(tmp_path)) == {"0", "1"}, "the second overdraws it"
    assert (of(server, "written"), of(server, "passed_over")) == (2, 8)


def test_a_text_that_is_too_long_is_not_kept(bert: LoadedModel, tmp_path: Path) -> None:
    server = mirroring(bert, tmp_path, budget=PLENTY | {"max_characters": 20})
    post(
        server,
        ("/fill-mask", {"inputs": TEXT + " on the mat"}, {}),
        ("/fill-mask", {"inputs": TEXT}, {"x-request-id": "short"}),
    )
    assert set(mirrored(tmp_path)) == {"short"}
    assert of(server, "too_long") == 1


def test_without_a_mirror_no_text_is_kept(bert: LoadedModel, tmp_path: Path) -> None:
    server = mirroring(bert, tmp_path, kind="none")
    post(server, ("/fill-mask", {"inputs": "unbelievably [MASK] xyzzy"}, {"x-request-id": "one"}))
    assert server.mirror is None
    assert server.registry.get_sample_value("mlmon_mirror_queue") is None
    assert not (tmp_path / "mirror").exists()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files, "events are there"
    assert not any(b"xyzzy" in path.read_bytes() for path in files)


def test_a_process_mirrors_says_so_and_writes_all_when_it_is_stopped(
    models: dict[str, Made], tmp_path: Path
) -> None:
    spools = ("--events-spool", str(tmp_path / "events"), "--mirror-spool", str(tmp_path / "mirror"))
    with process("--model", str(models["bert"].directory), *spools) as server:
        for number in range(5):
            headers = {"x-request-id": str(number)}
            answer = httpx.post(f"{server.url}/fill-mask", json={"inputs": TEXT}, headers=headers, timeout=60)
            assert answer.status_code == 200
        seen = read_metrics(httpx.get(f"{server.url}/metrics", timeout=60).text)
        assert ("mlmon_mirror_requests_total", ("written",)) in seen
        assert server.end() == 0
    assert set(mirrored(tmp_path)) == {"0", "1", "2", "3", "4"}
    assert (tmp_path / "mirror").stat().st_mode & 0o777 == 0o700


@pytest.mark.kafka
def test_a_topic_may_be_the_mirror(bert: LoadedModel, tmp_path: Path, kafka_broker: Any) -> None:
    topic = f"mirror-{uuid.uuid4().hex[:8]}"
    kafka_broker.create_topic(topic, 1, {"retention.ms": "1800000", "segment.ms": "1800000"})
    place = {"bootstrap_servers": [kafka_broker.bootstrap], "topic": topic, "retention_seconds": 3600.0}
    server = mirroring(bert, tmp_path, kind="kafka", kafka=place)
    post(server, ("/fill-mask", {"inputs": TEXT}, {}))
    assert of(server, "written") == 1
    reader = KafkaMirrorReader(
        KafkaMirrorConfig(bootstrap_servers=(kafka_broker.bootstrap,), topic=topic, retention_seconds=3600.0),
        f"shadow-{topic}",
    )
    records: list[MirrorRecord] = []
    for _ in range(60):
        records += reader.poll(10, 1.0)
        if records:
            break
    reader.close()
    assert [record.text for record in records] == [TEXT]


def test_a_mirror_without_events_or_for_others_to_read_is_refused(bert: LoadedModel, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"mirror: expected events beside it.*--events-spool DIR"):
        _configured(None, options(model="m", mirror_spool="d"))
    file = tmp_path / "s.toml"
    file.write_text(
        '[server.events]\nkind = "spool"\n'
        '[server.mirror]\nkind = "kafka"\n[server.mirror.budget]\ntokens_per_second = 7\n'
    )
    config = _configured(str(file), options(events_spool="e", mirror_spool="d"))
    assert (config.events.spool.directory, config.mirror.spool.directory) == ("e", "d")
    assert (config.mirror.kind, config.mirror.budget.tokens_per_second) == ("spool", 7)
    (tmp_path / "mirror").mkdir(mode=0o755)
    with pytest.raises(ConfigError, match="expected mode 0700, since it holds raw texts, got 0755"):
        mirroring(bert, tmp_path)
