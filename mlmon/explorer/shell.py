"""What pages share: the source, the view in the address and the sidebar, caching, charts, empty states."""

from __future__ import annotations

import inspect
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import streamlit as st

from mlmon.baseline.store import BaselineStore
from mlmon.config import load_config
from mlmon.errors import BaselineError, ConfigError, HistoryError
from mlmon.explorer.source import Bounds, HistorySource
from mlmon.explorer.view import SPANS, View, moment_words, read_query

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas as pd
    import plotly.graph_objects as go

    from mlmon.config import Config

__all__ = [
    "BASELINES",
    "CONFIG",
    "HISTORY",
    "REFRESH",
    "SHOW_TEXT",
    "TEXTS",
    "Page",
    "address",
    "baselines",
    "begin",
    "chart",
    "configuration",
    "empty",
    "link",
    "refresh_seconds",
    "table",
]

#: How `mlmon explore` tells the app where things are.
HISTORY, BASELINES, CONFIG = "MLMON_EXPLORE_HISTORY", "MLMON_EXPLORE_BASELINES", "MLMON_EXPLORE_CONFIG"
#: Where short-lived texts are, and whether they may be shown; both must be given.
TEXTS, SHOW_TEXT = "MLMON_EXPLORE_TEXTS", "MLMON_EXPLORE_SHOW_TEXT"
#: Seconds after which a page that refreshes itself does.
REFRESH = "MLMON_EXPLORE_REFRESH"
_ALL = "all"
#: Files left out that are named; a disk that fails has many.
_TOLD = 5
#: What tables can be told; `placeholder` came after 1.45.
_DATAFRAME = frozenset(inspect.signature(st.dataframe).parameters)
#: Where the session keeps the page that was drawn last and its view: the navigation's links have no query.
_LAST = "mlmon_last"
_FILTERS = ("service", "model", "version", "deployment", "segment")


class Page:
    """One page being drawn: what is looked at, and where it comes from.

    Attributes:
        source: of the history.
        view: what the address and the sidebar say.
        bounds: the stretch of time.
    """

    def __init__(self, source: HistorySource, view: View, bounds: Bounds, version: str) -> None:
        self.source = source
        self.view = view
        self.bounds = bounds
        self._version = version

    @property
    def where(self) -> dict[str, str]:
        """Columns and the values they must have."""
        return self.view.filters()

    def remember(self, **changes: Any) -> None:
        """Write what was chosen on the page into the address."""
        self.view = replace(self.view, **changes)
        st.query_params.from_dict(self.view.to_query())

    def cached(self, function: Callable[..., Any], *args: Any) -> Any:
        """`function(source, bounds, where, *args)`, computed once for each state of the files."""
        return self._cached(function, self.where, args)

    def of_group(self, function: Callable[..., Any], *args: Any) -> Any:
        """The same for what is of a service and model as a whole, so other filters compute nothing anew."""
        where = {name: value for name, value in self.where.items() if name in ("service", "model")}
        return self._cached(function, where, args)

    def _cached(self, function: Callable[..., Any], where: dict[str, str], args: tuple[Any, ...]) -> Any:
        name = f"{function.__module__}.{function.__qualname__}"
        key = (self._version, name, self.bounds, tuple(sorted(where.items())), args)
        return _cached(self.source, function, key)

    def computed(self, function: Callable[..., Any], key: tuple[Any, ...], *args: Any) -> Any:
        """`function(*args)`, computed once for each state of files, view and `key`, which names `args`."""
        name = f"{function.__module__}.{function.__qualname__}"
        where = tuple(sorted(self.where.items()))
        return _computed(function, args, (self._version, name, self.bounds, where, key))


@st.cache_resource(show_spinner=False)
def _source(directory: str) -> HistorySource:
    return HistorySource(directory)


@st.cache_data(show_spinner="reading the history", max_entries=256, ttl=3600)
def _cached(_source: HistorySource, _function: Callable[..., Any], key: tuple[Any, ...]) -> Any:
    _, _, bounds, where, args = key
    return _function(_source, bounds, dict(where), *args)


@st.cache_data(show_spinner="computing", max_entries=64, ttl=3600)
def _computed(_function: Callable[..., Any], _args: tuple[Any, ...], key: tuple[Any, ...]) -> Any:
    del key  # only keys the cache
    return _function(*_args)


def begin(title: str, what: str) -> Page | None:
    """Draw the head and the sidebar. None where there is nothing to show, which is said already."""
    st.title(title)
    st.caption(what)
    source = _source(os.environ.get(HISTORY, "mlmon-data/history"))
    version = source.version()
    query = st.query_params.to_dict()
    found = read_query(query)
    for complaint in found.complaints:
        st.warning(complaint, icon=":material/link_off:")
    newest = source.newest_us()
    if newest is None:
        empty(
            f"The history in {source.directory} is empty.",
            "Windows are written when they close. Is the sidecar running with [history] enabled, and is this "
            "its directory? `mlmon history show` says what is there; `mlmon explore --history DIR` opens "
            "another.",
        )
        return None
    view = _sidebar(source, found.view if query else _carried(title), newest)
    st.session_state[_LAST] = (title, view)
    st.query_params.from_dict(view.to_query())
    start, end = view.bounds(newest)
    try:
        page = Page(source, view, Bounds(start, end + 1), version)
    finally:
        _complain(source)
    return page


