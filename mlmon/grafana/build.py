"""Turns a `Board` into Grafana's model: what all panels have in common is said here, once.

Numbers of panels are made from their titles, so that a link to a panel survives what is added before it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from zlib import crc32

from mlmon.grafana.frame import DATASOURCE, links, marks, variables
from mlmon.grafana.sdk import (
    common,
    common_builders,
    dashboards,
    heatmap,
    heatmap_model,
    model,
    prometheus,
    prometheus_model,
    stat,
    table,
    timeseries,
)
from mlmon.grafana.spec import Figure, Grid, Heat, Lines, Step

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mlmon.grafana.spec import Board, Column, Panel, Query

__all__ = ["build", "panel_id"]

_BAND_OPACITY = 8.0
#: Shaded: where a series should stay below its limit.
_LIMIT_STYLE: tuple[tuple[str, object], ...] = (
    ("color", {"mode": "fixed", "fixedColor": "semi-dark-orange"}),
    ("custom.lineStyle", {"fill": "dash", "dash": [8, 6]}),
    ("custom.lineWidth", 1),
    ("custom.fillOpacity", _BAND_OPACITY),
    ("custom.showPoints", "never"),
)


def panel_id(title: str) -> int:
    """A panel's number in its board.

    Example:
        >>> panel_id("Requests") == panel_id("Requests") != panel_id("Errors")
        True
    """
    return crc32(title.encode()) & 0x7FFFFFFF


def build(board: Board) -> Any:
    """The SDK's model of a board."""
    made = (
        dashboards.Dashboard(board.title)
        .uid(board.uid)
        .description(board.about)
        .tags(["mlmon", "generated"])
        .time(f"now-{board.since}", "now")
        .refresh("1m")
        .timezone("browser")
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .readonly()
        .variables(variables(board))
        .annotations(marks())
        .links(links())
    )
    for row in board.rows:
        heading = dashboards.Row(row.title).id(panel_id(f"row: {row.title}"))
        if row.collapsed:
            for panel in row.panels:
                heading.with_panel(_panel(panel))
        made.with_row(heading)
        if not row.collapsed:
            for panel in row.panels:
                made.with_panel(_panel(panel))
    return made.build()


def _panel(panel: Panel) -> Any:
    match panel:
        case Lines():
            made = _lines(panel)
        case Figure():
            made = _figure(panel)
        case Grid():
            made = _grid(panel)
        case Heat():
            made = _heat(panel)
        case _:
            raise TypeError(f"panel {panel.title!r}: expected Lines, Figure, Grid or Heat, got {panel!r}")
    made.title(panel.title).description(panel.about).id(panel_id(panel.title)).datasource(DATASOURCE)
    made.unit(panel.unit).span(panel.width).height(panel.height)
    if panel.low is not None:
        made.min(panel.low)
    if panel.high is not None:
        made.max(panel.high)
    if panel.decimals is not None:
        made.decimals(panel.decimals)
    return made


def _targets(queries: Iterable[Query], *, instant: bool = False, heat: bool = False) -> list[Any]:
    targets = []
    for number, query in enumerate(queries):
        target = prometheus.Dataquery().ref_id(chr(ord("A") + number)).expr(query.expr).datasource(DATASOURCE)
        target.editor_mode(prometheus_model.QueryEditorMode.CODE).legend_format(query.legend)
        if instant:
            target.instant().format(prometheus_model.PromQueryFormat.TABLE)
        else:
            target.range().exemplar(query.exemplar)
        if heat:
            target.format(prometheus_model.PromQueryFormat.HEATMAP)
        targets.append(target)
    return targets


def _thresholds(steps: Iterable[Step]) -> Any:
    made = [model.Threshold(step.value, step.colour) for step in steps]
    return dashboards.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(made)


