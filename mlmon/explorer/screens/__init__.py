"""The pages, one file each; Streamlit runs them.

Not named `pages`: Streamlit takes such a folder beside the app for its navigation until the app has run once,
and a deep link opened first would show a page without the app around it.
"""
