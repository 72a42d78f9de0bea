"""Embeddings: shift and spread over time, and a sample in two dimensions to select from."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import streamlit as st

from mlmon.errors import MlmonError
from mlmon.explorer import embedding_view as view
from mlmon.explorer.fieldview import field_charts
from mlmon.explorer.figures import Points, scatter
from mlmon.explorer.shell import SHOW_TEXT, TEXTS, baselines, begin, chart, empty, table
from mlmon.explorer.texts import Asked, find_texts
from mlmon.monitors.embedding_fields import SHIFT, TYPICALITY
from mlmon.stats.mmd import mmd_test

if TYPE_CHECKING:
    import pandas as pd

    from mlmon.explorer.embedding_view import Cloud, Flat
    from mlmon.explorer.shell import Page

_METHODS = {"pca": "PCA", "umap": "UMAP"}
_AXES = {
    "pca": ("first direction, embedding units", "second direction, embedding units"),
    "umap": ("UMAP 1, no unit", "UMAP 2, no unit"),
}
#: Selected events that are listed, and whose neighbours are looked for.
_LISTED, _NEAR = 500, 50
_PERMUTATIONS = 100


def draw() -> None:
    """Draw the page."""
    page = begin("Embeddings", "Do embeddings still come from where the baseline's came from?")
    if page is None:
        return
    drawn = [field_charts(page, "embeddings", field) for field in (SHIFT, TYPICALITY)]
    if not any(drawn):
        empty(
            "No embedding field is judged here.",
            "Build a baseline of events with `embedding` (25 a dimension or more) and name it in "
            "`[baseline] files`.",
        )
    st.subheader("A sample in two dimensions")
    cloud: Cloud | None = page.cached(view.current_cloud)
    if cloud is None:
        empty(
            "No event here has an embedding.",
            "The history keeps them with `[monitors.samples] embeddings = true` and `rows` above 0, of "
            "events that carry `embedding`.",
        )
        return
    _map(page, cloud, _baseline(page, cloud))


def _baseline(page: Page, cloud: Cloud) -> Cloud | None:
    """The baseline's sample, where it can be compared; else why not is said."""
    store = baselines()
    digests = tuple(one.digest for one in store.baselines) if store else ()
    key = ("cloud", digests, cloud.key)
    found: Cloud | None = page.computed(view.baseline_cloud, key, store, cloud.key, page.view.segment)
    if found is None:
        st.caption(
            f"No baseline given covers {'/'.join(cloud.key)} with embeddings: directions are those of the "
            "events themselves. `mlmon explore --baseline FILE` gives one."
        )
    elif found.vectors.shape[1] != cloud.vectors.shape[1]:
        st.warning(
            f"The baseline's embeddings have {found.vectors.shape[1]} dimensions, these "
            f"{cloud.vectors.shape[1]}: another encoder answers.",
            icon=":material/warning:",
        )
        return None
    return found


def _map(page: Page, cloud: Cloud, baseline: Cloud | None) -> None:
    method, colour = _choices(page)
    key = ("flat", method, cloud.key, baseline is None)
    other = None if baseline is None else baseline.vectors
    flat: Flat = page.computed(view.flatten, key, cloud.vectors, other, method)
    words = [f"{row.time:%m-%d %H:%M}  {row.prediction or ''}" for row in cloud.events.itertuples()]
    shown = []
    for group in view.groups(cloud.events, colour):
        rows = group.rows.tolist()
        shown.append(Points(group.name, flat.now[group.rows], rows, [words[row] for row in rows]))
    title = f"{'/'.join(cloud.key)}: {len(cloud.events):,} of {cloud.of:,} events kept, by {colour}"
    figure = scatter(shown, flat.baseline, title, _AXES[method])
    state = chart(figure, "map", on_select="rerun", selection_mode=("box", "lasso"))
    if flat.share is not None:
        st.caption(
            f"These two directions have {flat.share:.0%} of the variance. Drag a box or a lasso to select."
        )
    chosen = view.selected(state, len(cloud.events))
    _selection(cloud, chosen)
    if baseline is not None:
        _compare(cloud, chosen, baseline)


