"""The token that clients of an endpoint must show."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from pathlib import Path

from finepoint.errors import ConfigurationError

_SHORTEST = 16


class Token:
    """A secret; it is compared in constant time, and never printed.

    >>> Token("0123456789abcdef").shown_in({"authorization": "Bearer 0123456789abcdef"})
    True
    """

    def __init__(self, secret: str) -> None:
        self._digest = _digest(secret)

    def shown_in(self, headers: Mapping[str, str]) -> bool:
        """Return whether a request's headers show it."""
        kind, _, shown = headers.get("authorization", "").partition(" ")
        return hmac.compare_digest(_digest(shown.strip()), self._digest) and kind.lower() == "bearer"


def read_token(path: Path) -> str:
    """Return the token in a file.

    Raises:
        ConfigurationError: the file cannot be read, or the token is too short to keep anybody out.
    """
    try:
        secret = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"the token file {path} cannot be read: {error}") from error
    if len(secret) < _SHORTEST or not secret.isascii() or any(letter.isspace() for letter in secret):
        raise ConfigurationError(
            f"the token in {path} must be at least {_SHORTEST} ASCII characters without spaces; "
            "`openssl rand -hex 32` makes a good one"
        )
    return secret


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("latin-1", "replace")).digest()
