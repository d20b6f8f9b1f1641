"""The endpoint's own web page: three files without anything from elsewhere, under a strict Content-Security-Policy."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from finepoint.serving.messages import Response

# Path to file and type. They hold nothing of the model, so that they are served without a token.
PAGES = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
}
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


@cache
def page(path: str) -> Response:
    """Return the file that belongs to a path of `PAGES`."""
    name, kind = PAGES[path]
    body = files("finepoint.serving").joinpath("assets", name).read_bytes()
    return Response(body, 200, kind, _HEADERS)
