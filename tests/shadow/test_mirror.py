"""The mirror: budget, weights, bounds, redaction, privacy and retention; and what the tap gives it."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import stat
import threading
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import CollectorRegistry
from shadow_kit import PLENTY, START_US, event

from mlmon.attach import (
    Emitter,
    Mirror,
    MirrorConfig,
    MirrorFiles,
    MirrorRecord,
    MirrorSpoolConfig,
    MlmonMiddleware,
    SpoolSink,
    TapConfig,
    TapHooks,
    text_from,
)
from mlmon.attach.mirror_metrics import MirrorCollector
from mlmon.attach.mirror_spool import list_files, sweep
from mlmon.errors import ConfigError, SourceError
from mlmon.sources.spool_writer import SpoolWriterConfig
from mlmon.testing import ManualClock

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mlmon.clock import Clock


class Kept:
    """A sink in memory that can be held or made to fail."""

    def __init__(self) -> None:
        self.records: list[MirrorRecord] = []
        self.open = threading.Event()
        self.open.set()
        self.fails = False
        self.checked = 0

    def check(self) -> None:
        self.checked += 1

    def write(self, key: bytes, records: Sequence[bytes]) -> None:
        assert self.open.wait(30)
        if self.fails:
            raise SourceError("no room")
        assert key == b"shop/words"
        self.records += map(MirrorRecord.decoded, records)

    def sweep(self) -> int:
        return 0

    def close(self) -> None:
        pass

    def after_fork(self) -> None:
        pass


def mirror_of(sink: Any, clock: Clock | None = None, redact: Any = None, **bounds: Any) -> Mirror:
    return Mirror(sink, MirrorConfig(**bounds) if bounds else PLENTY, redact=redact, clock=clock)


def spool(root: Path, **more: Any) -> MirrorSpoolConfig:
    return MirrorSpoolConfig(directory=str(root / "mirror"), **more)


# --- budget


def test_the_budget_is_tokens_per_second_and_weights_add_up_to_the_traffic() -> None:
    clock, sink = ManualClock(), Kept()
    mirror = mirror_of(sink, clock, tokens_per_second=10.0, burst_tokens=20.0)
    kept = []
    for number in range(4_000):  # 400 s at 10 requests of 5 tokens a second, against 10 tokens a second
        kept.append(mirror.offer(event(number, tokens=5), "some words"))
        clock.advance(0.1)
    assert mirror.close(30)
    assert sum(kept) == len(sink.records)
    assert 5 * sum(kept) == pytest.approx(10 * 400 + 20, abs=10)
    last = max(number for number, was in enumerate(kept) if was)
    assert sum(record.sampling_weight for record in sink.records) == last + 1
    stats = mirror.stats()
    assert stats.offered == 4_000 == stats.passed_over + stats.written


def test_a_burst_is_sampled_more_thinly_and_weighs_more() -> None:
    clock, sink = ManualClock(), Kept()
    mirror = mirror_of(sink, clock, tokens_per_second=10.0, burst_tokens=10.0)
    for second in range(200):
        for _ in range(50 if second % 2 else 1):
            mirror.offer(event(second, tokens=5), "some words")
        clock.advance(1.0)
    assert mirror.close(30)
    burst = sum(r.sampling_weight for r in sink.records if int(r.event_id.removeprefix("r-")) % 2)
    calm = sum(r.sampling_weight for r in sink.records) - burst
    # what a burst leaves over is carried by the next request that is kept
    assert burst + calm == pytest.approx(200 / 2 * 51, rel=0.02)


def test_long_texts_are_as_likely_as_short_ones() -> None:
    clock, sink = ManualClock(), Kept()
    mirror = mirror_of(sink, clock, tokens_per_second=20.0, burst_tokens=50.0)
    lengths = [5 if (number * 7919) % 10 else 400 for number in range(20_000)]  # every tenth is long
    for number, tokens in enumerate(lengths):
        mirror.offer(event(number, tokens=tokens), "x")
        clock.advance(0.37)
    assert mirror.close(30)
    kept = [lengths[int(record.event_id.removeprefix("r-"))] for record in sink.records]
    assert len(kept) > 2_000
    assert sum(tokens == 400 for tokens in kept) / len(kept) == pytest.approx(0.1, abs=0.03)


def test_tokens_are_estimated_from_characters_where_they_are_not_known() -> None:
    clock, sink = ManualClock(), Kept()
    mirror = mirror_of(sink, clock, tokens_per_second=1.0, burst_tokens=100.0, characters_per_token=4.0)
    taken = [mirror.offer(event(number), "x" * 40) for number in range(30)]  # 10 tokens each
    assert taken == [True] * 10 + [False] * 20
    assert mirror.close(30)


def test_the_tap_s_weight_counts_too() -> None:
    clock, sink = ManualClock(), Kept()
    mirror = mirror_of(sink, clock, tokens_per_second=1.0, burst_tokens=1.0)
    taken = [mirror.offer(event(number, tokens=3, sampling_weight=10.0), "a b c") for number in range(4)]
    clock.advance(60)
    assert mirror.offer(event(4, tokens=3, sampling_weight=10.0), "a b c")
    assert mirror.close(30)
    assert taken == [True, False, False, False]
    assert [record.sampling_weight for record in sink.records] == [10.0, 40.0]


# --- bounds


def test_a_full_queue_takes_nothing_more_and_never_waits() -> None:
    sink = Kept()
    sink.open.clear()
    mirror = mirror_of(sink, tokens_per_second=1e6, burst_tokens=1e6, queue_records=5)
    taken = sum(mirror.offer(event(number), "a text") for number in range(300))
    assert 5 <= taken <= 5 + 64  # what the thread holds besides
    assert mirror.stats().full == 300 - taken
    sink.open.set()
    assert mirror.flush(30)
    assert mirror.offer(event(300), "a text")
    assert mirror.close(30)
    assert mirror.stats().written == taken + 1
    assert sum(record.sampling_weight for record in sink.records) == 301, "what was full is not stood for"
    assert not mirror.offer(event(301), "closed")


def test_bytes_are_bounded_and_long_texts_left_out() -> None:
    sink = Kept()
    sink.open.clear()
    mirror = mirror_of(
        sink, tokens_per_second=1e7, burst_tokens=1e8, queue_bytes=30_000, max_characters=5_000
    )
    assert not mirror.offer(event(0), "x" * 5_001)
    taken = sum(mirror.offer(event(number), "x" * 4_000) for number in range(1, 50))
    assert 1 <= taken <= 4
    sink.open.set()
    assert mirror.close(30)
    assert mirror.stats().too_long == 1
    assert sum(record.sampling_weight for record in sink.records) < 50, "others speak for the long one"


def test_what_cannot_be_written_is_dropped_and_counted() -> None:
    sink = Kept()
    sink.fails = True
    mirror = mirror_of(sink)
    for number in range(10):
        assert mirror.offer(event(number), "a text")
    assert mirror.flush(30)
    sink.fails = False
    assert mirror.offer(event(10), "a text")
    assert mirror.close(30)
    assert (mirror.stats().failed, mirror.stats().written) == (10, 1)


def test_replays_are_not_mirrored_again() -> None:
    sink = Kept()
    mirror = mirror_of(sink)
    assert not mirror.offer(event(0, deployment="shadow"), "a text")
    assert mirror.close(30)
    assert mirror.stats().offered == 0


def test_what_is_offered_wrongly_raises_nothing() -> None:
    mirror = mirror_of(Kept())
    assert mirror.offer(event(0), None) is False  # type: ignore[arg-type]
    assert mirror.close(30)


@pytest.mark.parametrize("bad", [{"tokens_per_second": 0.0}, {"queue_records": 0}, {"max_characters": -1}])
def test_a_configuration_in_code_is_checked(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"mirror cannot be configured.*{next(iter(bad))}"):
        mirror_of(Kept(), **bad)


# --- redaction


def test_redaction_comes_before_anything_is_stored(tmp_path: Path) -> None:
    def redact(text: str) -> str | None:
        if "secret" in text:
            return None
        if "broken" in text:
            raise ValueError(text)
        return text.replace("Alice", "NAME")

    mirror = mirror_of(MirrorFiles(spool(tmp_path)), redact=redact)
    for number, text in enumerate(("Alice is [MASK]", "a secret [MASK]", "a broken [MASK]")):
        assert mirror.offer(event(number), text, text.replace("[MASK]", "here"))
    assert mirror.close(30)
    (file,) = list_files(tmp_path / "mirror")
    (record,) = [MirrorRecord.decoded(line) for line in file.read_bytes().splitlines()]
    assert (record.text, record.sequence) == ("NAME is [MASK]", "NAME is here")
    stored = b"".join(path.read_bytes() for path in (tmp_path / "mirror").iterdir())
    assert not any(word in stored for word in (b"Alice", b"secret", b"broken"))
    assert mirror.stats().redacted == 2


# --- the directory


def test_only_the_owner_may_look_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        mirror = mirror_of(MirrorFiles(spool(tmp_path)))
        assert mirror.offer(event(0), "a text")
        assert mirror.close(30)
    finally:
        os.umask(before)
    root = tmp_path / "mirror"
    assert stat.S_IMODE(root.stat().st_mode) == 0o700
    assert [stat.S_IMODE(path.stat().st_mode) for path in root.iterdir()] == [0o600]


def test_a_directory_that_others_may_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mirror").mkdir(mode=0o755)
    (tmp_path / "mirror").chmod(0o755)
    with pytest.raises(ConfigError, match=r"expected mode 0700.*got 0755.*chmod 700"):
        mirror_of(MirrorFiles(spool(tmp_path)))
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be used"):
        mirror_of(MirrorFiles(MirrorSpoolConfig(directory=str(tmp_path / "file"))))


def test_nothing_outlives_the_retention_read_or_not(tmp_path: Path) -> None:
    clock = ManualClock()
    files = MirrorFiles(spool(tmp_path, retention_seconds=100.0), clock)
    files.check()
    born: dict[str, int] = {}
    for second in range(400):
        files.write(b"k", [json.dumps({"at": clock.now_us()}).encode()])
        files.sweep()
        clock.advance(1.0)
        for path in list_files(tmp_path / "mirror"):
            born.setdefault(path.name, second)
            oldest = json.loads(path.read_bytes().splitlines()[0])["at"]
            assert clock.now_us() - oldest <= 101e6
    assert len(born) > 30, "one file for all"
    clock.advance(99.0)
    assert files.sweep() > 0  # nothing is written any more
    clock.advance(100.0)
    files.sweep()
    assert list_files(tmp_path / "mirror") == []
    files.write(b"k", [b"{}"])  # its file was removed under it
    assert len(list_files(tmp_path / "mirror")) == 1
    files.close()


def test_an_idle_mirror_removes_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlmon.attach.mirror._SWEEP_SECONDS", 0.01)
    clock = ManualClock()
    mirror = mirror_of(MirrorFiles(spool(tmp_path, retention_seconds=60.0), clock))
    assert mirror.offer(event(0), "a text")
    assert mirror.flush(30)
    assert len(list_files(tmp_path / "mirror")) == 1
    clock.advance(61.0)
    deadline = threading.Event()
    for _ in range(2_000):
        if not list_files(tmp_path / "mirror"):
            break
        deadline.wait(0.01)
    assert list_files(tmp_path / "mirror") == []
    assert mirror.close(30)
    assert mirror.stats().swept == 1


def test_the_directory_is_bounded(tmp_path: Path) -> None:
    clock = ManualClock()
    config = spool(tmp_path, max_bytes=65_536)
    files = MirrorFiles(config, clock)
    files.check()
    for _ in range(300):
        files.write(b"k", [b"x" * 999])
        clock.advance(0.001)
    files.sweep()
    sizes = [path.stat().st_size for path in list_files(tmp_path / "mirror")]
    assert 32_768 < sum(sizes) <= 65_536
    assert sweep(config, clock.now_us()) == 0
    files.close()


def _child(mirror: Mirror, results: Any) -> None:
    for number in range(3):
        mirror.offer(event(100 + number), "of the child")
    results.put((mirror.close(30), mirror.stats().written))


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_worker_writes_a_file_of_its_own(tmp_path: Path) -> None:
    mirror = mirror_of(MirrorFiles(spool(tmp_path)))
    assert mirror.offer(event(0), "of the parent")
    assert mirror.flush(30)
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    child = context.Process(target=_child, args=(mirror, results))
    child.start()
    assert results.get(timeout=60) == (True, 3)
    child.join(30)
    assert mirror.offer(event(1), "of the parent")
    assert mirror.close(30)
    texts = [
        [MirrorRecord.decoded(line).text for line in path.read_bytes().splitlines()]
        for path in list_files(tmp_path / "mirror")
    ]
    assert sorted(map(tuple, texts)) == [("of the child",) * 3, ("of the parent",) * 2]


# --- the tap


def test_the_tap_mirrors_what_was_asked_and_answered_and_events_hold_no_text(tmp_path: Path) -> None:
    sink = Kept()
    mirror = mirror_of(sink)
    emitter = Emitter(SpoolSink(SpoolWriterConfig(str(tmp_path / "spool"))))

    async def app(scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        status = 500 if b"fail" in message["body"] else 200
        answer = [{"token_str": "like", "score": 0.5, "sequence": "I like tea"}]
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(answer).encode()})

    def extract(_request: Any, response: Any) -> dict[str, Any]:
        return {"prediction": response[0]["token_str"], "confidence": response[0]["score"]}

    hooks = TapHooks(text=text_from("inputs"), extract=extract, mirror=mirror)
    tapped = MlmonMiddleware(app, emitter, TapConfig(service="shop", model_name="words"), hooks)

    async def request(body: bytes, *headers: tuple[bytes, bytes]) -> None:
        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body}

        async def send(_message: Any) -> None:
            pass

        scope = {
            "type": "http",
            "method": "POST",
            "path": "/x",
            "headers": [(b"x-request-id", b"r-9"), *headers],
        }
        await tapped(scope, receive, send)

    for text in ("I [MASK] tea", "fail"):
        asyncio.run(request(json.dumps({"inputs": [text, "another"]}).encode()))
    replay = json.dumps({"inputs": "a replay"}).encode()
    asyncio.run(request(replay, (b"x-mlmon-lane", b"shadow")))
    assert emitter.close(30)
    assert mirror.close(30)
    (record,) = sink.records
    assert (record.event_id, record.text, record.sequence) == ("r-9", "I [MASK] tea", "I like tea")
    assert (record.prediction, record.confidence, record.sampling_weight) == ("like", 0.5, 1.0)
    assert record.event_time > START_US
    logged = b"".join(path.read_bytes() for path in (tmp_path / "spool").rglob("*") if path.is_file())
    assert b"r-9" in logged
    assert b"tea" not in logged


def test_counts_are_shown_to_prometheus() -> None:
    clock = ManualClock()
    mirror = mirror_of(Kept(), clock, tokens_per_second=1.0, burst_tokens=5.0)
    for number in range(4):
        mirror.offer(event(number, tokens=3), "a text")
    assert mirror.close(30)
    registry = CollectorRegistry()
    registry.register(MirrorCollector(mirror))
    shown = {
        outcome: registry.get_sample_value("mlmon_mirror_requests_total", {"outcome": outcome})
        for outcome in ("written", "passed_over", "full")
    }
    assert shown == {"written": 2, "passed_over": 2, "full": 0}
    assert registry.get_sample_value("mlmon_mirror_queue") == 0
