"""A local HTTP server that answers as Grafana's API documents it, and records and validates what it is asked.

Not Grafana: dashboards are stored as they come and shown to nobody. What it checks is what the documentation
of the API demands of requests: token, content type, required keys, versions, provenance of files.
"""

from __future__ import annotations

import json
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType
    from typing import Self

TOKEN = "glsa_0123456789abcdef"  # noqa: S105 - of nobody
_SECRET_SETTINGS = ("url", "token", "integrationKey")


class FakeGrafana:
    """Listens on a free port of the loopback while the context lasts.

    Args:
        certificate: PEM with certificate and key, to speak TLS.
        redirect: answer everything with a redirect to this address.
    """

    def __init__(self, certificate: Path | None = None, redirect: str = "") -> None:
        self.requests: list[tuple[str, str, Any]] = []
        self.folders: dict[str, dict[str, Any]] = {}
        self.boards: dict[str, dict[str, Any]] = {}
        self.points: dict[str, dict[str, Any]] = {}
        self.annotations: list[dict[str, Any]] = []
        self.redirect = redirect
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args: Any) -> None:
                pass

            def _serve(self) -> None:
                length = int(self.headers.get("Content-Length", 0))
                body = self.rfile.read(length)
                status, answer = owner.answer(self.command, self.path, dict(self.headers.items()), body)
                data = json.dumps(answer).encode()
                self.send_response(status)
                if status == 302:
                    self.send_header("Location", owner.redirect)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_PUT = _serve  # noqa: N815 - named by the library

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.scheme = "http"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
            self.scheme = "https"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self._server.server_port}"

    @property
    def writes(self) -> list[tuple[str, str]]:
        """(method, path) of every request that changes something."""
        return [(method, path) for method, path, _ in self.requests if method != "GET"]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def answer(self, method: str, target: str, headers: dict[str, str], body: bytes) -> tuple[int, Any]:
        """Status and JSON of the answer to one request."""
        parts = urlsplit(target)
        if self.redirect:
            return 302, {}
        if headers.get("Authorization") != f"Bearer {TOKEN}":
            return 401, {"message": "Invalid API key"}
        if method != "GET" and headers.get("Content-Type", "").split(";")[0] != "application/json":
            return 400, {"message": "bad request data: content type"}
        sent = json.loads(body) if body else None
        self.requests.append((method, parts.path, sent))
        path = parts.path.removeprefix("/api/").split("/")
        if path[0] == "v1":
            return self._contact_points(method, path, sent)
        if path[0] == "annotations":
            return self._annotations(method, path, sent, parse_qs(parts.query))
        match (method, path):
            case ("GET", ["folders", uid]):
                return self._found(self.folders.get(uid), "folder not found")
            case ("POST", ["folders"]):
                return self._make_folder(sent)
            case ("GET", ["dashboards", "uid", uid]):
                return self._found(self.boards.get(uid), "Dashboard not found")
            case ("POST", ["dashboards", "db"]):
                return self._save(sent)
        return 404, {"message": f"no such call: {method} {parts.path}"}

    def _contact_points(self, method: str, path: list[str], sent: Any) -> tuple[int, Any]:
        match (method, path):
            case ("GET", ["v1", "provisioning", "contact-points"]):
                return 200, [self._redacted(point) for point in self.points.values()]
            case ("POST", ["v1", "provisioning", "contact-points"]):
                return self._save_point(sent, exists=False)
            case ("PUT", ["v1", "provisioning", "contact-points", uid]):
                return self._save_point({**sent, "uid": uid}, exists=True)
        return 404, {"message": f"no such call: {method} {path}"}

    def _annotations(
        self, method: str, path: list[str], sent: Any, query: dict[str, list[str]]
    ) -> tuple[int, Any]:
        match (method, path):
            case ("GET", ["annotations"]):
                return 200, self._find_annotations(query)
            case ("POST", ["annotations"]):
                return self._annotate(sent)
            case ("PUT", ["annotations", number]):
                self.annotations[int(number) - 1] |= sent
                return 200, {"message": "Annotation updated"}
        return 404, {"message": f"no such call: {method} {path}"}

    def _found(self, what: Any, message: str) -> tuple[int, Any]:
        return (404, {"message": message}) if what is None else (200, what)

    def _make_folder(self, sent: dict[str, Any]) -> tuple[int, Any]:
        if not sent.get("title") or sent.get("uid") in self.folders:
            return 409, {"message": "a folder with the same name already exists"}
        self.folders[sent["uid"]] = {"uid": sent["uid"], "title": sent["title"], "version": 1}
        return 200, self.folders[sent["uid"]]

    def _save(self, sent: dict[str, Any]) -> tuple[int, Any]:
        board, folder = sent["dashboard"], sent.get("folderUid", "")
        if not board.get("title") or not isinstance(board.get("panels"), list):
            return 400, {"message": "Dashboard title cannot be empty"}
        if folder not in self.folders:
            return 400, {"message": "folder not found"}
        uid = board["uid"]
        old = self.boards.get(uid)
        if old is not None and old["meta"].get("provisioned"):
            return 400, {"message": "Cannot save provisioned dashboard"}
        version = 0 if old is None else old["dashboard"]["version"]
        if old is not None and not sent.get("overwrite") and board.get("version") != version:
            return 412, {
                "message": "The dashboard has been changed by someone else",
                "status": "version-mismatch",
            }
        stored = {**board, "id": len(self.boards) + 1 if old is None else old["dashboard"]["id"]}
        stored["version"] = version + 1
        self.boards[uid] = {"dashboard": stored, "meta": {"folderUid": folder, "provisioned": False}}
        return 200, {"uid": uid, "version": version + 1, "status": "success"}

    def _redacted(self, point: dict[str, Any]) -> dict[str, Any]:
        hidden = {key: "[REDACTED]" for key in _SECRET_SETTINGS if key in point["settings"]}
        return {**point, "settings": point["settings"] | hidden, "provenance": "api"}

    def _save_point(self, sent: dict[str, Any], *, exists: bool) -> tuple[int, Any]:
        if not {"name", "type", "settings"} <= sent.keys():
            return 400, {"message": "contact point: name, type and settings are required"}
        if exists != (sent["uid"] in self.points):
            return (404 if exists else 409), {"message": "contact point"}
        self.points[sent["uid"]] = sent
        return 202, sent

    def _find_annotations(self, query: dict[str, list[str]]) -> list[dict[str, Any]]:
        tags, start, end = set(query["tags"]), int(query["from"][0]), int(query["to"][0])
        return [
            one
            for one in self.annotations
            if tags <= set(one["tags"]) and one["time"] <= end and one["timeEnd"] >= start
        ]

    def _annotate(self, sent: dict[str, Any]) -> tuple[int, Any]:
        if not sent.get("text"):
            return 400, {"message": "Failed to save annotation: text field should not be empty"}
        number = len(self.annotations) + 1
        end = sent["time"] if sent.get("timeEnd") is None else sent["timeEnd"]
        self.annotations.append({**sent, "id": number, "timeEnd": end})
        return 200, {"message": "Annotation added", "id": number}
