"""Every mistake of a file is found at once, and told by key, value, reason and remedy, without secrets."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlmon.config.problems import is_secret
from mlmon.config.reader import read_toml
from mlmon.errors import ConfigError


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[limits]`: bounds."""

    timeout_seconds: Annotated[int, msgspec.Meta(ge=1, le=600, description="How long.")] = 60
    memory_bytes: Annotated[int, msgspec.Meta(ge=1024, description="How much.")] = 1 << 20
    sample_ratio: Annotated[float, msgspec.Meta(ge=0, le=1, description="What part.")] = 1.0
    bounds: tuple[float, ...] = (0.1, 1.0)


class Login(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[login]`: who."""

    user: Annotated[str, msgspec.Meta(description="Who.")]
    mechanism: Literal["PLAIN", "SCRAM"] = "PLAIN"
    password_env: str | None = None
    password_file: str | None = None
    address: str = ""

    def __post_init__(self) -> None:
        if self.password_env and self.password_file:
            raise ValueError(
                f"password_env {self.password_env} and password_file are both set; remove one of them"
            )


class Root(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All."""

    limits: Limits = Limits()
    login: Login | None = None
    named: dict[str, Limits] = {}
    rows: tuple[Limits, ...] = ()
    verbose: bool = False


def refuse(text: str) -> list[str]:
    """The problems of a file, one line each."""
    with pytest.raises(ConfigError) as caught:
        read_toml(text, Root, "f.toml")
    message = str(caught.value)
    assert message.startswith("f.toml: ")
    if "\n" not in message:
        return [message.removeprefix("f.toml: ")]
    return [line.removeprefix("  - ") for line in message.splitlines()[1:]]


def test_a_good_file_becomes_objects() -> None:
    config = read_toml(
        """
        verbose = true
        [limits]
        timeout_seconds = 5
        sample_ratio = 1
        bounds = [1, 2.5]
        [login]
        user = "a"
        [named.x]
        timeout_seconds = 7
        [[rows]]
        timeout_seconds = 8
        """,
        Root,
        "f.toml",
    )
    assert config == Root(
        limits=Limits(timeout_seconds=5, sample_ratio=1.0, bounds=(1.0, 2.5)),
        login=Login(user="a"),
        named={"x": Limits(timeout_seconds=7)},
        rows=(Limits(timeout_seconds=8),),
        verbose=True,
    )


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('limits.timeout_seconds = "60s"', "write  timeout_seconds = 60"),
        ('limits.timeout_seconds = "2 minutes"', "write  timeout_seconds = 120"),
        ('limits.timeout_seconds = "60"', "write  timeout_seconds = 60"),
        ("limits.timeout_seconds = 60.0", "write  timeout_seconds = 60"),
        ('limits.memory_bytes = "10MB"', "write  memory_bytes = 10000000"),
        ('limits.memory_bytes = "1 MiB"', "write  memory_bytes = 1048576"),
        ('limits.sample_ratio = "5%"', "write  sample_ratio = 0.05"),
        ("limits.bounds = 0.5", "write  bounds = [0.5]"),
        ('verbose = "yes"', "write  verbose = true"),
        ('login = {user = "a", mechanism = "plain"}', 'write  mechanism = "PLAIN"'),
        ('login = {user = ["a"]}', "expected text, got a list"),
    ],
)
def test_a_wrong_type_or_unit_is_told_with_what_to_write(line: str, told: str) -> None:
    (problem,) = refuse(line)
    assert told in problem
    key = line.split(" = {")[0].split(" = ")[0]
    assert problem.startswith(key)


@pytest.mark.parametrize(
    ("line", "wanted", "shown"),
    [
        ("limits.timeout_seconds = 0", "a whole number of seconds from 1 to 600", "= 0:"),
        ("limits.timeout_seconds = 601", "a whole number of seconds from 1 to 600", "= 601:"),
        ('limits.timeout_seconds = "11m"', "a whole number of seconds from 1 to 600", '= "11m":'),
        ("limits.memory_bytes = 12", "a whole number of bytes, 1024 or more", "= 12:"),
        ("limits.sample_ratio = 1.5", "a number from 0 to 1", "= 1.5:"),
        ("limits.sample_ratio = nan", "a number from 0 to 1", "= NaN:"),
        (
            'limits.bounds = [1.0, "x"]',
            "a list of numbers ([1]: expected `float`, got `str`)",
            '= [1.0, "x"]:',
        ),
        (
            "limits.timeout_seconds = 2026-01-01",
            "a whole number of seconds from 1 to 600, got a date",
            "2026",
        ),
    ],
)
def test_an_impossible_value_is_told_with_its_range(line: str, wanted: str, shown: str) -> None:
    (problem,) = refuse(line)
    assert f"expected {wanted}" in problem
    assert shown in problem
    assert "correct it" in problem


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("limits.timeot_seconds = 5", "did you mean `timeout_seconds`?"),
        ("limits.timeout = 5", "did you mean `timeout_seconds`? It is given in seconds."),
        ("limits.timeout_ms = 5", "did you mean `timeout_seconds`? It is given in seconds."),
        ("limits.TimeoutSeconds = 5", "did you mean `timeout_seconds`?"),
        ("limit.timeout_seconds = 5", "did you mean `limits`?"),
        ("timeout_seconds = 5", "it belongs elsewhere: `limits.timeout_seconds`"),
        ("limits.zzz = 5", "the keys known here are: timeout_seconds, memory_bytes, sample_ratio, bounds"),
        ("named.a.timeot_seconds = 5", "did you mean `timeout_seconds`?"),
    ],
)
def test_an_unknown_key_is_told_with_what_was_probably_meant(line: str, meant: str) -> None:
    (problem,) = refuse(line)
    assert "unknown key" in problem
    assert meant in problem


def test_every_problem_is_told_at_once() -> None:
    problems = refuse(
        """
        verbos = true
        [limits]
        timeout_seconds = "x"
        memory_bytes = -1
        [login]
        mechanism = "OAUTH"
        [named.a]
        timeout = 1
        [[rows]]
        [[rows]]
        sample_ratio = 2
        """
    )
    assert [problem.split(" = ")[0].split(":")[0] for problem in problems] == [
        "verbos",
        "limits.timeout_seconds",
        "limits.memory_bytes",
        "login.mechanism",
        "login.user",
        "named.a.timeout",
        "rows[1].sample_ratio",
    ]


def test_a_missing_key_is_told_with_what_it_is() -> None:
    (problem,) = refuse("[login]\n")
    assert problem == "login.user: missing; expected text (Who); add  user = …"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("limits = 3", "expected a table, got a whole number; write its keys under [limits]"),
        ("named = 3", "expected tables, got a whole number; write each under [named.NAME]"),
        ("rows = {}", "expected tables, got a table; write each under [[rows]]"),
        ("named.a = 3", "expected a table, got a whole number; write its keys under [named.a]"),
    ],
)
def test_a_value_where_a_table_belongs(text: str, told: str) -> None:
    (problem,) = refuse(text)
    assert told in problem


def test_broken_toml_is_told_with_its_line() -> None:
    (problem,) = refuse("verbose = true\nlimits = [\nx\n")
    assert "not valid TOML" in problem
    assert "line 3" in problem


def test_a_components_own_check_is_told_under_its_table() -> None:
    (problem,) = refuse('[login]\nuser = "a"\npassword_env = "A"\npassword_file = "B"\n')
    assert problem.startswith("login: password_env")
    assert problem.endswith("are both set; remove one of them")


@pytest.mark.parametrize(
    "text",
    [
        'login = {user = "a", password = "hunter2"}',
        'login = {user = "a", passwrod = "hunter2"}',
        'login = {user = "a", pasword_env = "hunter2"}',
        'login = {user = "a", password_env = ["hunter2"]}',
        'login = {user = "a", password_env = "hunter2", password_file = "x"}',
        'login = {user = "a", mechanism = "https://me:hunter2@host/"}',
        'login = {user = "a", secret = {inner = "hunter2"}}',
        'api_token = "hunter2"',
        'sasl_password = "hunter2',
        '[login]\nuser = "a"\npassword = hunter2\n',
        'password = """hunter2',
        '[["hunter2"',
    ],
)
def test_no_message_holds_a_secret(text: str) -> None:
    problems = refuse(text)
    assert problems
    assert not any("hunter2" in problem for problem in problems)


def test_what_sounds_secret() -> None:
    for name in (
        "password",
        "sasl_password_env",
        "ssl_key_passphrase",
        "api_token",
        "client_secret",
        "pasword",
    ):
        assert is_secret(name), name
    for name in (
        "tokenizer",
        "tokenizer_file",
        "max_tokens",
        "token_length_count",
        "path",
        "author",
        "batch",
    ):
        assert not is_secret(name), name


_toml = st.recursive(
    st.integers(-(2**65), 2**65) | st.booleans() | st.text(max_size=5) | st.floats(allow_nan=True),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=8,
)
_known = st.sampled_from(["limits", "login", "named", "rows", "verbose", "user", "timeout_seconds", "bounds"])


@given(st.dictionaries(_known, _toml | st.dictionaries(_known, _toml, max_size=3), max_size=4))
def test_any_table_is_either_taken_as_msgspec_takes_it_or_refused(data: dict[str, object]) -> None:
    """The walk refuses exactly what msgspec refuses, and never fails in another way."""
    from mlmon.config.values import toml_key, toml_value

    text = "".join(f"{toml_key(key)} = {toml_value(value)}\n" for key, value in data.items())
    try:
        plain = msgspec.convert(data, Root)
    except msgspec.ValidationError:
        plain = None
    if plain is None:
        assert refuse(text)
    else:
        assert msgspec.json.encode(read_toml(text, Root, "f.toml")) == msgspec.json.encode(plain)
