"""The live demo as a user runs it, shortened; and its parts."""

from __future__ import annotations

import http.client
import importlib.util
import io
import random
import re
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from mlmon.demo import live_figures
from mlmon.demo.door import Door
from mlmon.demo.live import LiveOutcome, run_live_demo
from mlmon.demo.live_figures import ALERT, Alert, LiveFigures, read_figures
from mlmon.demo.live_screen import LiveScreen
from mlmon.demo.live_traffic import Questions, masked, sentences
from mlmon.demo.live_weights import MODEL, export_rounded
from mlmon.demo.story import Options
from mlmon.errors import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Iterator

RULES = Path(__file__).parents[2] / "alerts" / "rules" / "slo-reference-agreement.yml"


@pytest.mark.slow
def test_the_live_demo_pages_for_the_swap_by_answers_alone(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mlmon.cli", "demo", "--live", "--seconds", "4", "--port", "0"]
    done = subprocess.run(
        [*command, "--no-stay"], capture_output=True, text=True, timeout=280, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout
    assert "everything was seen" in said
    assert "=> no page. Agreement with the reference: 100.00 %" in said
    assert re.search(r"=> PAGE after [\d.]+ s: MlmonErrorBudgetBurnCritical of reference-agreement", said)
    assert re.search(r"0 errors, [\d.]+ % within 200 ms, 0\.00 % on undeclared versions", said)
    assert re.search(r"found: agreement: [\d.]+% of \d+ replayed requests, target 90\.0%", said)
    assert re.search(r"=> over after [\d.]+ s: no page, agreement (100\.00|9[789]\.\d\d) %", said)
    assert re.search(r" 0 failed, [\d,]+ replayed, 0 dead letters, 0 false pages", said)


def test_without_the_extra_the_live_demo_names_the_line_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else find(name))
    with pytest.raises(MissingExtraError, match=r'pip install "mlmon\[server\]"'):
        run_live_demo(Options())


# what is called a success


def figures(**values: Any) -> LiveFigures:
    """A scrape in which all is well."""
    quiet: dict[str, Any] = {
        "at": 0.0,
        "requests": 900.0,
        "errors": 0.0,
        "mismatch_ratio": 0.0,
        "fast_ratio": 0.99,
        "lag_seconds": 0.0,
        "dead_letters": 0.0,
        "replayed": 300.0,
        "agreement": 1.0,
        "overlap": 1.0,
        "divergence": 0.0,
        "masked_ratio": 0.3,
        "burn": 0.0,
        "burn_lower": 0.0,
        "judged": 200.0,
    }
    return LiveFigures(**quiet | values)


def outcome(**values: Any) -> LiveOutcome:
    wrong = figures(agreement=0.3, burn=7.0, burn_lower=4.0, page=True)
    seen = LiveOutcome(figures(), 0, wrong, found=12.0, closed=9.0, last=figures(), failed=0)
    return seen._replace(**values)


def test_a_swap_that_was_found_and_repaired_is_seen() -> None:
    assert outcome().seen


@pytest.mark.parametrize(
    "wrong",
    [
        {"found": None},
        {"closed": None},
        {"early": 1},
        {"failed": 1},
        {"healthy": figures(agreement=0.9)},
        {"healthy": figures(agreement=None)},
        {"last": figures(agreement=0.5)},
        {"last": figures(errors=1.0)},
        {"last": figures(dead_letters=1.0)},
        {"wrong": figures(mismatch_ratio=1.0)},
        {"wrong": figures(mismatch_ratio=None)},
    ],
)
def test_anything_else_is_not(wrong: dict[str, Any]) -> None:
    assert not outcome(**wrong).seen


# figures and the alert

_METRICS = """\
# TYPE mlmon_requests_total counter
mlmon_requests_total{deployment="stable",status="ok"} 90
mlmon_requests_total{deployment="stable",status="error"} 2
mlmon_requests_total{deployment="shadow",status="error"} 50
# TYPE mlmon_shadow_agreement_ratio gauge
mlmon_shadow_agreement_ratio{deployment="stable"} 0.25
# TYPE mlmon_slo_burn_rate gauge
mlmon_slo_burn_rate{slo="masked-token-accuracy",window="1h"} 1.6
mlmon_slo_burn_rate{slo="masked-token-accuracy",window="6h"} 1.1
mlmon_slo_burn_rate{slo="reference-agreement",window="5m"} 7.5
mlmon_slo_burn_rate{slo="reference-agreement",window="1h"} 4
mlmon_slo_burn_rate_lower{slo="reference-agreement",window="1h"} 3.5
mlmon_slo_effective_events{slo="reference-agreement",window="1h"} 50
"""


def test_a_scrape_counts_no_replays_and_reads_the_windows_of_the_alert() -> None:
    samples = [s for family in text_string_to_metric_families(_METRICS) for s in family.samples]
    found = read_figures(samples, 1.0)
    assert (found.requests, found.errors, found.agreement) == (92, 2, 0.25)
    assert found.masked_ratio == pytest.approx(1 - 1.6 * 0.45)
    assert (found.burn, found.burn_lower, found.judged) == (7.5, 3.5, 50)
    assert (found.fast_ratio, found.mismatch_ratio) == (None, None)
    assert found.burning


@pytest.mark.parametrize(
    "less", [{"burn": 3.0}, {"burn_lower": 3.0}, {"judged": 49.0}, {"burn": None}, {"burn_lower": None}]
)
def test_the_alert_asks_for_both_windows_and_enough_replays(less: dict[str, Any]) -> None:
    burning = figures(burn=7.0, burn_lower=3.1, judged=50.0)
    assert burning.burning
    assert not burning._replace(**less).burning


def test_the_page_is_the_one_that_ships() -> None:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    (rule,) = (rule for group in groups for rule in group["rules"] if rule.get("alert") == ALERT)
    slo = 'slo="reference-agreement"'
    assert rule["expr"].split("\nand\n") == [
        f"mlmon_slo:burn_rate_lower:1h{{{slo}}} > {live_figures.PAGE_BURN:.0f}",
        f"mlmon_slo:burn_rate:5m{{{slo}}} > {live_figures.PAGE_BURN:.0f}",
        f"mlmon_slo:events:1h{{{slo}}} >= {live_figures.PAGE_EVENTS:.0f}",
    ]
    assert rule["labels"]["severity"] == "page"
    assert (rule["for"], rule["keep_firing_for"]) == ("1m", "15m")
    assert (live_figures.PAGE_FOR, live_figures.PAGE_KEEP) == (60, 900)


def test_an_alert_waits_fires_once_and_lasts_a_while() -> None:
    alert = Alert(time_scale=60)
    moments = [(0.0, True), (0.9, True), (1.0, False), (2.0, True), (3.0, True), (10.0, False), (12.0, True)]
    assert [alert.evaluate(at, burning=b) for at, b in moments] == [False] * 4 + [True] * 3
    assert alert.fired == 1, "a gap shorter than it lasts is the same page"
    assert [alert.evaluate(at, burning=False) for at in (26.9, 27.0)] == [True, False]
    assert [alert.evaluate(at, burning=True) for at in (30.0, 31.0)] == [False, True]
    assert alert.fired == 2


def test_the_board_shows_what_is_watched_on_a_terminal_and_elsewhere() -> None:
    for terminal in (False, True):
        out = io.StringIO()
        with LiveScreen(Console(file=out, force_terminal=terminal, width=140)) as screen:
            screen.show(figures(agreement=0.25, masked_ratio=0.17, burn_lower=4.2, burn=6.8, page=True))
        assert "25.00 %" in out.getvalue()
        assert "17.00 %" in out.getvalue()
        assert "4.2" in out.getvalue()
        assert ("agreement with the reference" in out.getvalue()) is terminal
        assert ("6.8" in out.getvalue()) is terminal


# weights, sentences, the door


def test_the_other_weights_differ_in_their_matrices_alone(tmp_path: Path) -> None:
    export_rounded(MODEL, tmp_path / "m", bits=4)
    for path in MODEL.iterdir():
        same = (tmp_path / "m" / path.name).read_bytes() == path.read_bytes()
        assert same is (path.name != "model.safetensors")
    right, wrong = (load_file(folder / "model.safetensors") for folder in (MODEL, tmp_path / "m"))
    assert right.keys() == wrong.keys()
    for name, tensor in right.items():
        assert (tensor.shape, tensor.dtype) == (wrong[name].shape, wrong[name].dtype)
        if tensor.ndim == 2:
            assert len(np.unique(wrong[name].astype(np.float64))) <= 15
            error = np.abs(wrong[name].astype(np.float64) - tensor)
            assert error.max() <= np.abs(tensor).max() / 14 * 1.01, "to the nearest level"
        else:
            assert np.array_equal(tensor, wrong[name])


def test_every_sentence_fits_the_model_whichever_word_is_masked() -> None:
    texts = sentences()
    assert len(texts) > 1000
    tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    rng = random.Random(5)  # noqa: S311 - texts, not secrets
    asked = [masked(text, rng) for text in texts]
    assert max(len(encoded.ids) for encoded in tokenizer.encode_batch(asked)) <= 128
    assert all(text.count("[MASK]") == 1 for text in asked)
    assert len({masked(texts[0], rng) for _ in range(50)}) >= 6


class _Echo(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        posted = self.rfile.read(int(self.headers["content-length"]))
        self.server.posted.append((self.path, posted))  # type: ignore[attr-defined]
        answer = f"{self.server.server_port}".encode()  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_args: object) -> None:
        pass


@contextmanager
def server() -> Iterator[tuple[int, list[tuple[str, bytes]]]]:
    """A server on loopback that answers its own port; yields that, and what was posted."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Echo) as running:
        running.daemon_threads = True
        running.posted = []  # type: ignore[attr-defined]
        thread = threading.Thread(target=running.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield running.server_port, running.posted  # type: ignore[attr-defined]
        finally:
            running.shutdown()
            thread.join()


def test_questions_are_sentences_with_a_mask_to_fill() -> None:
    with server() as (port, posted):
        traffic = Questions(["return the number of bytes written"], lambda: port, 400.0)
        traffic.start()
        waited = threading.Event()
        while traffic.answered < 5:
            assert not waited.wait(0.01)
            assert not traffic.failed
        traffic.stop()
    assert all(path == "/fill-mask" and body.count(b"[MASK]") == 1 for path, body in posted)


def test_a_door_leads_to_where_the_service_is() -> None:
    def ask(connection: http.client.HTTPConnection) -> int:
        connection.request("POST", "/x", b"y" * 200_000)
        return int(connection.getresponse().read())

    with server() as (first, early), server() as (second, late):
        where = [first]
        door = Door(lambda: where[0])
        old, new, gone = (http.client.HTTPConnection("127.0.0.1", door.port, timeout=10) for _ in range(3))
        try:
            assert (ask(old), ask(old)) == (first, first)
            where[0] = second
            assert ask(new) == second
            with pytest.raises((http.client.HTTPException, OSError)):
                ask(old)
            old.close()
            assert ask(old) == second, "sent again it goes where the service is now"
            where[0] = 1  # nobody listens there
            with pytest.raises((http.client.HTTPException, OSError)):
                ask(gone)
        finally:
            for connection in (old, new, gone):
                connection.close()
            door.close()
    assert [len(body) for _, body in early] == [len(body) for _, body in late] == [200_000] * 2
