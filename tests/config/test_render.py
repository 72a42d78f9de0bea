"""What is written from the code reads back as the code says."""

from __future__ import annotations

import re
import tomllib
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlmon.config import render
from mlmon.config.reader import read_toml
from mlmon.config.values import toml_value


class Inner(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[inner]`: what is inside. It is small.

    This paragraph is not shown.
    """

    path: Annotated[str, msgspec.Meta(description="Where.", examples=["/var/lib/x"])]
    mode: Annotated[Literal["a", "b"] | None, msgspec.Meta(description="How | why.")] = None
    wait_seconds: Annotated[float, msgspec.Meta(gt=0, description="How long.")] = 1.5


class Root(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All."""

    inner: Inner
    level: Annotated[int, msgspec.Meta(ge=0, le=9, description="How high.")] = 3
    names: tuple[str, ...] = ("a", 'b"\\')
    more: dict[str, Inner] = {}
    rows: list[Inner] = []
    maybe: Inner | None = None


def uncommented(text: str) -> str:
    """The file with every commented line of TOML made live."""
    return re.sub(r"(?m)^# (\[|[A-Za-z0-9_\"-]+ = )", r"\1", text)


def test_the_written_file_reads_back_as_the_defaults() -> None:
    text = render.toml(Root, values={"inner.path": "/x"})
    assert read_toml(text, Root, "written") == Root(inner=Inner(path="/x"))


def test_every_commented_line_reads_back_too() -> None:
    config = read_toml(uncommented(render.toml(Root)), Root, "written")
    assert config.inner == Inner(path="/var/lib/x", mode="a")
    assert config.more == {"NAME": Inner(path="/var/lib/x", mode="a")}
    assert config.rows == [Inner(path="/var/lib/x", mode="a")]
    assert config.maybe == Inner(path="/var/lib/x", mode="a")


def test_the_written_file_says_what_each_key_is() -> None:
    text = render.toml(Root, head="A head.")
    assert text.startswith("# A head.\n")
    assert "# What is inside. It is small.\n[inner]\n# Where. Required: text.\n# path = " in text
    assert '# How | why. One of "a", "b". Not set by default.\n# mode = "a"\n' in text
    assert "# How long. A number of seconds, above 0.\nwait_seconds = 1.5\n" in text
    assert "This paragraph" not in text


def test_a_table_that_is_off_is_written_as_a_comment() -> None:
    text = render.toml(Root, values={"inner.path": "/x"}, off=lambda path: path == ("inner",))
    assert "inner" not in tomllib.loads(text)
    assert '# path = "/x"' in text


def test_the_reference_has_a_row_for_every_key() -> None:
    text = render.markdown(Root)
    assert '| `mode` | one of "a", "b" | not set | How \\| why. |' in text
    assert "| `path` | text | required | Where. |" in text
    assert "| `level` | a whole number from 0 to 9 | `3` | How high. |" in text
    assert [line for line in text.splitlines() if line.startswith("##")] == [
        "## Top level",
        "## `[inner]`",
        "## `[more.NAME]`",
        "## `[[rows]]`",
        "## `[maybe]`",
    ]


_values = st.recursive(
    st.integers(-(2**63), 2**63 - 1) | st.booleans() | st.text() | st.floats(allow_nan=False),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(_values)
def test_a_written_value_reads_back(value: Any) -> None:
    assert tomllib.loads(f"x = {toml_value(value)}")["x"] == value


def test_a_value_that_toml_has_not_is_refused() -> None:
    with pytest.raises(TypeError, match="NoneType"):
        toml_value(None)
