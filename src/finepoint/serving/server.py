"""The server: listens, and ends gracefully."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time

from finepoint.errors import ConfigurationError
from finepoint.serving.protocol import Application, Connection, Crowd, Limits

_BACKLOG = 1024
_POLL_SECONDS = 0.01
_EXHAUSTED_SECONDS = 0.1
# Clients beyond the bound that may agree on TLS at once, to be told that they are too many.
_REFUSED_AT_ONCE = 64


class Server:
    """Connections to one application.

    Args:
        application: what answers.
        limits: of each connection.
    """

    def __init__(self, application: Application, limits: Limits | None = None) -> None:
        self._application = application
        self._limits = limits or Limits()
        self._crowd = Crowd()
        self._listeners: list[socket.socket] = []
        self._accepting: set[asyncio.Task[object]] = set()
        self._loop = asyncio.get_running_loop()

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._crowd.connections)

    def listen(self, listener: socket.socket, tls: ssl.SSLContext | None = None) -> None:
        """Accept connections on a socket that listens and does not block, with TLS if a context is given."""
        self._listeners.append(listener)
        self._loop.add_reader(listener, self._accept, listener, tls)

    async def stop(self, *, grace_seconds: float = 30.0, idle_seconds: float = 0.0) -> None:
        """Accept no more, answer what has begun, and close.

        Args:
            grace_seconds: that what has begun may take; then it is cut off.
            idle_seconds: that an idle connection is kept, in case its client is just sending; its next answer
                tells it to close.
        """
        while self._listeners:
            listener = self._listeners.pop()
            self._loop.remove_reader(listener)
            listener.close()
        # What was accepted a moment ago is a connection first; asyncio's own server would drop it.
        await asyncio.gather(*self._accepting, return_exceptions=True)
        deadline = time.monotonic() + grace_seconds
        told: set[Connection] = set()
        while True:
            # Some that were just being accepted show up only now.
            for connection in self._crowd.connections - told:
                connection.drain(idle_seconds=idle_seconds)
                told.add(connection)
            await asyncio.sleep(_POLL_SECONDS)
            if not self._crowd.connections or time.monotonic() > deadline:
                break
        for connection in list(self._crowd.connections):
            connection.abort()
        await asyncio.sleep(_POLL_SECONDS)  # aborted connections are closed in the loop's next round

    def _accept(self, listener: socket.socket, tls: ssl.SSLContext | None) -> None:
        for _ in range(_BACKLOG):
            try:
                accepted, _address = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return  # there is no more, or another process was faster
            except OSError:
                # Out of file descriptors: those who wait go on waiting until some are free.
                self._loop.remove_reader(listener)
                self._loop.call_later(_EXHAUSTED_SECONDS, self._listen_again, listener, tls)
                return
            if (
                tls is not None
                and len(self._accepting) + self.connections >= self._limits.connections + _REFUSED_AT_ONCE
            ):
                accepted.close()  # agreeing on TLS costs more than a refusal is worth
                continue
            accepted.setblocking(False)
            task = self._loop.create_task(self._connect(accepted, tls))
            self._accepting.add(task)
            task.add_done_callback(self._accepting.discard)

    async def _connect(self, accepted: socket.socket, tls: ssl.SSLContext | None) -> None:
        if accepted.family != socket.AF_UNIX:
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        seconds = self._limits.head_seconds if tls else None
        # A client that hangs up, or whose TLS fails, is its own affair.
        with contextlib.suppress(OSError, TimeoutError):
            await self._loop.connect_accepted_socket(
                lambda: Connection(self._application, self._limits, self._crowd),
                accepted,
                ssl=tls,
                ssl_handshake_timeout=seconds,
            )

    def _listen_again(self, listener: socket.socket, tls: ssl.SSLContext | None) -> None:
        if listener.fileno() >= 0:
            self._loop.add_reader(listener, self._accept, listener, tls)


def open_listener(host: str, port: int, number: int | None = None) -> socket.socket:
    """Return the socket of a file descriptor's number that listens already, or else one bound to an address.

    Raises:
        ConfigurationError: the address cannot be bound to.
    """
    if number is not None:
        listener = socket.socket(fileno=number)
        listener.setblocking(False)
        return listener
    try:
        return listening_socket(host, port)
    except (OSError, OverflowError) as error:
        raise ConfigurationError(f"{host}:{port} cannot be bound to: {error}") from error


def listening_socket(host: str, port: int) -> socket.socket:
    """Return a socket bound to an address and listening; port 0 takes a free one.

    Raises:
        OSError: the address cannot be bound to.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except (OSError, OverflowError):
        listener.close()
        raise
    listener.setblocking(False)
    return listener
