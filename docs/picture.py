"""Makes docs/demo.svg, the README's picture, from a real run of the demo.

python docs/picture.py
"""

from __future__ import annotations

import io
import re
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console

from mlmon.demo.story import Options, run_demo


def _without_remote_fonts() -> str:
    """rich's frame, less the fonts it would fetch from elsewhere."""
    return re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)


def main() -> None:
    """Run the demo, keep what it printed."""
    console = Console(record=True, width=128, file=io.StringIO(), force_terminal=False)
    run_demo(Options(seconds=12), console)
    svg = console.export_svg(title="make demo", code_format=_without_remote_fonts())
    Path(__file__).with_name("demo.svg").write_text(svg)


if __name__ == "__main__":
    main()
