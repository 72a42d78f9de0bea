"""The explorer as a web application: Streamlit's own, but for the page that every address is answered with.

Streamlit's frontend looks for its server below the address that it has, at `/incident/_stcore/health`
first, and only when that is not found at `/_stcore/health`. Every deep link would begin with two requests
that fail, and with their errors in the browser's console. Here the page says where the server is: its own
address without the explorer's page, so that it holds below a proxy's prefix too.

`mlmon explore` has `streamlit run` run this file; a Streamlit without `streamlit.starlette` runs `app.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import streamlit
from starlette.responses import HTMLResponse
from starlette.routing import Route
from streamlit import config
from streamlit.starlette import App

if TYPE_CHECKING:
    from starlette.requests import Request

__all__ = ["PAGES", "app", "index_html"]

_HERE = Path(__file__).parent
#: Addresses of the pages, after their files; the first page is at the root, too.
PAGES = tuple(sorted(path.stem for path in (_HERE / "screens").glob("[a-z]*.py")))
#: `location.pathname` less the name of a page at its end.
_SCRIPT = (
    "<script>window.__streamlit={BACKEND_BASE_URL:location.origin+location.pathname.replace("
    f'/({"|".join(PAGES)})\\/?$/,"")}};</script>'
)


def index_html(text: str) -> str:
    """Streamlit's page, with where its server is, and named as what it is."""
    return text.replace("<head>", f"<head>{_SCRIPT}", 1).replace(
        "<title>Streamlit</title>", "<title>mlmon</title>", 1
    )


def _index(_request: Request) -> HTMLResponse:
    path = Path(streamlit.__file__).parent / "static" / "index.html"
    return HTMLResponse(index_html(path.read_text(encoding="utf-8")), headers={"Cache-Control": "no-cache"})


_BASE = str(config.get_option("server.baseUrlPath") or "").strip("/")
_ROOT = f"/{_BASE}/" if _BASE else "/"

# found by `streamlit run`, which reads this line without running it
app = App(_HERE / "app.py", routes=[Route(_ROOT + name, _index) for name in ("", *PAGES)])
