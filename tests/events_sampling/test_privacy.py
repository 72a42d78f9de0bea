"""The keyed hash of an input."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlmon.errors import ConfigError
from mlmon.events.privacy import InputHasher, PrivacyConfig

if TYPE_CHECKING:
    from pathlib import Path

KEY = b"0123456789abcdef"
TEXTS = st.lists(st.text(), max_size=4)


@given(TEXTS, TEXTS)
def test_equal_hashes_mean_equal_inputs(one: list[str], other: list[str]) -> None:
    hasher = InputHasher(KEY)
    assert (hasher.hash(one) == hasher.hash(other)) == (one == other)


@given(TEXTS)
def test_another_key_gives_another_hash(texts: list[str]) -> None:
    assert InputHasher(KEY).hash(texts) != InputHasher(KEY[::-1]).hash(texts)


def test_it_is_keyed_blake2b() -> None:
    framed = (3).to_bytes(8, "big") + b"abc"
    expected = hashlib.blake2b(framed, key=KEY, digest_size=16, person=b"mlmon-input-v1").hexdigest()
    assert InputHasher(KEY).hash(["abc"]) == expected


def test_key_from_environment_and_from_file_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "key"
    path.write_bytes(KEY + b"\n")
    monkeypatch.setenv("MLMON_KEY", KEY.decode())
    by_env = InputHasher.from_config(PrivacyConfig(hash_key_env="MLMON_KEY"))
    by_file = InputHasher.from_config(PrivacyConfig(hash_key_file=str(path)))
    assert by_env.hash(["x"]) == by_file.hash(["x"]) == InputHasher(KEY).hash(["x"])


def test_without_a_key_each_hasher_has_its_own() -> None:
    one, other = (InputHasher.from_config(PrivacyConfig()) for _ in range(2))
    assert one.hash(["x"]) == one.hash(["x"])
    assert one.hash(["x"]) != other.hash(["x"])


def test_bad_keys_are_refused_without_being_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLMON_KEY", "short-secret")
    monkeypatch.delenv("MLMON_ABSENT", raising=False)
    for config in (
        PrivacyConfig(hash_key_env="MLMON_KEY"),
        PrivacyConfig(hash_key_env="MLMON_ABSENT"),
        PrivacyConfig(hash_key_file=str(tmp_path / "absent")),
        PrivacyConfig(hash_key_env="MLMON_KEY", hash_key_file="x"),
    ):
        with pytest.raises(ConfigError) as caught:
            InputHasher.from_config(config)
        assert "short-secret" not in str(caught.value)
