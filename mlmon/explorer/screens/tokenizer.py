"""Tokenizer: ratios over time beside their baseline, and the tokens that moved."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from mlmon.errors import ConfigError
from mlmon.explorer import fields, tokenizer
from mlmon.explorer.figures import Line, add_band, bars, lines
from mlmon.explorer.shell import baselines, begin, chart, configuration, empty, link, table

if TYPE_CHECKING:
    import pandas as pd

    from mlmon.explorer.shell import Page


def draw() -> None:
    """Draw the page."""
    page = begin("Tokenizer", "How texts fall into tokens: another tokenizer or another language shows here.")
    if page is None:
        return
    rows = page.cached(tokenizer.readings)
    if rows.empty:
        empty(
            "No token counts in this time.",
            "Events need `tokens`, `words`, `unknown_tokens` and the like, or `token_ids` and a tokenizer "
            "file (`[registry] tokenizers`); see docs/events.md.",
        )
    else:
        _ratios(page, rows)
    _token_ids(page)
    link("fields", "all fields of the tokenizer, by evidence", page.view, monitor="tokenizer")


def _ratios(page: Page, rows: pd.DataFrame) -> None:
    store = baselines()
    shown = [one for one in tokenizer.MEASURES if (rows["metric"] == one.metric).any()]
    columns = st.columns(2)
    whose = ""
    for index, measure in enumerate(shown):
        named = tokenizer.series(rows, measure.metric)
        figure = lines([Line(name, part) for name, part in named], measure.title, measure.unit)
        if measure.unit.endswith(("word", "token")):
            figure.update_yaxes(rangemode="normal")  # far from 0 whatever happens
        usual = tokenizer.band(store, rows, measure, page.view.segment)
        if usual is not None:
            whose = "/".join(usual[1])
            text = f"baseline, windows of {usual[0].events:,} events"
            add_band(figure, (usual[0].low, usual[0].high), usual[0].mean, text)
        with columns[index % 2]:
            chart(figure, f"ratio-{measure.metric}")
    if whose:
        st.caption(
            f"Band: the baseline of {whose}, its mean and three standard deviations of a window with as many "
            "events as those shown. It is for the eye: pages come from the evidence of the fields."
        )
    else:
        st.caption("No band: no baseline given covers these versions (`mlmon explore --baseline FILE`).")


def _token_ids(page: Page) -> None:
    st.subheader("Tokens that moved")
    found = page.cached(fields.distribution, "tokenizer", tokenizer.TOKEN_IDS)
    if found is None:
        st.caption(
            "Not counted: events carry no token ids, or no baseline has them. Send `token_ids` in events and "
            "build a baseline of them."
        )
        return
    total, events, key = found
    reference = fields.reference_of(baselines(), key, page.view.segment, "tokenizer", tokenizer.TOKEN_IDS)
    shown = fields.beside(total, events, reference, most=None)
    if not shown.reference:
        empty("No baseline has these tokens.", f"None of those given covers {'/'.join(key)}.")
        return
    try:
        names = page.computed(tokenizer.vocabulary, ("vocabulary", *key), configuration(), key)
    except ConfigError as error:
        st.warning(str(error), icon=":material/broken_image:")
        names = None
    moved = tokenizer.moved_tokens(shown, names)
    top = moved.head(30)
    labels = [token or name for token, name in zip(top["token"], top["id"], strict=True)]
    groups = [
        (f"now ({shown.events:,} events)", labels, top["now"].tolist()),
        (f"baseline ({shown.reference_events:,} events)", labels, top["baseline"].tolist()),
    ]
    chart(bars(groups, "Tokens that moved most", "token", "share of tokens"), "tokens")
    percent = st.column_config.NumberColumn(format="percent")
    table(
        moved,
        now=percent,
        baseline=percent,
        difference=percent,
        times=st.column_config.NumberColumn("now / baseline", format="%.2f"),
        part=st.column_config.NumberColumn("part of the shift", format="percent"),
    )
    if names is None:
        st.caption(
            f"Ids are not decoded: name the tokenizer in the configuration, `[registry] tokenizers` "
            f'"{key.model}" = "PATH/tokenizer.json", and give it with `-c`.'
        )


if __name__ == "__main__":
    draw()
