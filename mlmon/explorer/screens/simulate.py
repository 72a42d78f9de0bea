"""Simulate: what another budget, window, tolerance or sampling would do, before anyone is paged by it."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

import msgspec
import pandas as pd
import streamlit as st

from mlmon.errors import MlmonError
from mlmon.explorer import whatif
from mlmon.explorer.figures import Line, duration_bars, lines
from mlmon.explorer.shell import baselines, begin, chart, configuration, empty, table
from mlmon.explorer.whatif import Setting

if TYPE_CHECKING:
    from mlmon.baseline.model import ScopeKey
    from mlmon.baseline.store import BaselineStore
    from mlmon.config import Config
    from mlmon.explorer.shell import Page
    from mlmon.explorer.whatif import Found

#: Results that are kept, over all viewers.
_KEPT = 64
_HELP = {
    "budget": "Pages of traffic that did not change, in 30 days.",
    "tolerance": "How far embeddings may move unnoticed, in standard deviations.",
    "sampling": "How many events are sampled, as a multiple of the baseline's.",
}


def draw() -> None:
    """Draw the page."""
    page = begin("Simulate", "What a setting would page, and how soon, in traffic drawn from the baseline.")
    if page is None:
        return
    store = baselines()
    if store is None or not store.scopes:
        empty(
            "No baseline to draw traffic from.",
            "`mlmon explore --baseline FILE`, or a configuration with `[baseline] files` by `-c`.",
        )
        return
    key = _scope(page, store)
    if key is None:
        return
    config = configuration()
    setting, changed = _setting(page, config)
    asked = st.button("Simulate", type="primary", help="Takes from some seconds to a minute.")
    run = asked or (page.view.show == "run" and not changed)
    page.remember(show="run" if run else "")
    kept = (store.digest_of(key), key, setting, msgspec.json.encode(config))
    found = _result(store, key, setting, config, kept) if run else _results().get(kept)
    if found is not None:
        _show(found, setting)
    st.subheader("The configuration")
    text = whatif.toml_of(setting)
    st.code(text, language="toml")
    st.download_button("Download (TOML)", text, "mlmon-draft.toml", "application/toml", on_click="ignore")
    st.caption(
        f"A draft by few windows. `mlmon simulate BASELINE -c FILE --scope {'/'.join(key)}` looks at months, "
        "with bursts and the course of a day."
    )


def _scope(page: Page, store: BaselineStore) -> ScopeKey | None:
    """Whose traffic; the address keeps it as a field."""
    names = ("service", "model", "version")
    wanted = [(name, page.where[name]) for name in names if name in page.where]
    keys = sorted(key for key in store.scopes if all(getattr(key, name) == value for name, value in wanted))
    if not keys:
        covered = ", ".join("/".join(key) for key in sorted(store.scopes)[:10])
        empty("No baseline of this service, model and version.", f"Those given cover {covered}.")
        return None
    labels = ["/".join(key) for key in keys]
    index = labels.index(page.view.field) if page.view.field in labels else 0
    picked = keys[index]
    if len(keys) > 1:
        picked = keys[labels.index(st.selectbox("traffic of", labels, index=index))]
        page.remember(field="/".join(picked))
    return picked


def _setting(page: Page, config: Config | None) -> tuple[Setting, bool]:
    """What is tried out, from the address; and whether it was changed just now."""
    now = whatif.present(config)
    columns = st.columns(4)
    said = [
        ("budget", "false pages a month", whatif.BUDGETS, f"{now.budget:g}"),
        ("window", "window, seconds", whatif.WINDOWS, str(now.window_seconds)),
        ("tolerance", "tolerance of embeddings", whatif.TOLERANCES, f"{now.tolerance:g}"),
        ("sampling", "sampled events / the baseline's", whatif.SAMPLINGS, "1"),
    ]
    picked: dict[str, str] = {}
    for column, (name, label, choices, preset) in zip(columns, said, strict=True):
        held = getattr(page.view, name)
        if held and not whatif.is_choice(name, held):
            st.warning(
                f"{name}: expected {whatif.RANGES[name]}; got {held[:40]!r}", icon=":material/link_off:"
            )
            held = ""
        options = sorted({*choices, preset, *([held] if held else [])}, key=float)
        picked[name] = str(
            column.selectbox(label, options, index=options.index(held or preset), help=_HELP.get(name))
        )
    changes = {name: "" if picked[name] == preset else picked[name] for name, _, _, preset in said}
    changed = any(changes[name] != getattr(page.view, name) for name in changes)
    page.remember(**changes)
    setting = Setting(
        float(picked["budget"]),
        int(picked["window"]),
        float(picked["tolerance"]),
        float(picked["sampling"]),
    )
    return setting, changed


@st.cache_resource
def _results() -> OrderedDict[tuple[object, ...], Found]:
    """Results by setting: not `st.cache_data`, which would replay the progress bar."""
    return OrderedDict()


def _result(
    store: BaselineStore, key: ScopeKey, setting: Setting, config: Config | None, kept: tuple[object, ...]
) -> Found | None:
    results = _results()
    if kept not in results:
        bar = st.progress(0.0, "calibrating a baseline drawn anew")
        try:
            found = whatif.simulate(
                store.scopes[key], config, setting, lambda share: bar.progress(share, "simulating windows")
            )
        except MlmonError as error:
            st.error(str(error))
            return None
        finally:
            bar.empty()
        results[kept] = found
        while len(results) > _KEPT:
            results.popitem(last=False)
    return results[kept]


def _plain(value: float) -> str:
    """Two digits of it, never as a power of ten."""
    return f"{float(f'{value:.2g}'):,.10g}"


def _show(found: Found, setting: Setting) -> None:
    columns = st.columns(4)
    low, high = found.interval
    columns[0].metric("false pages a month", _plain(found.per_month), help="In traffic that does not change.")
    columns[1].metric(
        "95 % interval", f"{_plain(low)} to {_plain(high)}", help=f"Of {found.windows:,} windows."
    )
    columns[2].metric("events to a window", f"{found.events:,.0f}")
    hours = found.windows * setting.window_seconds / 3600
    columns[3].metric("time simulated", f"{hours:.1f} h")
    if found.pages == 0:
        st.caption(
            f"No false page in {found.windows:,} windows, which cannot tell budgets of less than "
            f"{_plain(high)} a month apart. The evidence below shows how near one was."
        )
    left, right = st.columns(2)
    with left:
        times = [index * hours / max(1, len(found.closest)) for index in range(len(found.closest))]
        frame = pd.DataFrame({"time": times, "value": found.closest})
        limit = pd.DataFrame({"time": [0.0, hours], "value": [1.0, 1.0]})
        series = [Line("nearest to a page", frame), Line("a page is due", limit, limit=True)]
        figure = lines(series, "Evidence without any change", "evidence / threshold", log=1e-9)
        right_figure = duration_bars(found.delays, found.limit_seconds)
        figure.update_layout(height=right_figure.layout.height)
        figure.update_xaxes(title={"text": "simulated time, hours"})
        figure.update_yaxes(exponentformat="power")
        chart(figure, "closest")
    with right:
        chart(right_figure, "delays")
    table(
        found.delays,
        found=st.column_config.NumberColumn("runs that found it"),
        median_seconds=st.column_config.NumberColumn("median delay, s", format="localized"),
        cause="blamed on",
    )


if __name__ == "__main__":
    draw()
