"""The bytes behind an http or https address, within limits of size and time.

Knows: addresses. Does not know: images, question files, models.
"""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from http.client import HTTPException

from vdd._check import UserError

MAX_BYTES = 50_000_000
"""Larger files are not read to their end."""

MAX_SECONDS = 30.0
"""For each wait on the network, and for the whole content."""

SCHEMES = ("http", "https")


def fetched(url: str, *, max_bytes: int = MAX_BYTES, max_seconds: float = MAX_SECONDS) -> bytes:
    """What lies at `url`.

    Redirections are followed to http and https alone: the opener knows no other scheme.

    Args:
        url: http:// or https://.
        max_bytes: of the content.
        max_seconds: for each wait on the network, and for the whole content.

    Raises:
        UserError: on another scheme, no answer in time, an error status, or content beyond the limits.
    """
    if _scheme(url) not in SCHEMES:
        raise UserError(f"a URL of the scheme {_scheme(url)!r}; wanted {' or '.join(SCHEMES)}")
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.UnknownHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPErrorProcessor,
        _Redirections,
    ):
        opener.add_handler(handler())
    end = time.monotonic() + max_seconds
    content = bytearray()
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "visual-debias-decoding"})
        with opener.open(request, timeout=max_seconds) as answer:
            length = answer.headers.get("Content-Length")
            while chunk := answer.read1(1 << 16):
                content += chunk
                if len(content) > max_bytes:
                    raise UserError(f"more than {max_bytes:,} bytes; wanted a smaller file")
                if time.monotonic() > end:
                    raise UserError(f"not there after {max_seconds:g} seconds; wanted a faster answer")
        if length is not None and len(content) < int(length):
            raise UserError(f"only {len(content):,} of {int(length):,} bytes came; wanted them all")
    except urllib.error.HTTPError as error:
        error.close()
        raise UserError(f"the server says {error.code} ({error.reason}); wanted an image's address") from error
    except (OSError, HTTPException, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"cannot be fetched ({error or type(error).__name__}); is the address right?") from error
    return bytes(content)


def _scheme(url: str) -> str:
    return url.partition(":")[0].lower()


class _Redirections(urllib.request.HTTPRedirectHandler):
    """Follows a redirection to http and https, nowhere else."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):  # type: ignore[no-untyped-def]
        """The next request, or an error where it would leave the web."""
        if _scheme(newurl) not in SCHEMES:
            raise UserError(f"redirected to the scheme {_scheme(newurl)!r}; wanted {' or '.join(SCHEMES)}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)
