"""A `vdd app` in a process of its own, for the tests that knock at its door.

Imports nothing of this project.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

COMMAND = "import typer; from vdd.cli.app_page import app_page; typer.run(app_page)"
ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "NO_COLOR": "1", "PYTHONUTF8": "1"}
PATIENCE = 120  # seconds until the page is there


@dataclass(frozen=True)
class Server:
    """A running page.

    Attributes:
        port: on 127.0.0.1.
        said: file with what it has printed.
    """

    port: int
    said: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def asked(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
        """Status and body of what is answered; `_` in a header's name stands for `-`."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, headers=named)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def running(folder: Path, *arguments: str) -> Iterator[Server]:
    """The page on a free port until the end of the block; what it prints goes into a file of `folder`."""
    server = Server(free_port(), folder / "said.txt")
    command = [sys.executable, "-c", COMMAND, "--port", str(server.port), *arguments]
    with server.said.open("wb") as said:
        environment = {**ENVIRONMENT, "TMPDIR": str(folder)}  # uploads go with the test's own files
        process = subprocess.Popen(command, stdout=said, stderr=said, env=environment, cwd=Path(__file__).parents[1])
        try:
            deadline = time.monotonic() + PATIENCE
            while "Ctrl-C" not in server.said.read_text("utf-8"):
                assert process.poll() is None, server.said.read_text("utf-8")
                assert time.monotonic() < deadline, server.said.read_text("utf-8")
                time.sleep(0.1)
            yield server
        finally:
            process.terminate()
            process.wait(30)
