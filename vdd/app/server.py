"""The page on an address: on this machine alone unless told otherwise; nothing is shared, counted or sent anywhere.

Knows: the page, the gate, Gradio's launching. Does not know: how a model is opened, printing.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from tempfile import TemporaryDirectory

from vdd._check import UserError, whole
from vdd.app.house import House
from vdd.app.received import LARGEST_UPLOAD
from vdd.pipeline import Pipeline

NAMES_OF_THIS_MACHINE = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Served:
    """A page that is being served.

    Attributes:
        url: for a browser on this machine.
        close: ends it.
        wait: until Ctrl-C.
    """

    url: str
    close: Callable[[], None]
    wait: Callable[[], None]


def serve(opener: Callable[[str], Pipeline], model: str, *, host: str = "127.0.0.1", port: int = 7860) -> Served:
    """Serve the page in threads of its own.

    Args:
        opener: a name → the model, ready to answer.
        model: that the page begins with; opened before anything is served.
        host: address to listen on. On others than this machine's own, visitors cannot open further models.
        port: 1 to 65535.

    Raises:
        UserError: where Gradio is not installed, the address cannot be listened on, or there is no such model.
    """
    check_address(host, port)
    try:
        import gradio as gr
        from starlette.middleware import Middleware
    except ModuleNotFoundError as error:
        raise UserError(
            f"app: {error.name} is not installed; wanted: pip install 'visual-debias-decoding[app]'."
        ) from error
    from vdd.app.gate import Gate
    from vdd.app.look import FONTS, MONOSPACE, STYLE
    from vdd.app.page import page

    own = is_own(host)
    house = House(opener, model, guests=own)
    uploads = TemporaryDirectory(prefix="vdd-app-")
    os.environ["GRADIO_TEMP_DIR"] = uploads.name  # Gradio's own is shared by every user and page of the machine
    direct = [os.environ.get("no_proxy") or os.environ.get("NO_PROXY", ""), "localhost", "127.0.0.1", host]
    os.environ["no_proxy"] = ",".join(filter(None, direct))  # Gradio looks at its own page, which no proxy sees
    blocks = page(house)
    hosts = {*NAMES_OF_THIS_MACHINE, host} if own else None
    gate = Middleware(Gate, uploads=uploads.name, hosts=hosts)
    theme = gr.themes.Default(primary_hue="slate", neutral_hue="slate", font=FONTS, font_mono=MONOSPACE)
    blocks.queue(max_size=64, api_open=False).launch(
        server_name=host,
        server_port=port,
        share=False,
        prevent_thread_lock=True,
        quiet=True,
        show_error=False,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        mcp_server=False,
        pwa=False,
        ssr_mode=False,
        max_file_size=LARGEST_UPLOAD,
        theme=theme,
        css=STYLE,
        app_kwargs={"middleware": [gate], "docs_url": None, "redoc_url": None, "openapi_url": None},
    )

    def close() -> None:
        blocks.close(verbose=False)
        uploads.cleanup()

    return Served(str(blocks.local_url), close, blocks.block_thread)


def check_address(host: str, port: int) -> None:
    """Raise UserError where an address cannot be listened on; better known before a model is opened."""
    whole("app", "port", port, low=1, high=65535)
    if ":" in host:
        raise UserError(f"app: host is {host!r}; wanted a name or an IPv4 address, which is what Gradio listens on.")
    try:
        family, kind, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as door:
            door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            door.bind(address)
    except OSError as error:
        why = error.strerror or str(error)
        raise UserError(
            f"app: {host}:{port} cannot be listened on ({why}); wanted an address of this machine and a free port "
            "(--host, --port)."
        ) from error


def is_own(host: str) -> bool:
    """Whether an address is reached from this machine alone.

    >>> is_own("127.0.0.1"), is_own("localhost"), is_own("0.0.0.0"), is_own("192.168.0.2")
    (True, True, False, False)
    """
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