def _complain(source: HistorySource) -> None:
    """Name files that were left out, below the history's own folder since a sidebar is narrow."""
    complaints = source.complaints()
    for complaint in complaints[:_TOLD]:
        said = complaint.replace(f"{source.directory}{os.sep}", "")
        st.sidebar.warning(said, icon=":material/broken_image:")
    if len(complaints) > _TOLD:
        st.sidebar.caption(f"and {len(complaints) - _TOLD:,} files more: `mlmon history show` names them")


def _carried(title: str) -> View:
    """Who and when as on the page that one comes from; a page's own choices stay with it."""
    last, view = st.session_state.get(_LAST, (title, View()))
    names = (*_FILTERS, "span", "start_us", "end_us")
    return View() if last == title else View(**{name: getattr(view, name) for name in names})


def _sidebar(source: HistorySource, view: View, newest: int) -> View:
    """Widgets that begin at what the address says, and write it when they change."""
    start, end = view.bounds(newest)
    bounds = Bounds(start, end + 1)
    with st.sidebar:
        chosen: dict[str, Any] = {name: _choice(source, name, view, bounds) for name in _FILTERS}
        if view.start_us is not None:
            st.caption(f"from {_for_people(start)}  \nto {_for_people(end)}")
            if st.button("newest windows", help="Leave this stretch of time for the newest windows."):
                view = replace(view, start_us=None, end_us=None)
        else:
            spans = list(SPANS)
            span = st.selectbox("time", spans, index=spans.index(view.span), help="Before the newest window.")
            view = replace(view, span=span)
        if view.end_us is None:
            st.toggle(
                f"refresh every {refresh_seconds()} s",
                key="mlmon_refresh",
                help="Read new windows as they are written.",
            )
        st.caption(f"newest window ended  \n{_for_people(newest)}")
    return replace(view, **chosen)


def _for_people(time_us: int) -> str:
    """A moment that does not break at its dashes."""
    return moment_words(time_us).replace("-", "\N{NON-BREAKING HYPHEN}")


def _choice(source: HistorySource, name: str, view: View, bounds: Bounds) -> str:
    current = getattr(view, name)
    try:
        values = _values(source, bounds, source.version())[name]
    except HistoryError as error:
        st.error(str(error))
        values = []
    options = [_ALL, *sorted({*values, *([current] if current else [])})]
    picked = st.selectbox(name, options, index=options.index(current) if current else 0)
    return "" if picked == _ALL else str(picked)


@st.cache_data(show_spinner=False, max_entries=64, ttl=3600)
def _values(_source: HistorySource, bounds: Bounds, version: str) -> dict[str, list[str]]:
    del version  # only keys the cache
    frame = _source.choices(bounds)
    return {name: sorted({str(value) for value in frame[name] if value}) for name in _FILTERS}


def refresh_seconds() -> int:
    """How often a page that refreshes itself does."""
    return int(os.environ.get(REFRESH, "30"))


def baselines() -> BaselineStore | None:
    """The baselines that were given; None without any, or where they cannot be read, which is said."""
    paths = tuple(path for path in os.environ.get(BASELINES, "").split(os.pathsep) if path)
    if not paths:
        return None
    try:
        return _baselines(paths)
    except BaselineError as error:
        st.warning(str(error), icon=":material/broken_image:")
        return None


@st.cache_resource(show_spinner="reading the baseline")
def _baselines(paths: tuple[str, ...]) -> BaselineStore:
    return BaselineStore.load(paths)


def configuration() -> Config | None:
    """The configuration that was given; None without one, or where it cannot be read, which is said."""
    path = os.environ.get(CONFIG, "")
    if not path:
        return None
    try:
        return _configuration(path, Path(path).stat().st_mtime_ns)
    except (ConfigError, OSError) as error:
        st.warning(str(error), icon=":material/broken_image:")
        return None


@st.cache_resource(show_spinner=False, max_entries=4)
def _configuration(path: str, changed: int) -> Config:
    del changed  # only keys the cache
    return load_config(path)


def chart(figure: go.Figure, key: str, **more: Any) -> Any:
    """Draw a figure in the page's width and theme."""
    return st.plotly_chart(
        figure, key=key, theme="streamlit", config={"displaylogo": False, "responsive": True}, **more
    )


def table(frame: pd.DataFrame, **columns: Any) -> None:
    """Draw a table, with how its columns are shown; what is absent is a dash where Streamlit can say so."""
    more: dict[str, Any] = {"placeholder": "-"} if "placeholder" in _DATAFRAME else {}
    st.dataframe(frame, hide_index=True, column_config=columns, **more)


def empty(what: str, todo: str) -> None:
    """Say that there is nothing, and what to do about it."""
    st.info(f"**{what}**\n\n{todo}", icon=":material/inbox:")


def address(page: str, view: View, **changes: Any) -> str:
    """The address of a page with this view, changed, as far as it is known from within."""
    base = str(st.context.url or "http://127.0.0.1:8501").split("?")[0].rstrip("/")
    root = base.rsplit("/", 1)[0] if base.count("/") > 2 else base
    return f"{root}/{page}?{urlencode(replace(view, **changes).to_query())}"


def link(page: str, label: str, view: View, **changes: Any) -> None:
    """A link to another page with this view, changed."""
    query = replace(view, **changes).to_query()
    st.page_link(f"screens/{page}.py", label=label, icon=":material/arrow_forward:", query_params=query)
