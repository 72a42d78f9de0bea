"""The explorer: from a page to its cause, over the history that the sidecar keeps.

Loading and charting are pure and know no Streamlit; `app.py` and `screens/` only arrange what they return.
"""
