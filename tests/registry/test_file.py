"""The registry file: strict at first, patient later."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mlmon.errors import ConfigError
from mlmon.monitors.versions import Expected
from mlmon.registry.file import VersionRegistry

if TYPE_CHECKING:
    from collections.abc import Callable

GOOD = """
version = 1

[[expected]]
service = "search"
model = "intent"
model_version = "1"
tokenizer_digest = "dd"

[[expected]]
service = "search"
model = "intent"
deployment = "canary"
model_version = "2"
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "versions.toml"
    path.write_text(GOOD)
    return path


def replace(path: Path, text: str) -> None:
    """As a deployment does it: a new file renamed over the old one."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.rename(path)


def test_the_entry_of_the_deployment_wins_over_the_one_for_all(path: Path) -> None:
    registry = VersionRegistry(path)
    assert len(registry) == 2
    assert registry.expected("search", "intent", "canary") == Expected(model_version="2")
    everywhere = Expected(model_version="1", tokenizer_digest="dd")
    assert registry.expected("search", "intent", "stable") == everywhere
    assert registry.expected("search", "intent", "shadow") == everywhere
    assert registry.expected("search", "ranker", "stable") is None
    assert registry.expected("intent", "search", "stable") is None


def test_json_of_the_same_shape_says_the_same(path: Path) -> None:
    entries = [
        {"service": "search", "model": "intent", "model_version": "1", "tokenizer_digest": "dd"},
        {"service": "search", "model": "intent", "deployment": "canary", "model_version": "2"},
    ]
    other = path.with_suffix(".json")
    other.write_text(json.dumps({"version": 1, "expected": entries}))
    first, second = VersionRegistry(path), VersionRegistry(other)
    for deployment in ("stable", "canary"):
        found = second.expected("search", "intent", deployment)
        assert found is not None
        assert found == first.expected("search", "intent", deployment)


def test_the_example_in_the_documentation_is_valid(tmp_path: Path) -> None:
    text = VersionRegistry.__module__
    source = Path(__import__(text, fromlist=["x"]).__file__).read_text()
    block = source.split("shape where the name ends in `.json`:\n")[1].split("\nReplace the file")[0]
    example = tmp_path / "example.toml"
    example.write_text("\n".join(line.removeprefix("    ") for line in block.splitlines()))
    found = VersionRegistry(example).expected("search", "intent", "stable")
    assert found is not None
    assert all(found.parts())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", r"versions.toml.*missing required field `version`"),
        ("version = 2\nexpected = []", r"enum|version"),
        ("version = 1", r"missing required field `expected`"),
        ("version = 1\nexpected = 5", r"Expected `array`.*\$\.expected"),
        ("version = 1\nexpeted = []\nexpected = []", r"unknown field `expeted`"),
        (GOOD.replace("model_version", "modelversion"), r"unknown field `modelversion`.*\$\.expected"),
        (GOOD.replace('"canary"', '"canarie"'), r"canarie"),
        (GOOD.replace('"1"', "1"), r"Expected `str \| null`, got `int`.*model_version"),
        (GOOD.replace('"1"', '""'), r"length >= 1.*model_version"),
        (GOOD.replace('deployment = "canary"\n', ""), r"entry 2 \(search, intent\).*expected one entry"),
        (GOOD.replace('model_version = "2"', ""), r"entry 2 \(search, intent, canary\).*at least one of"),
        (GOOD.replace("[[", "[[["), r"expected TOML, got"),
        ("\x00\x01", r"expected TOML, got"),
        ("#" * (4 * 1024 * 1024 + 1), r"expected at most 4194304 bytes"),
    ],
)
def test_a_first_file_that_is_wrong_says_what_and_where(path: Path, text: str, words: str) -> None:
    path.write_text(text)
    with pytest.raises(ConfigError, match=words) as caught:
        VersionRegistry(path)
    assert str(path) in str(caught.value)


TRAINED = """
[[training]]
service = "search"
model = "intent"
finished = 2026-11-03T04:12:00Z
succeeded = false
"""


def test_how_the_last_training_ended_is_published(path: Path) -> None:
    replace(path, GOOD + TRAINED)
    registry = VersionRegistry(path)
    said = {sample.metric.name: sample for sample in registry.samples()}
    failed, finished = said["mlmon_training_failed"], said["mlmon_training_timestamp_seconds"]
    assert (failed.labels, failed.value) == (("search", "intent"), 1.0)
    assert finished.value == 1_793_679_120.0
    replace(path, GOOD + TRAINED.replace("false", "true"))
    assert registry.refresh() is False, "no other version is expected"
    assert {s.metric.name: s.value for s in registry.samples()}["mlmon_training_failed"] == 0.0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (TRAINED + TRAINED, r"training \(search, intent\): expected the last run alone, got 2"),
        (TRAINED.replace("T04:12:00Z", "T04:12:00"), "timezone"),
        (TRAINED.replace("succeeded = false", ""), "succeeded"),
        (TRAINED.replace("false", '"no"'), "bool"),
    ],
)
def test_a_training_that_is_wrong_says_what(path: Path, text: str, words: str) -> None:
    replace(path, GOOD + text)
    with pytest.raises(ConfigError, match=words):
        VersionRegistry(path)


def test_a_first_file_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"none.toml.*No such file.*create it, or remove registry.versions_file"
    ):
        VersionRegistry(tmp_path / "none.toml")
    broken = tmp_path / "x.json"
    broken.write_bytes(b"[" * 100_000)
    with pytest.raises(ConfigError, match="expected JSON, got"):
        VersionRegistry(broken)


def test_what_is_not_text_is_refused(path: Path) -> None:
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="expected TOML, got"):
        VersionRegistry(path)


def test_an_unchanged_file_is_not_read_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = VersionRegistry(path)

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr(Path, "open", fail)
    assert [registry.refresh() for _ in range(3)] == [False] * 3
    assert registry.reloads == 0


def rewrite(path: Path, text: str) -> None:
    """In place, same size and same time as far as the clock can tell: only the time set here differs."""
    before = path.stat().st_mtime_ns
    path.write_text(text)
    os.utime(path, ns=(before + 1, before + 1))


def rename_with_equal_times(path: Path, text: str) -> None:
    before = path.stat().st_mtime_ns
    new = path.with_suffix(".new")
    new.write_text(text)
    os.utime(new, ns=(before, before))
    new.rename(path)


@pytest.mark.parametrize("change", [replace, rewrite, rename_with_equal_times])
def test_a_changed_file_takes_effect(path: Path, change: Callable[[Path, str], None]) -> None:
    registry = VersionRegistry(path)
    change(path, GOOD.replace('"2"', '"3"'))
    assert registry.refresh() is True
    assert registry.expected("search", "intent", "canary") == Expected(model_version="3")
    assert (registry.reloads, registry.failures, registry.error) == (1, 0, "")
    assert registry.refresh() is False


def test_a_touched_file_with_the_same_content_changes_nothing(path: Path) -> None:
    registry = VersionRegistry(path)
    replace(path, GOOD + "# a remark\n")
    assert registry.refresh() is False
    assert registry.reloads == 1


def test_a_broken_file_keeps_the_old_one_and_is_reported_once(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    registry = VersionRegistry(path)
    replace(path, "version = 1\n[[expected")
    assert [registry.refresh() for _ in range(3)] == [False] * 3
    assert registry.expected("search", "intent", "canary") == Expected(model_version="2")
    assert "expected TOML" in registry.error
    assert registry.failures == 1
    assert len(caplog.records) == 1
    assert "stays in force" in caplog.text
    samples = {(s.metric.name, *s.labels): s.value for s in registry.samples()}
    assert samples == {
        ("mlmon_registry_reloads", "ok"): 0.0,
        ("mlmon_registry_reloads", "refused"): 1.0,
        ("mlmon_registry_entries",): 2.0,
    }
    replace(path, GOOD.replace('"2"', '"3"'))
    assert registry.refresh() is True
    assert registry.error == ""


def test_a_file_that_goes_away_and_comes_back(path: Path) -> None:
    registry = VersionRegistry(path)
    aside = path.with_suffix(".aside")
    path.rename(aside)
    assert [registry.refresh() for _ in range(3)] == [False] * 3
    assert "No such file" in registry.error
    assert registry.failures == 1
    assert registry.expected("search", "intent", "canary") == Expected(model_version="2")
    aside.rename(path)
    assert registry.refresh() is False, "the same content is in force"
    assert registry.error == ""
    assert registry.reloads == 1