def _lines(panel: Lines) -> Any:
    made = timeseries.Panel().targets(_targets(panel.queries))
    made.line_width(1).fill_opacity(30 if panel.stacked else 0).show_points(common.VisibilityMode.AUTO)
    made.tooltip(
        common_builders.VizTooltipOptions()
        .mode(common.TooltipDisplayMode.MULTI)
        .sort(common.SortOrder.DESCENDING)
    )
    made.legend(
        common_builders.VizLegendOptions()
        .display_mode(common.LegendDisplayMode.LIST)
        .placement(common.LegendPlacement.BOTTOM)
        .show_legend(True)
    )
    if panel.stacked:
        made.stacking(common_builders.StackingConfig().mode(common.StackingMode.NORMAL).group("A"))
    if panel.log:
        scale = common_builders.ScaleDistributionConfig().type(common.ScaleDistribution.LOG).log(10)
        made.scale_distribution(scale)
    if panel.steps:
        made.thresholds(_thresholds(panel.steps))
        style = common_builders.GraphThresholdsStyleConfig().mode(common.GraphThresholdsStyleMode.AREA)
        made.thresholds_style(style)
    if panel.limit:
        made.override_by_name(panel.limit, [model.DynamicConfigValue(k, v) for k, v in _LIMIT_STYLE])
    return made


def _figure(panel: Figure) -> Any:
    made = stat.Panel().targets(_targets(panel.queries))
    made.reduce_options(common_builders.ReduceDataOptions().calcs(["lastNotNull"]).fields("").values(False))
    sparkline = common.BigValueGraphMode.AREA if panel.sparkline else common.BigValueGraphMode.NONE
    made.graph_mode(sparkline).color_mode(common.BigValueColorMode.VALUE)
    made.text_mode(common.BigValueTextMode.AUTO).orientation(common.VizOrientation.AUTO)
    if panel.words:
        results = {}
        for number, (value, shown) in enumerate(panel.words.items()):
            text, colour = shown
            results[value] = model.ValueMappingResult(text=text, color=colour, index=number)
        made.mappings([model.ValueMap(options=results)])
    made.thresholds(_thresholds(panel.steps or (Step(None, "text"),)))
    return made


def _grid(panel: Grid) -> Any:
    made = table.Panel().targets(_targets(panel.queries, instant=True)).no_value(panel.none)
    made.cell_height(common.TableCellHeight.SM).show_header(True)
    order = {column.source: number for number, column in enumerate(panel.columns)}
    names = {column.source: column.title for column in panel.columns}
    if len(panel.queries) > 1:
        made.with_transformation(model.DataTransformerConfig(id_val="merge", options={}))
    kept = {"include": {"names": list(order)}}
    made.with_transformation(model.DataTransformerConfig(id_val="filterFieldsByName", options=kept))
    arranged = {"indexByName": order, "renameByName": names, "excludeByName": {}}
    made.with_transformation(model.DataTransformerConfig(id_val="organize", options=arranged))
    for column in panel.columns:
        made.override_by_name(column.title, _column(column))
    if panel.sort:
        made.sort_by([common_builders.TableSortByFieldState().display_name(panel.sort).desc(True)])
    return made


def _column(column: Column) -> list[Any]:
    value = model.DynamicConfigValue
    properties = [value("unit", column.unit)]
    if column.link:
        link = {"title": column.title, "url": column.link, "targetBlank": True}
        properties.append(value("links", [link]))
    if column.steps:
        steps = [{"value": step.value, "color": step.colour} for step in column.steps]
        properties.append(value("thresholds", {"mode": "absolute", "steps": steps}))
        properties.append(value("custom.cellOptions", {"type": "color-text"}))
    return properties


def _heat(panel: Heat) -> Any:
    made = heatmap.Panel().targets(_targets(panel.queries, heat=True)).calculate(False)
    made.y_axis(heatmap.YAxisConfig().unit(panel.unit).axis_placement(common.AxisPlacement.LEFT))
    made.color(
        heatmap.HeatmapColorOptions()
        .mode(heatmap_model.HeatmapColorMode.SCHEME)
        .scheme("Oranges")
        .fill("dark-orange")
        .exponent(0.5)
        .steps(64)
    )
    return made.show_legend()
