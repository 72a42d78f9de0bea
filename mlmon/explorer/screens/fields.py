"""Features and predictions: fields ranked by evidence, beside their baseline, and who carries the shift."""

from __future__ import annotations

from mlmon.explorer import fields
from mlmon.explorer.fieldview import chosen_field, field_view, ranking_table
from mlmon.explorer.shell import begin, empty


def draw() -> None:
    """Draw the page."""
    page = begin("Features and predictions", "Fields by the evidence that they moved by more than matters.")
    if page is None:
        return
    table = page.cached(fields.ranking)
    if table.empty:
        empty(
            "No field is judged here.",
            "Make a baseline (`mlmon baseline build`), name it in `[baseline] files`, and wait for a window. "
            "Where there is one, it has too few events of this version or segment.",
        )
        return
    ranking_table(table.head(50))
    monitor, field = chosen_field(page, table)
    field_view(page, monitor, field)


if __name__ == "__main__":
    draw()
