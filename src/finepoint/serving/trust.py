"""What a client verifies a server's certificate by. It is never unverified."""

from __future__ import annotations

import re
import ssl
from functools import lru_cache
from pathlib import Path

from finepoint.errors import ConfigurationError

_CERTIFICATE = re.compile("-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)


@lru_cache(maxsize=16)
def trusted(ca: str, *, pinned: bool = False) -> ssl.SSLContext:
    """Return what verifies a server's certificate; made once, for to read the system's certificates takes some 50 ms.

    Args:
        ca: PEM file to trust beside the system's certificates, or "".
        pinned: trust only the first certificate in the file, whatever host it names; what follows it there has signed
            others' certificates too.

    Raises:
        ConfigurationError: the file cannot be read, or holds no certificate.
    """
    try:
        context = ssl.create_default_context(cadata=_first_certificate(ca) if pinned else None)
        if ca and not pinned:
            context.load_verify_locations(ca)
    except OSError as error:  # SSLError is one
        raise ConfigurationError(f"{ca} holds no certificate that can be read ({error}); give a PEM file") from error
    # A certificate that is itself in the file is trusted, whoever signed it.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.check_hostname = not pinned
    return context


def _first_certificate(path: str) -> str:
    """Return the first certificate in a PEM file: where a server has the file, that is its own."""
    found = _CERTIFICATE.search(Path(path).read_text("ascii", errors="replace"))
    if found is None:
        raise ssl.SSLError("no certificate in PEM form")
    return found[0]
