"""`mlmon render`: everything that is made from the specs, written where it belongs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from mlmon.config.reader import read_toml
from mlmon.errors import ConfigError
from mlmon.grafana import render_dashboards
from mlmon.slo import load_specs
from mlmon.slo.alertmanager import alertmanager_files
from mlmon.slo.render import RenderConfig
from mlmon.slo.render_docs import alerts_markdown
from mlmon.slo.render_objectives import objectives_file
from mlmon.slo.render_rules import RULES, rule_files
from mlmon.slo.render_tests import TESTS, rule_tests

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mlmon.slo.model import Specs

__all__ = ["COMMANDS", "PRODUCERS", "Inputs", "rendered", "stale"]

#: Folders that hold nothing but what is rendered, and the names that are looked at there: what is not
#: rendered any more is removed.
_OWNED = ((RULES, "*.yml"), (TESTS, "*_test.yml"), ("dashboards/json", "*.json"))


class Inputs(NamedTuple):
    """What everything is rendered from."""

    specs: Specs
    config: RenderConfig


def _rules(inputs: Inputs) -> dict[str, str]:
    return rule_files(inputs.specs, inputs.config.rules, inputs.config.health)


def _tests(inputs: Inputs) -> dict[str, str]:
    return rule_tests(inputs.specs, inputs.config.rules, inputs.config.health)


def _docs(inputs: Inputs) -> dict[str, str]:
    return {"docs/alerts.md": alerts_markdown(inputs.specs, inputs.config.rules, inputs.config.health)}


def _objectives(inputs: Inputs) -> dict[str, str]:
    return objectives_file(inputs.specs)


def _notifications(inputs: Inputs) -> Mapping[str, str]:
    return alertmanager_files(inputs.config.notify)


def _dashboards(inputs: Inputs) -> dict[str, str]:
    return render_dashboards(inputs.config.rules.runbook_url)


#: What is rendered: each gives texts by their path from the root.
PRODUCERS: list[Callable[[Inputs], Mapping[str, str]]] = [
    _rules,
    _tests,
    _objectives,
    _notifications,
    _dashboards,
    _docs,
]


def rendered(root: Path, config_path: Path | None = None) -> dict[str, str]:
    """Every text by its path from the root.

    Raises:
        ConfigError: the configuration or a spec is wrong.
        MissingExtraError: PyYAML or the dashboards' SDK is not installed.
    """
    path = config_path or root / "alerts" / "config.toml"
    if path.exists():
        config = read_toml(path.read_text(encoding="utf-8"), RenderConfig, str(path))
    elif config_path is not None:
        raise ConfigError(f"{path}: expected a file; there is none. Leave --config out for the defaults.")
    else:
        config = RenderConfig()
    inputs = Inputs(load_specs([root / "alerts" / "slos"]), config)
    files: dict[str, str] = {}
    for produce in PRODUCERS:
        files |= produce(inputs)
    return files


def stale(root: Path, files: Mapping[str, str]) -> dict[str, str | None]:
    """What differs from what stands there: the text to write, None for a file to remove."""
    found: dict[str, str | None] = {
        name: text
        for name, text in files.items()
        if not (root / name).exists() or (root / name).read_text(encoding="utf-8") != text
    }
    folders = {Path(name).parent.as_posix() for name in files}
    for folder, pattern in _OWNED:
        if folder in folders:
            for path in (root / folder).glob(pattern):
                name = path.relative_to(root).as_posix()
                if name not in files:
                    found[name] = None
    return dict(sorted(found.items()))


@click.command()
@click.option("--check", is_flag=True, help="Write nothing; fail when a file is stale.")
@click.option("--config", "config_path", metavar="FILE", help="Instead of alerts/config.toml.")
@click.option(
    "--root", default=".", show_default=True, metavar="DIR", help="Where alerts/ and dashboards/ are."
)
def render(*, check: bool, config_path: str | None, root: str) -> None:
    """Write rules and their tests, what the sidecar judges, Alertmanager's configuration, dashboards, docs.

    From the specs in alerts/slos and the settings in alerts/config.toml.
    """
    base = Path(root)
    files = rendered(base, Path(config_path) if config_path else None)
    changes = stale(base, files)
    for name, text in changes.items():
        click.echo(f"{'stale' if check else 'removed' if text is None else 'written'}: {name}")
        if check:
            continue
        path = base / name
        if text is None:
            path.unlink()
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    if check and changes:
        raise click.ClickException("rendered files are stale; run  mlmon render  and commit them")
    click.echo(f"{len(files)} files, {len(changes)} of them {'stale' if check else 'changed'}")


COMMANDS = [render]
