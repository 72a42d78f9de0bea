"""The one file of a sidecar: what it becomes, what it may not say, and what is written from it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from mlmon.config import Config, cautions, default_toml, load_config, parse_config, reference_markdown
from mlmon.config.describe import sections
from mlmon.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from mlmon.config import SourceKind


def test_an_empty_file_is_a_configuration() -> None:
    config = parse_config("")
    assert config == Config()
    assert (config.source.kind, config.checkpoint_kind) == ("spool", "sqlite")


@pytest.mark.parametrize("source", ["spool", "kafka", "replay"])
def test_what_init_writes_is_a_configuration_with_the_defaults(source: SourceKind) -> None:
    text = default_toml(source)
    config = parse_config(text)
    assert config.source.kind == source
    assert config.windows == Config().windows
    assert config.series == Config().series
    assert config.checkpoint == Config().checkpoint


@pytest.mark.parametrize("source", ["spool", "kafka", "replay"])
def test_what_init_writes_has_every_key(source: SourceKind) -> None:
    text = default_toml(source)
    for section in sections(Config):
        for key in section.keys:
            assert re.search(rf"(?m)^(# )?{key.name} = ", text), (section.path, key.name)


def test_every_key_is_described_with_its_unit() -> None:
    for section in sections(Config):
        for key in section.keys:
            place = (*section.path, key.name)
            assert key.description, f"{place} has no description"
            assert key.description.rstrip().endswith((".", "?")), f"{place}: {key.description!r}"


def test_the_reference_names_every_key() -> None:
    text = reference_markdown()
    for section in sections(Config):
        for key in section.keys:
            assert f"| `{key.name}` |" in text, (section.path, key.name)


def test_a_file_is_read_and_named_in_messages(tmp_path: Path) -> None:
    path = tmp_path / "mlmon.toml"
    path.write_text("[windows]\nsize_seconds = 10\n", encoding="utf-8")
    assert load_config(path).windows.size_seconds == 10
    path.write_text("[windows]\nsize_seconds = 'x'\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=re.escape(str(path))):
        load_config(path)


def test_a_file_that_cannot_be_read_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file; write one with  mlmon init"):
        load_config(tmp_path / "absent.toml")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path)
    (tmp_path / "latin.toml").write_bytes(b'a = "\xe9"')
    with pytest.raises(ConfigError, match="expected UTF-8, got something else at byte 5"):
        load_config(tmp_path / "latin.toml")


def test_a_kafka_checkpoint_needs_a_kafka_source() -> None:
    with pytest.raises(ConfigError, match=r'checkpoint\.kind = "kafka": .* source\.kind is "spool"; set '):
        parse_config('checkpoint.kind = "kafka"')


def test_cautions() -> None:
    assert cautions(Config()) == []
    (caution,) = cautions(parse_config("checkpoint.interval_seconds = 61"))
    assert "checkpoint.interval_seconds = 61 is longer than windows.size_seconds = 60" in caution