def _choices(page: Page) -> tuple[str, str]:
    """How it is drawn, as the address says it: METHOD-COLOUR."""
    method, _, colour = page.view.show.partition("-")
    method = method if method in _METHODS else "pca"
    colour = colour if colour in view.COLOURS else view.COLOURS[0]
    left, right = st.columns(2)
    names = list(_METHODS)
    picked = left.radio(
        "projection", names, index=names.index(method), format_func=_METHODS.__getitem__, horizontal=True
    )
    method = picked or method
    colour = right.selectbox("colour", view.COLOURS, index=view.COLOURS.index(colour))
    page.remember(show=f"{method}-{colour}" if (method, colour) != ("pca", view.COLOURS[0]) else "")
    if method == "umap" and not view.has_umap():
        st.warning("UMAP is not installed (`pip install umap-learn`): this is PCA.", icon=":material/info:")
        method = "pca"
    return method, colour


def _selection(cloud: Cloud, rows: list[int]) -> None:
    if not rows:
        st.caption("Nothing is selected: the test below looks at all events of the sample.")
        return
    listed = cloud.events.iloc[rows[:_LISTED]].copy()
    texts = _texts(cloud, listed)
    if texts is not None:
        listed.insert(1, "text", texts)
    table(
        listed,
        time=st.column_config.DatetimeColumn("event time, UTC", format="YYYY-MM-DD HH:mm:ss"),
        confidence=st.column_config.NumberColumn(format="%.3f"),
        entropy=st.column_config.NumberColumn("entropy, nats", format="%.3f"),
    )
    more = f", the first {_LISTED} are listed" if len(rows) > _LISTED else ""
    st.caption(f"{len(rows):,} events selected{more}.")


def _texts(cloud: Cloud, listed: pd.DataFrame) -> list[str] | None:
    """Texts of events, only where their store was given and showing them was allowed."""
    directory = os.environ.get(TEXTS, "")
    if not directory or os.environ.get(SHOW_TEXT) != "1":
        return None
    times = listed["time"].dt.as_unit("us").astype("int64")
    asked = [Asked(cloud.key.service, cloud.key.model, int(time)) for time in times]
    try:
        found = find_texts(directory, set(asked))
    except MlmonError as error:
        st.warning(str(error), icon=":material/lock:")
        return None
    st.caption(
        f"{len(found):,} of {len(asked):,} texts are in the mirror; others were not kept, or not long."
    )
    return [found.get(one, "") for one in asked]


def _compare(cloud: Cloud, rows: list[int], baseline: Cloud) -> None:
    """Exact test and neighbours, when they are asked for."""
    some = len(rows) > 1
    what = f"{len(rows):,} selected" if some else f"all {len(cloud.vectors):,}"
    left, right = st.columns(2)
    if left.button(f"Exact MMD of {what} events against the baseline", disabled=len(cloud.vectors) < 2):
        points = cloud.vectors[rows] if some else cloud.vectors
        count = len(points) + len(baseline.vectors)
        with left, st.spinner(f"{count:,} points, {_PERMUTATIONS} permutations", show_time=True):
            result = mmd_test(points, baseline.vectors, permutations=_PERMUTATIONS)
        left.metric("MMD²", f"{result.mmd2:.3g}", help=f"Gaussian kernel of width {result.bandwidth:.3g}.")
        left.metric("p-value", f"{result.p_value:.3g}", help="By permutation; at least 1/101.")
        if some:
            left.caption("Selected by eye: a small p-value only says that the region was well chosen.")
    if right.button(f"Nearest events of the baseline to the selected ({_NEAR} at most)", disabled=not rows):
        with right, st.spinner("distances", show_time=True):
            near = view.neighbours(cloud, rows[:_NEAR], baseline)
        table(near)


if __name__ == "__main__":
    draw()
