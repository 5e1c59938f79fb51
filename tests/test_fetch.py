"""Fetching from a server on this machine: limits, errors, redirections."""

from __future__ import annotations

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from vdd._check import UserError
from vdd.fetch import fetched

BODY = bytes(range(256)) * 40


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        targets = {"/web": "/body", "/ftp": "ftp://localhost/a", "/file": "file:///etc/hostname", "/loop": "/loop"}
        if self.path in targets:
            self.send_response(302)
            self.send_header("Location", targets[self.path])
            self.end_headers()
        elif self.path == "/drip":
            self.send_response(200)
            self.end_headers()
            for byte in BODY[:10]:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                time.sleep(0.05)
        elif self.path in ("/body", "/slow", "/cut"):
            self.send_response(200)
            self.send_header("Content-Length", str(len(BODY) * (2 if self.path == "/cut" else 1)))
            self.end_headers()
            if self.path == "/slow":
                time.sleep(0.6)
            self.wfile.write(BODY)
        else:
            self.send_error(404)

    def log_message(self, *_args) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_address[1]}"
        httpd.shutdown()


@pytest.fixture(autouse=True)
def without_proxy(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def test_the_content_comes_whole_also_by_a_redirection(server):
    assert fetched(f"{server}/body") == BODY
    assert fetched(f"{server}/web") == BODY


@pytest.mark.parametrize(
    ("path", "limits", "complaint"),
    [
        ("/body", {"max_bytes": len(BODY) - 1}, "more than 10,239 bytes; wanted a smaller file"),
        ("/slow", {"max_seconds": 0.2}, "timed out"),
        ("/drip", {"max_seconds": 0.2}, "not there after 0.2 seconds"),
        ("/nothing", {}, "the server says 404"),
        ("/cut", {}, "only 10,240 of 20,480 bytes came"),
        ("/ftp", {}, "redirected to the scheme 'ftp'; wanted http or https"),
        ("/file", {}, "Redirection to url 'file:///etc/hostname' is not allowed"),
        ("/loop", {}, "the server says 302"),
    ],
)
def test_what_is_too_large_late_lost_or_elsewhere_is_a_users_error(server, path, limits, complaint):
    with pytest.raises(UserError, match=complaint):
        fetched(server + path, **limits)


@pytest.mark.parametrize("url", ["ftp://localhost/a", "file:///etc/hostname", "data:,a", "//localhost/a"])
def test_other_schemes_are_refused_before_anything_is_opened(url):
    with pytest.raises(UserError, match=r"a URL of the scheme '.*'; wanted http or https"):
        fetched(url)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/a", "http://", "http://[::1", "http://a b/"])
def test_an_address_that_nobody_answers_is_a_users_error(url):
    with pytest.raises(UserError, match=r"cannot be fetched|scheme"):
        fetched(url, max_seconds=2)
