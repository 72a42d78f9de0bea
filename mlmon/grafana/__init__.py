"""Dashboards from the catalogue, and what pushes them to Grafana.

`executive`, `oncall`, `debug` and `drift` say what is shown as plain data (`spec`), with queries written from
the catalogue (`promql`); `build` turns that into Grafana's model; `render` into the files that are committed.
`client` and `sync` compare those files with a Grafana and change it. Knows nothing of SLO specs: it shows
what the recording rules record, by name.
"""

from __future__ import annotations

__all__ = ["render_dashboards"]


def render_dashboards(runbook_url: str | None = None) -> dict[str, str]:
    """Text of every generated dashboard, by path from the root of the repository.

    Args:
        runbook_url: where the runbook of an alert is, with `{alert}` for its name; None: an example.

    Raises:
        MissingExtraError: the extra `grafana` is not installed.
    """
    from mlmon.grafana.render import rendered  # the only place that needs the extra

    return rendered() if runbook_url is None else rendered(runbook_url)
