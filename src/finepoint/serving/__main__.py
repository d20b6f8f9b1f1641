"""The server's process: `python -m finepoint.serving --model PATH --name NAME --port PORT`."""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import os
import signal
import socket
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from finepoint.errors import ConfigurationError, FinepointError
from finepoint.models.made_here import maker_of
from finepoint.models.package import has_own_handler, open_package
from finepoint.models.runtime_names import RUNTIMES
from finepoint.serving.admission import Service
from finepoint.serving.application import EndpointApplication
from finepoint.serving.builtin import BuiltinModel
from finepoint.serving.canary import SharedTraffic, follow_orders
from finepoint.serving.capture import Capture, CaptureSettings
from finepoint.serving.gate import Gate
from finepoint.serving.handlers import HandlerModel
from finepoint.serving.lifetime import die_with_parent, outlive_parent
from finepoint.serving.loading import open_model
from finepoint.serving.multimodel import MultiModelApplication
from finepoint.serving.protocol import Application, Limits
from finepoint.serving.request_log import LoggedApplication
from finepoint.serving.server import Server, open_listener
from finepoint.serving.succession import start_successor
from finepoint.serving.tokens import Token, read_token

_GRACE_SECONDS = 30.0
# A client that has just sent a request on a connection that was idle still gets its answer.
_HANDOVER_IDLE_SECONDS = 5.0
# At its start a worker answers who has gathered meanwhile, and still loads what it computes with under load.
_SETTLING_SECONDS = 5.0
# What is loading when the server is told to end may take so long to notice.
_ABANDON_SECONDS = 2.0
# Until another supervisor's worker has taken over.
_SUCCESSION_SECONDS = 60.0


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM, finish what was begun, and return the exit code."""
    given = _parser().parse_args(arguments)
    given.arguments = sys.argv[1:] if arguments is None else arguments
    if given.ready_fd is not None:
        die_with_parent()
    try:
        token = Token(read_token(given.token_file)) if given.token_file else None
        check_host(given.host, allowed=token is not None or given.no_auth)
        if given.models is not None and given.capture_folder is not None:
            raise ConfigurationError("--capture-folder keeps what one model is asked; it does not go with --models")
        gate = Gate(token, any_host=given.no_auth)
        tls = _tls(given.tls_certificate, given.tls_key)
        asyncio.run(_serve(given, gate, tls))
    except asyncio.CancelledError:
        return 0  # told to end while it was loading
    except FinepointError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    return 0


def check_host(host: str, *, allowed: bool) -> None:
    """Check that an address is a loopback one, or that clients show a token or need none on purpose.

    Raises:
        ConfigurationError: it is not.
    """
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = host == "localhost"
    if not loopback and not allowed:
        raise ConfigurationError(
            f"{host} can be reached from other machines; give --token-file FILE, so that clients must show a token, "
            "--no-auth if everybody may ask, or bind to 127.0.0.1"
        )


async def _serve(given: argparse.Namespace, gate: Gate, tls: ssl.SSLContext | None) -> None:
    stopping = asyncio.Event()
    idle_seconds = 0.0
    parent = os.getppid()
    loop, loading = asyncio.get_running_loop(), asyncio.current_task()

    def stop(seconds: float) -> None:
        nonlocal idle_seconds
        idle_seconds = seconds
        stopping.set()
        if loading is not None:
            loading.cancel()
            loop.call_later(_ABANDON_SECONDS, os._exit, 0)  # a thread that still loads cannot be told

    loop.add_signal_handler(signal.SIGTERM, stop, 0.0)
    loop.add_signal_handler(signal.SIGINT, stop, 0.0)
    loop.add_signal_handler(signal.SIGUSR1, stop, _HANDOVER_IDLE_SECONDS)  # another process has taken over
    # Loaded before a connection is accepted: clients wait in the socket's queue rather than being refused.
    async with _application(given, gate) as application:
        loading = None
        answering: Application = application
        listener = open_listener(given.host, given.port, given.listen_fd)
        supervisor = socket.socket(fileno=given.ready_fd) if given.ready_fd is not None else None
        if supervisor:
            answering = traffic = SharedTraffic(application, supervisor.send)

            def bear_more(seconds: float) -> None:
                if isinstance(application, EndpointApplication):
                    application.bear_more(seconds)

            def orphaned() -> None:
                if lasting and not stopping.is_set():
                    bear_more(_SUCCESSION_SECONDS)
                    successor = start_successor(given.arguments, listener, parent)
                    loop.add_reader(successor, succeeded, successor)

            def succeeded(successor: socket.socket) -> None:
                # It said that another worker is ready, or ended: either way this one is done.
                loop.remove_reader(successor)
                stop(_HANDOVER_IDLE_SECONDS)

            # A canary's worker is nobody's but the supervisor's that tries it.
            lasting = given.registered and listener.family != socket.AF_UNIX
            follow_orders(supervisor, traffic, bear_more, orphaned)
            bear_more(_SETTLING_SECONDS)
            if lasting:
                outlive_parent()
        log = LoggedApplication(answering, given.request_log) if given.request_log is not None else None
        answering = log or answering
        server = Server(answering, _limits(given.max_body_bytes))
        # A socket in the file system belongs to a canary; TLS ends in the worker that passes requests on.
        server.listen(listener, None if listener.family == socket.AF_UNIX else tls)
        if supervisor:
            supervisor.send(b"1")
        await stopping.wait()
        await server.stop(grace_seconds=_GRACE_SECONDS, idle_seconds=idle_seconds)
        if log is not None:
            log.close()


def _limits(body_bytes: int) -> Limits:
    return Limits(body_bytes=body_bytes, bodies_bytes=max(Limits().bodies_bytes, 4 * body_bytes))


@asynccontextmanager
async def _application(given: argparse.Namespace, gate: Gate) -> AsyncIterator[Application]:
    """Yield what answers, its model loaded and warm, and close it."""
    service = Service(queue_images=given.queue_images, request_seconds=given.request_seconds)
    seconds = given.request_seconds
    if given.models is not None:
        each = replace(service, decoders=1)
        many = MultiModelApplication(
            lambda path: _opened(path, each, given),
            given.models,
            given.name,
            max_models=given.max_models,
            request_seconds=seconds,
            gate=gate,
        )
        try:
            yield many
        finally:
            await many.close()
        return
    model = await _opened(given.model, service, given)
    capture = _capture(given)
    try:
        yield EndpointApplication(model, given.name, request_seconds=seconds, gate=gate, capture=capture)
    finally:
        await model.close()
        if capture is not None:
            capture.close()


def _capture(given: argparse.Namespace) -> Capture | None:
    if given.capture_folder is None:
        return None
    settings = CaptureSettings(given.capture_folder, given.capture_share, given.capture_images, given.capture_bytes)
    return Capture(settings, given.name)


async def _opened(path: Path, service: Service, given: argparse.Namespace) -> BuiltinModel | HandlerModel:
    folder = open_package(path, foreign=True)
    allowed = given.allow_code or (has_own_handler(folder) and maker_of(path) is not None)
    return await open_model(folder, service, body_bytes=given.max_body_bytes, allow_code=allowed, runtime=given.runtime)


def _tls(certificate: Path | None, key: Path | None) -> ssl.SSLContext | None:
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise ConfigurationError("--tls-certificate and --tls-key belong together")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"the certificate {certificate} with the key {key} cannot be used: {error}") from error
    return context


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m finepoint.serving", description="Serve a model package over HTTP.")
    served = parser.add_mutually_exclusive_group(required=True)
    served.add_argument("--model", type=Path, help="model.tar.gz, or its folder")
    served.add_argument("--models", type=Path, help="folder whose models are loaded and unloaded over HTTP")
    parser.add_argument("--max-models", type=int, default=0, help="of them at once; 0: as many as memory is free for")
    parser.add_argument("--name", required=True, help="the endpoint's name")
    parser.add_argument("--host", default="127.0.0.1", help="address to bind to")
    parser.add_argument("--port", type=int, default=8080, help="port to bind to")
    parser.add_argument("--listen-fd", type=int, help="a socket that listens already, instead of host and port")
    parser.add_argument(
        "--ready-fd",
        type=int,
        help="a socket to the supervisor, with which this process ends",
    )
    parser.add_argument(
        "--registered",
        action="store_true",
        help="with --ready-fd: the registry knows the endpoint, and this process brings its supervisor back",
    )
    parser.add_argument("--token-file", type=Path, help="file with the token that clients must show")
    parser.add_argument("--no-auth", action="store_true", help="let everybody ask who can reach the address")
    parser.add_argument("--allow-code", action="store_true", help="run the package's own code/inference.py")
    parser.add_argument(
        "--runtime", default="auto", choices=RUNTIMES, help="that computes; auto: the CPU, cuda: torch on a GPU"
    )
    parser.add_argument("--tls-certificate", type=Path, help="PEM file")
    parser.add_argument("--tls-key", type=Path, help="PEM file")
    parser.add_argument("--capture-folder", type=Path, help="keep a sample of requests and answers there")
    parser.add_argument("--capture-share", type=float, default=1.0, help="of the requests, 0 to 1")
    parser.add_argument("--capture-images", action="store_true", help="keep what is asked too")
    parser.add_argument("--capture-bytes", type=int, default=2**30, help="that is kept at most; the oldest goes first")
    parser.add_argument("--request-log", type=Path, help="file in which each request gets a line, without its body")
    parser.add_argument("--max-body-bytes", type=int, default=Limits().body_bytes, help="largest request body")
    parser.add_argument("--queue-images", type=int, default=Service().queue_images, help="images in work at once")
    parser.add_argument("--request-seconds", type=float, default=Service().request_seconds, help="until an answer")
    return parser


if __name__ == "__main__":
    sys.exit(main())
