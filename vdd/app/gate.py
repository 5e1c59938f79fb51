"""What may be asked of the server, and what the page may ask of the world.

A list of what the page needs, all else is refused: no path of the server but what was uploaded, no address that the
server would fetch, no host name but its own. The browser is told to load nothing from anywhere else.

Knows: ASGI, Gradio's addresses. Does not know: the page, models.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, Iterator, MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

API = "/gradio_api"

READ = {"/", "/config", "/theme.css", "/favicon.ico", "/manifest.json", "/robots.txt", f"{API}/info"} | {
    f"{API}/{name}" for name in ("startup-events", "app_id", "queue/data", "upload_progress", "theme.css")
}
"""What is read."""

READ_UNDER = ("/assets/", "/static/", f"{API}/heartbeat/")
"""Folders of Gradio's own that are read, and a visitor's sign of life."""

FILE = f"{API}/file="
"""Before the path of an uploaded file."""

UPLOAD = f"{API}/upload"
WRITTEN = {UPLOAD, f"{API}/queue/join", f"{API}/cancel", f"{API}/reset", f"{API}/reset/"}
"""What is sent."""

LARGEST = 256 * 1024
"""Bytes of what is sent, uploads aside."""

POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)
"""Gradio's page writes scripts into itself and makes functions of text; nothing from elsewhere is loaded or asked."""

HEADERS = {
    "content-security-policy": POLICY,
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
"""Of every response."""


class Refused(Exception):
    """What is answered instead.

    Attributes:
        status: of HTTP.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Gate:
    """An ASGI application in front of Gradio's.

    Args:
        app: Gradio's.
        uploads: folder of uploaded files, the only ones that are given out.
        hosts: names that a browser may call this server by, so that no other page's name is pointed here; None for any.
    """

    def __init__(self, app: Any, *, uploads: str, hosts: Iterable[str] | None) -> None:
        self.app = app
        self.uploads = Path(uploads).resolve()
        self.hosts = None if hosts is None else frozenset(hosts)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Let a request through, or answer why not."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                kept = [pair for pair in message.get("headers", []) if pair[0].decode().lower() not in HEADERS]
                message["headers"] = kept + [(name.encode(), value.encode()) for name, value in HEADERS.items()]
            await send(message)

        try:
            receive = await self._checked(scope, receive)
        except Refused as refused:
            body = str(refused).encode()
            headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
            await send_with_headers({"type": "http.response.start", "status": refused.status, "headers": headers})
            await send({"type": "http.response.body", "body": body})
            return
        await self.app(scope, receive, send_with_headers)

    async def _checked(self, scope: Message, receive: Receive) -> Receive:
        """`receive`, where the request is one that the page makes; Refused otherwise."""
        named = dict(scope["headers"]).get(b"host", b"").decode("latin-1")
        if self.hosts is not None and host_of(named) not in self.hosts:
            raise Refused(421, f"This server is not called {named!r}.")
        path, method = str(scope["path"]), str(scope["method"])
        if method in ("GET", "HEAD"):
            self._check_read(path, scope["query_string"].decode("latin-1"))
            return receive
        if method != "POST" or path not in WRITTEN:
            raise Refused(404, "There is nothing here.")
        return receive if path == UPLOAD else await self._checked_body(receive)

    def _check_read(self, path: str, query: str) -> None:
        if path.startswith(FILE):
            if not self._was_uploaded(path.removeprefix(FILE)):
                raise Refused(403, "Only files that were uploaded here are given out.")
        elif ".." in path or not (path in READ or path.startswith(READ_UNDER)):
            raise Refused(404, "There is nothing here.")
        elif "deep_link" in parse_qs(query, keep_blank_values=True):
            raise Refused(404, "Links into this page are not kept.")

    async def _checked_body(self, receive: Receive) -> Receive:
        """A `receive` that gives the body again, where no path in it is another than an uploaded file's."""
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return _given(message)
            body += message.get("body", b"")
            more = bool(message.get("more_body"))
            if len(body) > LARGEST:
                raise Refused(413, f"More than {LARGEST:,} bytes came; wanted a question.")
        try:
            said = json.loads(body or b"null")
        except (ValueError, RecursionError):
            raise Refused(400, "What came is not JSON.") from None
        for path in paths_in(said):
            if not self._was_uploaded(path):
                raise Refused(403, "Only files that were uploaded here are read.")
        return _given({"type": "http.request", "body": body, "more_body": False}, then=receive)

    def _was_uploaded(self, path: object) -> bool:
        """Whether a path lies in the folder of uploads, whatever links and dots it has."""
        if not isinstance(path, str) or "\0" in path:
            return False
        try:
            found = Path(path).resolve()
        except (OSError, RuntimeError):
            return False
        return found.is_relative_to(self.uploads) and found != self.uploads


def host_of(named: str) -> str:
    """The name or address in a Host header, without its port.

    >>> host_of("localhost:7860"), host_of("[::1]:7860"), host_of("127.0.0.1")
    ('localhost', '::1', '127.0.0.1')
    """
    if named.startswith("["):
        return named[1:].partition("]")[0].lower()
    return named.partition(":")[0].lower()


def paths_in(said: Any) -> Iterator[object]:
    """What stands under "path" anywhere in a JSON value."""
    waiting = [said]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if value.get("path") is not None:
                yield value["path"]
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def _given(message: Message, then: Receive | None = None) -> Receive:
    """A `receive` that gives `message` first."""
    first = [message]

    async def receive() -> Message:
        if first:
            return first.pop()
        return await then() if then is not None else {"type": "http.disconnect"}

    return receive
