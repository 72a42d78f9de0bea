"""Monitoring for masked-language-model services.

The package is layered; imports go only downward (see `pyproject.toml`, import-linter):
faces (`cli`), composition (`app`, `config`), services (`attach`), edges (`sources`, `checkpoint`,
`publish`, `registry`), `engine`, `monitors`, state (`windows`), `stats`, contract (`events`, `catalog`),
ground (`errors`, `clock`).
"""

__version__ = "0.1.0"

__all__ = ["__version__"]
