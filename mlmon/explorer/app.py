"""The Streamlit app: its pages and their order. `mlmon explore` runs it."""

from __future__ import annotations

import streamlit as st


def run() -> None:
    """Draw the page that the address names."""
    st.set_page_config(page_title="mlmon", page_icon=":material/troubleshoot:", layout="wide")
    pages = [
        st.Page("pages/overview.py", title="Overview", icon=":material/dashboard:", default=True),
        st.Page("pages/incident.py", title="Incident", icon=":material/emergency:"),
        st.Page("pages/fields.py", title="Features and predictions", icon=":material/bar_chart:"),
        st.Page("pages/tokenizer.py", title="Tokenizer", icon=":material/segment:"),
        st.Page("pages/embeddings.py", title="Embeddings", icon=":material/scatter_plot:"),
        st.Page("pages/compare.py", title="Compare", icon=":material/compare:"),
        st.Page("pages/simulate.py", title="Simulate", icon=":material/casino:"),
    ]
    st.navigation(pages).run()
    if st.session_state.get("mlmon_refresh"):
        _refresh()


@st.fragment(run_every=30)
def _refresh() -> None:
    """Run the page again when half a minute is over; what did not change comes from the cache."""
    if st.session_state.get("mlmon_drawn"):
        st.session_state["mlmon_drawn"] = False
        st.rerun()
    st.session_state["mlmon_drawn"] = True


if __name__ == "__main__":
    run()
