"""The Streamlit app: its pages and their order. `mlmon explore` runs it."""

from __future__ import annotations

import streamlit as st

from mlmon.explorer.shell import refresh_seconds

#: The icon of the browser's tab: within the page, since a named one would be asked of another host.
_ICON = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><rect width="32" height="32" rx="6"
fill="#0072B2"/><path d="M4 19h6l3-10 5 17 4-11 1 4h5" fill="none" stroke="#fff" stroke-width="2.6"
stroke-linecap="round" stroke-linejoin="round"/></svg>"""


def run() -> None:
    """Draw the page that the address names."""
    st.set_page_config(page_icon=_ICON, layout="wide")  # the title is the page's own
    pages = [
        st.Page("screens/overview.py", title="Overview", icon=":material/dashboard:", default=True),
        st.Page("screens/incident.py", title="Incident", icon=":material/emergency:"),
        st.Page("screens/fields.py", title="Features and predictions", icon=":material/bar_chart:"),
        st.Page("screens/tokenizer.py", title="Tokenizer", icon=":material/segment:"),
        st.Page("screens/embeddings.py", title="Embeddings", icon=":material/scatter_plot:"),
        st.Page("screens/compare.py", title="Compare", icon=":material/compare:"),
        st.Page("screens/simulate.py", title="Simulate", icon=":material/casino:"),
    ]
    st.navigation(pages).run()
    if st.session_state.get("mlmon_refresh"):
        _refresh()


@st.fragment(run_every=refresh_seconds())
def _refresh() -> None:
    """Run the page again when its time is over; what did not change comes from the cache."""
    if st.session_state.get("mlmon_drawn"):
        st.session_state["mlmon_drawn"] = False
        st.rerun()
    st.session_state["mlmon_drawn"] = True


if __name__ == "__main__":
    run()
