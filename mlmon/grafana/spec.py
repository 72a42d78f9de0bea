"""What a dashboard shows, as plain data: rows of panels with queries, units and what they mean.

Why not the SDK's builders at once: a panel is then written in four lines and can be looked at by the tests,
and what all panels have in common (data source, tooltip, legend, layout) stands once, in `build`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Board", "Column", "Figure", "Grid", "Heat", "Lines", "Panel", "Query", "Row", "Step", "Variable"]


@dataclass(frozen=True, slots=True)
class Query:
    """One PromQL query of a panel.

    Attributes:
        expr: the expression; may use `$__rate_interval`, `$__range` and the board's variables.
        legend: name of its series; `{{label}}` stands for a label's value. Empty in tables.
        exemplar: ask for the traces behind it too.
    """

    expr: str
    legend: str = ""
    exemplar: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """From `value` on (None: from the beginning) figures and bands have this colour."""

    value: float | None
    colour: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """What every panel has.

    Attributes:
        title: at its top; unique in its board, and what its number is made from.
        about: what it shows, what is good, where to look next: the panel's description.
        unit: Grafana's id of the unit.
        queries: at least one.
        width, height: in grid cells, 24 to a row.
        low, high: ends of the scale, where they are known.
        decimals: shown, where the default is not right.
    """

    title: str
    about: str
    unit: str
    queries: tuple[Query, ...]
    width: int = 8
    height: int = 8
    low: float | None = None
    high: float | None = None
    decimals: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lines(Panel):
    """Series over time.

    Attributes:
        stacked: lines on top of each other, as areas.
        log: a logarithmic axis.
        steps: bands behind the lines.
        limit: series of this name are limits: dashed, and the band below them is shaded.
    """

    stacked: bool = False
    log: bool = False
    steps: tuple[Step, ...] = ()
    limit: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure(Panel):
    """The newest value, large.

    Attributes:
        steps: its colour by value.
        words: by value, what is shown for it and in which colour.
        sparkline: the course behind the figure.
    """

    steps: tuple[Step, ...] = ()
    words: dict[str, tuple[str, str]] = field(default_factory=dict)
    sparkline: bool = True
    width: int = 4
    height: int = 5


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table.

    Attributes:
        source: label, or `Value #A` for the value of the first query, `Value #B` of the second, ...
        title: its heading.
        unit: of its values.
        link: where its cells lead; `${__value.raw}` and `${__data.fields.NAME}` may stand in it.
        steps: colour of its cells by value.
    """

    source: str
    title: str
    unit: str = "string"
    link: str = ""
    steps: tuple[Step, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid(Panel):
    """A table of the newest values, one row for each set of labels.

    Attributes:
        columns: in order; whatever else the queries bring is hidden.
        sort: title of the column it is sorted by, descending.
        none: said where there are no rows.
    """

    columns: tuple[Column, ...]
    sort: str = ""
    none: str = "nothing to show"
    width: int = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Heat(Panel):
    """A histogram over time; the query's series are its buckets."""


@dataclass(frozen=True, slots=True)
class Row:
    """Panels under a heading.

    Attributes:
        collapsed: closed at first: what not every installation has data for.
    """

    title: str
    panels: tuple[Panel, ...]
    collapsed: bool = False


@dataclass(frozen=True, slots=True)
class Variable:
    """A choice at the top of a board.

    Attributes:
        name: `$name` in queries.
        label: shown.
        about: its description.
        query: whose answers are offered, in Grafana's form `label_values(selector, label)`; empty for a
            value to type in.
        default: typed in at first.
        many: several can be chosen, all at first.
    """

    name: str
    label: str
    about: str
    query: str = ""
    default: str = ""
    many: bool = True


@dataclass(frozen=True, slots=True)
class Board:
    """A dashboard.

    Attributes:
        name: of its file; `mlmon-NAME` is its uid, which never changes.
        title, about: for people.
        since: how far back it looks at first, such as "6h".
        rows: what it shows.
        variables: beside data source, service, model and version.
    """

    name: str
    title: str
    about: str
    since: str
    rows: tuple[Row, ...]
    variables: tuple[Variable, ...] = ()

    @property
    def uid(self) -> str:
        """Grafana's id of the board, the same everywhere and for ever."""
        return f"mlmon-{self.name}"
