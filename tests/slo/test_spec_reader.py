"""YAML with places: what hostile and broken files are answered."""

from __future__ import annotations

import builtins
import sys
from typing import TYPE_CHECKING, Any

import pytest

from mlmon.errors import ConfigError, MissingExtraError
from mlmon.slo import load_specs
from mlmon.slo.reader import Problem, documents, duration_seconds, error, spec_files

if TYPE_CHECKING:
    from pathlib import Path

SERVICE = "apiVersion: openslo/v1\nkind: Service\nmetadata: {name: shop}\nspec: {}\n"


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_files_of_a_directory_come_sorted_and_others_are_left(tmp_path: Path) -> None:
    for name in ("b.yml", "a.yaml", "c.json", ".hidden"):
        write(tmp_path / name, SERVICE)
    assert [p.name for p in spec_files([tmp_path])] == ["a.yaml", "b.yml"]
    assert spec_files([tmp_path, tmp_path / "a.yaml"]) == spec_files([tmp_path])


def test_paths_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"none\.yaml: expected a file or directory of SLO specs, got nothing"
    ):
        load_specs([tmp_path / "none.yaml"])
    with pytest.raises(ConfigError, match=r"at least one \.yaml file of SLO specs, got none"):
        load_specs([tmp_path])


def test_lists_and_several_documents_are_the_same(tmp_path: Path) -> None:
    listed = "".join(f"{'- ' if not i else '  '}{line}\n" for i, line in enumerate(SERVICE.splitlines()))
    first = load_specs([write(tmp_path / "a.yaml", listed)])
    second = load_specs([write(tmp_path / "b.yaml", f"---\n---\n{SERVICE}---\n")])
    assert first == second
    assert [s.name for s in first.services] == ["shop"]


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"a\.yaml: cannot read it: .*; check the path"):
        load_specs([path])


@pytest.mark.parametrize(
    "text", ["a: [1", "\t- x", "a: b: c", "- 'x", "&a [*a, *b]", "%YAML 9.9\n--- x", "\x00"]
)
def test_what_is_no_yaml_is_told_with_its_line(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"a\.yaml:\d+: expected YAML, got .*; correct the"):
        load_specs([write(tmp_path / "a.yaml", text)])


def test_depth_beyond_reason_is_no_crash(tmp_path: Path) -> None:
    for text in ("[" * 100_000, "- " * 100_000, "a: {" * 1000, "\n".join(" " * n + "a:" for n in range(500))):
        with pytest.raises(
            ConfigError, match=r"a\.yaml:1: expected at most 100 levels, got more; nest it less"
        ):
            load_specs([write(tmp_path / "a.yaml", text)])


def test_an_alias_bomb_costs_nothing(tmp_path: Path) -> None:
    """Nodes are shared, and free-form values are never walked: 9^20 leaves are not visited."""
    lines = ["x0: &x0 [a, b, c, d, e, f, g, h, i]"]
    lines += [f"x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 9)}]" for n in range(1, 20)]
    bomb = "\n".join("    " + line for line in lines)
    text = "apiVersion: openslo/v1\nkind: DataSource\nmetadata: {name: a}\nspec:\n  type: Prometheus\n"
    load_specs([write(tmp_path / "a.yaml", f"{text}  connectionDetails:\n{bomb}\n")])


def test_a_file_too_long_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    with path.open("wb") as file:
        file.truncate(5 << 20)
    with pytest.raises(ConfigError, match="expected at most 4194304 bytes of SLO specs; split the file"):
        load_specs([path])


def test_secrets_of_a_data_source_are_not_in_messages(tmp_path: Path) -> None:
    text = SERVICE.replace("Service", "DataSource").replace(
        "spec: {}", "spec:\n  type: 5\n  connectionDetails: {apiKey: hunter2}\n"
    )
    with pytest.raises(ConfigError, match=r"spec\.type: expected a text, got 5") as caught:
        load_specs([write(tmp_path / "a.yaml", text)])
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("text", ["just words", "7", "[[]]", "- - a: 1"])
def test_a_document_that_is_no_table_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="expected a table, got"):
        load_specs([write(tmp_path / "a.yaml", text)])


def test_long_lists_of_problems_are_cut() -> None:
    problems = [Problem("a", n, "k", "x", "y", "z") for n in range(99, 0, -1)]
    lines = str(error([*problems, *problems])).splitlines()
    assert lines[0] == "99 problems in SLO specs"
    assert lines[1] == "  - a:1: k: expected x, got y; z"
    assert len(lines) == 52
    assert lines[-1] == "  - and 49 more"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("5m", 300), ("12h", 43_200), ("28d", 2_419_200), ("1w", 604_800), ("1M", 2_592_000), ("1Q", 7_776_000),
     ("1Y", 31_536_000), ("0m", None), ("1 h", None), ("1.5h", None), ("h", None), ("-1h", None),
     ("5s", None), ("9999999m", None), ("1h30m", None), ("१m", None)],
)  # fmt: skip
def test_duration_shorthand(text: str, seconds: int | None) -> None:
    assert duration_seconds(text) == seconds


def test_without_pyyaml_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "yaml":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "yaml", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r'pip install "mlmon\[slo\]"'):
        list(documents(write(tmp_path / "a.yaml", SERVICE), []))
