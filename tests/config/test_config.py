"""The one file of a sidecar: what it becomes, what it may not say, and what is written from it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec
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


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "[source.kafka]\n",
            r'source\.kafka: it is given, but source\.kind is "spool"; set source\.kind = "kafka"',
        ),
        ('source.kind = "kafka"\n[source.spool]\ndirectory = "x"', r"source\.spool: it is given"),
        ("[checkpoint.kafka]\n", r'checkpoint\.kafka: it is given, but checkpoint\.kind is "sqlite"'),
        ('source.kind = "kafka"\n[checkpoint.sqlite]\n', r"checkpoint\.sqlite: it is given"),
        ('source.kind = "replay"', r"source\.replay\.paths: missing; .*; add  paths = "),
        (
            '[source]\nkind = "kafka"\nkafka.topics = ["a", "mlmon-mlmon-state"]',
            r"source\.kafka\.topics = .*mlmon writes this topic itself \(checkpoint\.kafka\.state_topic\)",
        ),
        (
            '[source]\nkind = "kafka"\n[checkpoint.kafka]\nstate_topic = "x"\ndead_letter_topic = "x"',
            r"checkpoint\.kafka\.dead_letter_topic = \"x\": it is the state topic too",
        ),
        (
            '[source]\nkind = "kafka"\nkafka.sasl_mechanism = "PLAIN"',
            r"source\.kafka: sasl_mechanism PLAIN needs sasl_username",
        ),
        (
            '[source.spool]\ndirectory = "/a/b"\n[dead_letters]\ndirectory = "/a/./b/"',
            r"dead_letters\.directory = \"/a/./b/\": it is the spool directory",
        ),
        ('[http]\nusername = "a"', r"http: expected username with exactly one of"),
    ],
)
def test_choices_that_contradict_each_other_are_refused(text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        parse_config(text)


def test_a_table_without_its_required_key_keeps_the_default_of_the_whole() -> None:
    config = parse_config('[source.spool]\nstart = "latest"\n')
    assert config.source.spool.start == "latest"
    assert config.source.spool.directory == Config().source.spool.directory == "mlmon-data/spool"


def test_there_is_a_table_for_every_monitor() -> None:
    from mlmon.config import MonitorsConfig
    from mlmon.monitors import MONITORS

    fields = {f.name: f.type for f in msgspec.structs.fields(MonitorsConfig)}
    assert {name: entry.config for name, entry in MONITORS.items()} == {
        name: type_ for name, type_ in fields.items() if name != "enabled"
    }
    assert Config().monitors.enabled == tuple(MONITORS)
    assert list(Config().monitor_configs) == list(MONITORS)


def test_a_monitor_can_be_left_out() -> None:
    config = parse_config('[monitors]\nenabled = ["traffic"]\n')
    assert config.monitor_configs == {"traffic": Config().monitors.traffic}
    with pytest.raises(ConfigError, match=r'\["tokeniser"\]: expected a list of .*"tokenizer", "traffic"'):
        parse_config('[monitors]\nenabled = ["tokeniser"]\n')


def test_a_secret_in_the_wrong_place_is_not_shown() -> None:
    text = '[source]\nkind = "kafka"\n[source.kafka]\nsasl_password = "hunter2"\nsasl_user = "me"\n'
    with pytest.raises(ConfigError) as caught:
        parse_config(text)
    assert "did you mean `sasl_password_" in str(caught.value)
    assert "did you mean `sasl_username`" in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("loop.checkpoint_interval_seconds = 61", "61 is longer than windows.size_seconds = 60"),
        ('source.kind = "kafka"\ncheckpoint.kind = "sqlite"', "allows one sidecar only"),
        ('http.host = "0.0.0.0"', "without a password"),
        (
            '[source]\nkind = "kafka"\nkafka.sasl_mechanism = "PLAIN"\nkafka.sasl_username = "u"\n'
            'kafka.sasl_password_env = "P"',
            "the password and the events travel unencrypted",
        ),
    ],
)
def test_what_may_not_be_meant_is_said(text: str, told: str) -> None:
    (caution,) = cautions(parse_config(text))
    assert told in caution


@pytest.mark.parametrize(
    "text",
    [
        "",
        'source.kind = "kafka"',
        '[http]\nhost = "0.0.0.0"\nusername = "u"\npassword_env = "P"',
        '[source]\nkind = "kafka"\nkafka.tls = true\nkafka.sasl_mechanism = "PLAIN"\n'
        'kafka.sasl_username = "u"\nkafka.sasl_password_env = "P"',
    ],
)
def test_what_is_fine_is_not_spoken_of(text: str) -> None:
    assert cautions(parse_config(text)) == []
