"""What stands around the panels of every board: choices, marks on the time axis, links to the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlmon.catalog import requests
from mlmon.grafana.promql import of, series
from mlmon.grafana.sdk import common, dashboards, model
from mlmon.grafana.spec import Variable

if TYPE_CHECKING:
    from mlmon.grafana.spec import Board

__all__ = ["DATASOURCE", "RELEASE_TAGS", "marks", "links", "variables"]

#: Every panel and query asks the Prometheus chosen at the top.
DATASOURCE = common.DataSourceRef("prometheus", "${datasource}")
_GRAFANA = common.DataSourceRef("grafana", "-- Grafana --")
#: Tags of the annotations that announce a planned release.
RELEASE_TAGS = ("mlmon", "release")
_REQUESTS = series(requests.REQUESTS.estimated)
#: The empty label values count too: an event need not name its version.
_ALL = ".*"

_SCOPE = (
    Variable("service", "Service", "Services whose events arrive.", f"label_values({_REQUESTS}, service)"),
    Variable(
        "model",
        "Model",
        "Models of the services chosen.",
        f'label_values({_REQUESTS}{{service=~"$service"}}, model)',
    ),
    Variable(
        "version",
        "Version",
        "Versions of the models chosen. Panels about a service as a whole leave it out.",
        f'label_values({_REQUESTS}{{service=~"$service",model=~"$model"}}, version)',
    ),
)


def variables(board: Board) -> list[Any]:
    """Data source, service, model, version, and the board's own."""
    source = dashboards.DatasourceVariable("datasource").label("Data source").type("prometheus")
    source.description("The Prometheus that scrapes the sidecars and evaluates the rules.")
    return [source, *(_variable(variable) for variable in (*_SCOPE, *board.variables))]


def _variable(variable: Variable) -> Any:
    if not variable.query:
        text = dashboards.TextBoxVariable(variable.name).default_value(variable.default)
        option = model.VariableOption(text=variable.default, value=variable.default)
        return text.label(variable.label).description(variable.about).current(option)
    made = dashboards.QueryVariable(variable.name).label(variable.label).description(variable.about)
    made.datasource(DATASOURCE).query(variable.query).definition(variable.query)
    made.refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED).sort(model.VariableSort.ALPHABETICAL_ASC)
    if variable.many:
        made.multi(True).include_all(True).all_value(_ALL)
        made.current(model.VariableOption(selected=True, text=["All"], value=["$__all"]))
    return made


def marks() -> list[Any]:
    """Marks on every panel: versions that began to serve, planned releases, pages."""
    since = f"{of(requests.VERSION_SINCE)} * 1000"
    versions = dashboards.AnnotationQuery().name("New versions").datasource(DATASOURCE).enable(True)
    versions.expr(since).step("60s").use_value_for_time(True).icon_color("blue")
    versions.title_format("{{version}} serves").text_format("{{service}} / {{model}} ({{deployment}})")
    versions.tag_keys("service,model,deployment,version")
    # by tags, not a query, which the SDK's type cannot say
    tags: Any = (
        dashboards.AnnotationTarget().type("tags").tags(list(RELEASE_TAGS)).match_any(False).limit(100)
    )
    releases = dashboards.AnnotationQuery().name("Releases").datasource(_GRAFANA).enable(True)
    releases.target(tags).icon_color("purple")
    pages = dashboards.AnnotationQuery().name("Pages").datasource(DATASOURCE).enable(True)
    pages.expr('ALERTS{alertstate="firing",severity="page",service=~"$service|mlmon"}').step("60s")
    pages.title_format("{{alertname}}").text_format("{{service}} {{model}}: {{root_cause}}")
    pages.tag_keys("alertname,service,slo,root_cause").icon_color("red")
    return [versions, releases, pages]


def links() -> list[Any]:
    """The other boards, with the choices and the time kept."""
    link = dashboards.DashboardLink("mlmon").type(model.DashboardLinkType.DASHBOARDS).tags(["mlmon"])
    return [link.keep_time(True).include_vars(True).as_dropdown(False).target_blank(False)]
