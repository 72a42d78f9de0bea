"""Rules for dashboards: those of Grafana's dashboard-linter that apply, written anew, and a few of our own.

| rule | comes from (github.com/grafana/dashboard-linter, lint/) |
|---|---|
| template-datasource | rule_template_datasource.go |
| template-on-time-change-reload | rule_template_on_time_change_reload.go |
| template-label-promql | rule_template_label_promql.go |
| template-unused | rule_template_unused.go |
| template-required-variables | rule_template_required_variables.go: service, model, version |
| uneditable-dashboard | rule_uneditable.go |
| panel-datasource | rule_panel_datasource.go, on targets and tables too |
| panel-title-description | rule_panel_title_description.go, on every kind of panel |
| panel-units | rule_panel_units.go, with the units that the SDK lists |
| panel-no-targets | rule_panel_no_targets.go |
| target-promql | rule_target_promql.go |
| target-rate-interval | rule_target_rate_interval.go |
| target-counter-agg | rule_target_counter_agg.go |
| target-histogram | rule_target_histogram.go; heatmaps show buckets as they are |
| target-required-matchers | rule_target_required_matchers.go: of the labels that the metric has |
| legend, layout, known-metrics, variables-declared, whole-scope | our own |

Left out, each for a reason: template-job, template-instance, target-job, target-instance (what is shown
belongs to a service and model whichever sidecar read it; after a failover it is another instance),
target-logql and target-logql-auto (no logs), refresh and time intervals (one house's taste), the rules for
the newer model of dashboards (not used).
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import promql_parser as promql

from mlmon.catalog import METRICS
from mlmon.grafana.promql import SCOPE, scope_of, series
from mlmon.grafana.sdk import units

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["RULES", "expanded", "names_in", "panels", "targets", "variable_names"]

#: A span that nobody writes, so that it is known where the variable stood.
_MAGIC = timedelta(seconds=8_869)
_BUILT_IN = {"__rate_interval": "8869s", "__range": "3600s", "__interval": "60s"}
_UNITS = {value for name, value in vars(units).items() if isinstance(value, str) and name[0].isupper()}
#: What Prometheus itself makes of alerting rules.
_ALERTS = "ALERTS"
Dashboard = dict[str, Any]


def panels(dashboard: Dashboard) -> Iterator[dict[str, Any]]:
    """Every panel that shows something, collapsed or not."""
    for panel in dashboard["panels"]:
        if panel["type"] == "row":
            yield from panel.get("panels", ())
        else:
            yield panel


def targets(dashboard: Dashboard) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """(panel, target) of every query."""
    for panel in panels(dashboard):
        for target in panel.get("targets", ()):
            yield panel, target


def variable_names(dashboard: Dashboard) -> list[str]:
    return [variable["name"] for variable in dashboard["templating"]["list"]]


def expanded(text: str, values: dict[str, str]) -> str:
    """The text with its variables replaced; those without a value stay."""

    def value(match: re.Match[str]) -> str:
        return values.get(match[1] or match[2], match[0])

    return re.sub(r"\$(?:\{(\w+)\}|(\w+))", value, text)


def _parsed(expr: str) -> Any:
    choices = {"service": ".*", "model": ".*", "version": ".*", "field": "f", "price": "1"}
    return promql.parse(expanded(expr, _BUILT_IN | choices))


def _walk(node: Any, parents: tuple[Any, ...] = ()) -> Iterator[tuple[Any, tuple[Any, ...]]]:
    yield node, parents
    below: list[Any] = []
    match node:
        case promql.Call():
            below = list(node.args)
        case promql.AggregateExpr():
            below = [node.expr] + ([] if node.param is None else [node.param])
        case promql.BinaryExpr():
            below = [node.lhs, node.rhs]
        case promql.ParenExpr() | promql.UnaryExpr() | promql.SubqueryExpr():
            below = [node.expr]
        case promql.MatrixSelector():
            below = [node.vector_selector]
    for child in below:
        yield from _walk(child, (*parents, node))


def _selectors(expr: str) -> Iterator[tuple[Any, tuple[Any, ...]]]:
    for node, parents in _walk(_parsed(expr)):
        if isinstance(node, promql.VectorSelector):
            yield node, parents


def names_in(expr: str) -> set[str]:
    """Metrics that an expression reads."""
    return {node.name for node, _ in _selectors(expr)}


def _template_datasource(dashboard: Dashboard) -> Iterator[str]:
    found = [v for v in dashboard["templating"]["list"] if v["type"] == "datasource"]
    if [(v["name"], v["label"], v["query"]) for v in found] != [("datasource", "Data source", "prometheus")]:
        yield f"expected one variable 'datasource', labelled 'Data source', of Prometheus: {found}"


def _template_reload(dashboard: Dashboard) -> Iterator[str]:
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query" and variable.get("refresh") != 2:
            yield f"{variable['name']}: expected refresh on time range change"


def _template_promql(dashboard: Dashboard) -> Iterator[str]:
    for variable in dashboard["templating"]["list"]:
        if variable["type"] != "query":
            continue
        found = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"])
        try:
            if found is None or not isinstance(_parsed(found[1]), promql.VectorSelector):
                yield f"{variable['name']}: expected label_values(selector, label): {variable['query']}"
        except ValueError as error:
            yield f"{variable['name']}: {error}"
        if variable["datasource"]["uid"] != "${datasource}":
            yield f"{variable['name']}: not of the data source chosen"


def _template_unused(dashboard: Dashboard) -> Iterator[str]:
    text = str([dashboard["panels"], dashboard["annotations"], dashboard["templating"]])
    for name in variable_names(dashboard):
        if not re.search(rf"\$(\{{{name}\}}|{name}\b)", text):
            yield f"variable {name} is not used"


def _template_required(dashboard: Dashboard) -> Iterator[str]:
    if missing := set(SCOPE) - set(variable_names(dashboard)):
        yield f"no variable for {sorted(missing)}"


def _uneditable(dashboard: Dashboard) -> Iterator[str]:
    if dashboard["editable"] is not False:
        yield "expected a dashboard that is not edited in place: it is generated"


def _panel_datasource(dashboard: Dashboard) -> Iterator[str]:
    for panel in panels(dashboard):
        for place in (panel, *panel.get("targets", ())):
            if place.get("datasource") != {"type": "prometheus", "uid": "${datasource}"}:
                yield f"{panel['title']}: {place.get('datasource')}"


def _panel_title(dashboard: Dashboard) -> Iterator[str]:
    for panel in panels(dashboard):
        about = panel.get("description", "")
        if not panel.get("title") or len(about) < 20 or not about.endswith("."):
            yield f"{panel.get('title')!r}: expected a title and a description in sentences: {about!r}"


def _panel_units(dashboard: Dashboard) -> Iterator[str]:
    for panel in panels(dashboard):
        used = [panel["fieldConfig"]["defaults"].get("unit")]
        for override in panel["fieldConfig"].get("overrides", ()):
            used += [p["value"] for p in override["properties"] if p["id"] == "unit"]
        for unit in used:
            if unit not in _UNITS:
                yield f"{panel['title']}: unit {unit!r}"


def _panel_targets(dashboard: Dashboard) -> Iterator[str]:
    for panel in panels(dashboard):
        if not panel.get("targets"):
            yield f"{panel['title']}: no query"


def _target_promql(dashboard: Dashboard) -> Iterator[str]:
    for panel, target in targets(dashboard):
        try:
            _parsed(target["expr"])
        except ValueError as error:
            yield f"{panel['title']}: {error}: {target['expr']}"


def _target_rate_interval(dashboard: Dashboard) -> Iterator[str]:
    for panel, target in targets(dashboard):
        for node, parents in _walk(_parsed(target["expr"])):
            if not isinstance(node, promql.MatrixSelector) or node.range == _MAGIC or not parents:
                continue
            if not isinstance(parents[-1], promql.Call) or parents[-1].func.name in ("rate", "irate"):
                yield f"{panel['title']}: expected $__rate_interval: {target['expr']}"


def _target_counter(dashboard: Dashboard) -> Iterator[str]:
    for panel, target in targets(dashboard):
        for node, parents in _selectors(target["expr"]):
            if node.name.endswith(("_total", "_bucket", "_sum", "_count")):
                call = parents[-2] if len(parents) > 1 else None
                if not isinstance(call, promql.Call) or call.func.name not in ("rate", "irate", "increase"):
                    yield f"{panel['title']}: the counter {node.name} is shown as it is"


def _target_histogram(dashboard: Dashboard) -> Iterator[str]:
    for panel, target in targets(dashboard):
        if panel["type"] == "heatmap":
            continue
        for node, parents in _selectors(target["expr"]):
            calls = {parent.func.name for parent in parents if isinstance(parent, promql.Call)}
            if node.name.endswith("_bucket") and "histogram_quantile" not in calls:
                yield f"{panel['title']}: buckets without histogram_quantile"


_BY_NAME = {series(metric): metric for metric in METRICS.values()} | {
    series(metric, part): metric
    for metric in METRICS.values()
    if metric.kind == "histogram"
    for part in ("bucket", "sum", "count")
}


def _target_matchers(dashboard: Dashboard) -> Iterator[str]:
    for panel, target in targets(dashboard):
        for node, _ in _selectors(target["expr"]):
            metric = _BY_NAME.get(node.name)
            matched = {matcher.name for matcher in node.matchers.matchers}
            if metric is not None and (missing := set(scope_of(metric)) - matched):
                yield f"{panel['title']}: {node.name} is not narrowed by {sorted(missing)}"


def _known_metrics(dashboard: Dashboard) -> Iterator[str]:
    marks = [mark["expr"] for mark in dashboard["annotations"]["list"] if "expr" in mark]
    for expr in [*marks, *(target["expr"] for _, target in targets(dashboard))]:
        for name in names_in(expr):
            if name not in _BY_NAME and name != _ALERTS and not name.startswith("mlmon_slo:"):
                yield f"{name} is neither in the catalogue nor recorded: {expr}"


def _legend(dashboard: Dashboard) -> Iterator[str]:
    for panel, target in targets(dashboard):
        nameless = panel["type"] == "timeseries" and not target.get("legendFormat")
        if nameless and (len(panel["targets"]) > 1 or " by (" in target["expr"]):
            yield f"{panel['title']}: a line without a name"


def _layout(dashboard: Dashboard) -> Iterator[str]:
    ids = [panel["id"] for panel in (*dashboard["panels"], *panels(dashboard)) if panel["type"] == "row"]
    ids += [panel["id"] for panel in panels(dashboard)]
    if len(ids) != len(set(ids)):
        yield "two panels have one number"
    taken: dict[tuple[int, int], str] = {}
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        if at["x"] + at["w"] > 24:
            yield f"{panel['title']}: wider than the grid"
        for cell in ((at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])):
            if taken.setdefault(cell, panel["title"]) != panel["title"]:
                yield f"{panel['title']} lies over {taken[cell]}"


def _declared(dashboard: Dashboard) -> Iterator[str]:
    known = {*variable_names(dashboard), *_BUILT_IN}
    for panel, target in targets(dashboard):
        text = re.sub(r'"\$\d"', "", target["expr"])
        for name in re.findall(r"\$\{?(\w+)", text):
            if name not in known:
                yield f"{panel['title']}: ${name} is no variable"


def _whole_scope(dashboard: Dashboard) -> Iterator[str]:
    """Drift readings exist for every segment and for all of them together: one of the two must be meant."""
    for panel, target in targets(dashboard):
        for node, _ in _selectors(target["expr"]):
            metric = _BY_NAME.get(node.name)
            if metric is None or not metric.name.startswith("mlmon_drift_"):
                continue
            matched = {matcher.name for matcher in node.matchers.matchers}
            if "segment" not in matched and "segment" not in target["expr"].replace(str(node), ""):
                yield f"{panel['title']}: {node.name} mixes the whole with its segments"


RULES: dict[str, Callable[[Dashboard], Iterator[str]]] = {
    "template-datasource": _template_datasource,
    "template-on-time-change-reload": _template_reload,
    "template-label-promql": _template_promql,
    "template-unused": _template_unused,
    "template-required-variables": _template_required,
    "uneditable-dashboard": _uneditable,
    "panel-datasource": _panel_datasource,
    "panel-title-description": _panel_title,
    "panel-units": _panel_units,
    "panel-no-targets": _panel_targets,
    "target-promql": _target_promql,
    "target-rate-interval": _target_rate_interval,
    "target-counter-agg": _target_counter,
    "target-histogram": _target_histogram,
    "target-required-matchers": _target_matchers,
    "known-metrics": _known_metrics,
    "legend": _legend,
    "layout": _layout,
    "variables-declared": _declared,
    "whole-scope": _whole_scope,
}
