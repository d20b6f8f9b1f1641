"""Whether the server in this container is healthy: `python -m finepoint.serving.health --port PORT`; 0 where it is."""

from __future__ import annotations

import argparse
import http.client
import sys

from finepoint.serving.trust import trusted

_SECONDS = 2.0


def main(arguments: list[str] | None = None) -> int:
    """Return 0 where `/ping` on loopback answers 200."""
    parser = argparse.ArgumentParser(prog="python -m finepoint.serving.health")
    parser.add_argument("--port", type=int, default=8080, help="that the server listens at")
    parser.add_argument("--certificate", help="PEM file that it must show; without one it speaks plain HTTP")
    given = parser.parse_args(arguments)
    connection = http.client.HTTPConnection("127.0.0.1", given.port, timeout=_SECONDS)
    if given.certificate:
        trust = trusted(given.certificate, pinned=True)  # that it is for another host's name is in order
        connection = http.client.HTTPSConnection("127.0.0.1", given.port, timeout=_SECONDS, context=trust)
    try:
        connection.request("GET", "/ping")
        return 0 if connection.getresponse().status == 200 else 1
    except (OSError, http.client.HTTPException):
        return 1
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(main())
