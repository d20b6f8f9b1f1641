"""Who may ask: judged by a request's headers alone, the same way for every application."""

from __future__ import annotations

import functools
import ipaddress

from finepoint.serving.messages import Request, Response, refusal
from finepoint.serving.tokens import Token


class Gate:
    """Refuses who shows no token, and what a browser sends for a page from elsewhere.

    Args:
        token: that clients must show, or None.
        any_host: answer whatever name the endpoint is asked by. Where no token is asked, on loopback, a page from
            elsewhere could give its own name this machine's address ("DNS rebinding") and would then pass for the
            endpoint's own page; its name in `Host` is what gives it away.

    >>> Gate(any_host=False).refused(Request("GET", "/metadata", headers={"host": "elsewhere.example"})).status
    421
    """

    def __init__(self, token: Token | None = None, *, any_host: bool = True) -> None:
        self._token = token
        self._any_host = any_host or token is not None

    def refused(self, request: Request, *, open_to_all: bool = False) -> Response | None:
        """Return the refusal of a request, or None.

        Args:
            request: its head is enough.
            open_to_all: ask for no token at this path.
        """
        headers = request.headers
        if not self._any_host and not _is_this_machine(headers.get("host", "")):
            return refusal(
                421,
                f"this endpoint is asked by an address or as localhost, not as {headers['host'][:200]!r}; "
                "started with --token-file, or with --no-auth, it answers to any name",
            )
        if request.method == "POST" and headers.get("sec-fetch-site", "none") in ("cross-site", "same-site"):
            # Browsers send forms anywhere, though they do not show the answer: whoever browses is not asked either.
            return refusal(403, "a page from elsewhere may not ask this endpoint")
        if self._token is not None and not open_to_all and not self._token.shown_in(headers):
            message = "show the endpoint's token: `Authorization: Bearer TOKEN`"
            return refusal(401, message, {"www-authenticate": 'Bearer realm="finepoint"'})
        return None


@functools.lru_cache(maxsize=64)
def _is_this_machine(host: str) -> bool:
    """Return whether a `Host` is an address or localhost; who sends none is no browser."""
    name, colon, port = host.rpartition(":")
    if not colon or not port.isdecimal():
        name = host  # without a port
    if name.lower() in ("", "localhost"):
        return True
    try:
        ipaddress.ip_address(name[1:-1] if name.startswith("[") and name.endswith("]") else name)
    except ValueError:
        return False
    return True
