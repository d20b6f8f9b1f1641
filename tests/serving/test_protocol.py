from __future__ import annotations

import asyncio
import contextlib
import gc
import io
import re
import socket
import ssl
import subprocess
import threading
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast
from unittest.mock import Mock

import numpy as np
import pytest
from tests.serving.conftest import Reddest, Served, eventually, picture, serving

from finepoint.evaluation.explaining import Explanation
from finepoint.serving.admission import Service
from finepoint.serving.insight import Explained, Insight
from finepoint.serving.messages import Request
from finepoint.serving.protocol import Connection, Crowd, Limits, _Message
from finepoint.serving.server import _REFUSED_AT_ONCE, Server, listening_socket

IMAGE = picture((255, 0, 0))
SHORT = Limits(
    body_bytes=100_000, head_bytes=4096, headers=20, head_seconds=0.3, body_seconds=0.3, idle_seconds=0.5, connections=5
)


@pytest.fixture(scope="module")
def impatient() -> Iterator[Served]:
    with serving(limits=SHORT) as running:
        yield running


@contextmanager
def connected(served: Served) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as connection:
        yield connection


def everything(connection: socket.socket) -> bytes:
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    return b"".join(parts)


def post(body: bytes, *lines: str, path: str = "/invocations") -> bytes:
    head = [f"POST {path} HTTP/1.1", "host: x", "content-type: image/png", f"content-length: {len(body)}", *lines]
    return ("\r\n".join(head) + "\r\n\r\n").encode() + body


def exchange(served: Served, data: bytes) -> bytes:
    with connected(served) as connection:
        connection.sendall(data)
        return everything(connection)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GARBAGE\r\n\r\n", 400),
        (b"GET /ping HTTP/1.1\r\n" + b"a: " + b"x" * 5000 + b"\r\n\r\n", 431),
        (b"GET /ping HTTP/1.1\r\n" + b"a: b\r\n" * 30 + b"\r\n", 431),
        (b"GET /" + b"x" * 5000, 431),
        (b"GET /ping HTTP/1.1\r\nhost: x\r\n", 408),
        (post(IMAGE)[:-10], 408),
        (b"POST /invocations HTTP/1.1\r\nhost: x\r\ncontent-length: 999999999\r\n\r\n", 413),
        (b"POST /invocations HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n", 400),
        (b"POST /invocations HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n", 400),
        (b"GET /ping?" + b"&".join([b"a=1"] * 200) + b" HTTP/1.1\r\nhost: x\r\n\r\n", 400),
    ],
)
def test_what_is_no_request_or_too_slow_is_refused_and_the_connection_closed(
    impatient: Served, data: bytes, status: int
) -> None:
    answer = exchange(impatient, data)
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert b"connection: close" in answer


def test_a_body_without_a_length_is_bounded_too(impatient: Served) -> None:
    def parts() -> Iterator[bytes]:
        for _ in range(200):
            yield b"x" * 1000

    answer = impatient.client.post("/invocations", content=parts(), headers={"Content-Type": "image/jpeg"})
    assert answer.status_code == 413


@pytest.mark.parametrize("start", [b"1;", b"1\r\nx\r\n0\r\nlast: "])
def test_what_a_body_has_around_it_is_bounded_too(impatient: Served, start: bytes) -> None:
    def refused() -> int:
        found = re.search(r'path="/invocations",status="431"} (\d+)', impatient.client.get("/metrics").text)
        return int(found[1]) if found else 0

    head = b"POST /invocations HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    before = refused()
    with connected(impatient) as connection:
        connection.sendall(head)
        # The parser keeps a trailer's value until its end.
        with contextlib.suppress(OSError):
            connection.sendall(start)
            assert eventually(lambda: impatient.server._crowd.body_bytes == start.count(b"x"))
            for _ in range(100):
                connection.sendall(b"x" * 1000)
    assert eventually(lambda: refused() == before + 1)


def test_a_body_of_tiny_chunks_is_refused_before_it_costs_more_than_it_holds(impatient: Served) -> None:
    head = b"POST /invocations HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    with connected(impatient) as connection, contextlib.suppress(OSError):
        connection.sendall(head)
        connection.sendall(b"2\r\nxx\r\n" * 10_000)
        assert everything(connection).startswith(b"HTTP/1.1 431")


def test_parts_of_a_body_are_put_together() -> None:
    message = _Message()
    for part in (b"a", b"b", b"c" * 5000, b"d", b"e"):
        message.add(part)
    assert b"".join(message.parts) == b"ab" + b"c" * 5000 + b"de"
    assert len(message.parts) == 4


def test_the_body_of_a_client_that_has_gone_is_let_go_at_once() -> None:
    async def left() -> int:
        crowd = Crowd()
        connection = Connection(cast(Any, Admits()), Limits(), crowd)
        connection.connection_made(cast(Any, Mock()))
        body = b"x" * 100_000
        connection.data_received(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 200000\r\n\r\n" + body)
        assert crowd.body_bytes == len(body)
        connection.connection_lost(None)
        gone = weakref.ref(connection)
        gc.disable()  # what is in no cycle goes without
        try:
            del connection
            await asyncio.sleep(0)
            return int(gone() is not None)
        finally:
            gc.enable()

    assert asyncio.run(left()) == 0


class Admits:
    def admit(self, request: Request) -> None: ...


def test_a_chunked_body_is_answered(impatient: Served) -> None:
    answer = impatient.client.post("/invocations", content=iter([IMAGE]), headers={"Content-Type": "image/png"})
    assert answer.json()["label"] == "red"


def test_requests_sent_ahead_are_answered_in_order(impatient: Served) -> None:
    data = post(IMAGE) + post(b"no image") + b"GET /ping HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    answer = exchange(impatient, data)
    assert [part[:3] for part in answer.split(b"HTTP/1.1 ")[1:]] == [b"200", b"400", b"200"]


def test_too_many_requests_ahead_end_the_connection(impatient: Served) -> None:
    answer = exchange(impatient, post(IMAGE) * 40)
    assert answer.count(b"HTTP/1.1 200") < 40


def test_a_large_body_is_announced_and_refused_before_it_is_sent(impatient: Served) -> None:
    with connected(impatient) as connection:
        connection.sendall(post(IMAGE, "expect: 100-continue")[: -len(IMAGE)])
        assert connection.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(IMAGE)
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")
    with connected(impatient) as connection:
        connection.sendall(post(IMAGE, "expect: 100-continue", path="/nothing")[: -len(IMAGE)])
        assert connection.recv(65536).startswith(b"HTTP/1.1 404")


def test_a_refused_body_is_thrown_away_and_the_connection_goes_on(impatient: Served) -> None:
    with connected(impatient) as connection:
        connection.sendall(post(IMAGE, path="/nothing"))
        assert connection.recv(65536).startswith(b"HTTP/1.1 404")
        connection.sendall(post(IMAGE))
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")


def test_half_sent_requests_cost_no_worker_and_connections_are_bounded(impatient: Served) -> None:
    with serving(limits=Limits(connections=5)) as served:
        idle = [socket.create_connection(("127.0.0.1", served.port)) for _ in range(3)]
        for connection in idle:
            connection.sendall(post(IMAGE)[:-5])
        assert served.ask(IMAGE, "image/png").status_code == 200
        idle += [socket.create_connection(("127.0.0.1", served.port)) for _ in range(3)]
        idle[-1].settimeout(10)
        assert idle[-1].recv(65536).startswith(b"HTTP/1.1 503")
        for connection in idle:
            connection.close()


def test_an_idle_connection_is_closed(impatient: Served) -> None:
    with connected(impatient) as connection:
        connection.sendall(b"GET /ping HTTP/1.1\r\nhost: x\r\n\r\n")
        assert everything(connection).startswith(b"HTTP/1.1 200")


class Gated(Reddest):
    """Computes when the gate is open."""

    def __init__(self) -> None:
        self.gate, self.begun, self.calls = threading.Event(), 0, 0
        self.gate.set()

    def compute(self, crops: Sequence[np.ndarray], outputs: Sequence[str]) -> dict[str, np.ndarray]:
        self.begun += 1
        assert self.gate.wait(20)
        self.calls += 1
        return super().compute(crops, outputs)


def asked(
    served: Served, answers: list[int], body: bytes = IMAGE, kind: str = "image/png", path: str = "/invocations"
) -> threading.Thread:
    thread = threading.Thread(target=lambda: answers.append(served.ask(body, kind, path).status_code))
    thread.start()
    return thread


def in_work(served: Served) -> int:
    return served.model._admission.images


def test_beyond_capacity_503_comes_at_once_with_retry_after() -> None:
    model = Gated()
    with serving(model, service=Service(queue_images=3, decoders=1)) as served:
        model.gate.clear()
        answers: list[int] = []
        threads = [asked(served, answers) for _ in range(3)]
        assert eventually(lambda: in_work(served) == 3)
        refused = served.ask(IMAGE, "image/png")
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) >= 1
        runtime = served.ask(IMAGE, "image/png", "/endpoints/reddest/invocations")
        assert (runtime.status_code, runtime.headers["x-amzn-errortype"]) == (503, "ServiceUnavailable")
        assert served.client.get("/ping").status_code == 200
        model.gate.set()
        for thread in threads:
            thread.join()
        assert answers == [200, 200, 200]


class Mapped(Insight):
    """Explains when its gate is open."""

    begun, gate = threading.Event(), threading.Event()

    def outputs(self, *, embedding: bool, explained: bool) -> tuple[str, ...]:
        return ("logits",)

    def explain(self, found: Sequence[Mapping[str, np.ndarray]], label: str | None) -> list[Explained]:
        self.wait()
        return [Explained(Explanation("red", np.zeros((1, 1)), 1.0, 1.0, 0.0), b"a picture")]

    def wait(self) -> None:
        self.begun.set()
        assert self.gate.wait(10)


def test_a_request_is_in_work_also_while_its_pixels_are_resized_or_its_heat_map_is_drawn() -> None:
    stream, insight = io.BytesIO(), Mapped()
    np.save(stream, np.zeros((9, 9, 3), np.uint8))
    with serving(insight=insight, service=Service(queue_images=1, decoders=1)) as served:
        resized = served.model._resized

        def slowly(pixels: np.ndarray) -> list[np.ndarray]:
            insight.wait()
            return resized(pixels)

        served.model._resized = slowly
        for body, kind, path in (
            (stream.getvalue(), "application/x-npy", "/invocations"),
            (IMAGE, "image/png", "/invocations?explain=true"),
        ):
            insight.begun.clear()
            insight.gate.clear()
            answers: list[int] = []
            thread = asked(served, answers, body, kind, path)
            assert insight.begun.wait(10)
            assert served.ask(IMAGE, "image/png").status_code == 503
            insight.gate.set()
            thread.join()
            assert answers == [200]
        assert in_work(served) == 0


def test_a_request_past_its_time_is_answered_504() -> None:
    model = Gated()
    with serving(model, service=Service(request_seconds=0.2, decoders=1)) as served:
        model.gate.clear()
        assert served.ask(IMAGE, "image/png").status_code == 504
        model.gate.set()


def test_nothing_is_computed_for_a_client_that_has_gone() -> None:
    model = Gated()
    with serving(model, service=Service(decoders=1)) as served:
        model.gate.clear()
        warm, answers = model.calls, []
        first = asked(served, answers)
        assert eventually(lambda: model.begun == warm + 1)
        with connected(served) as connection:
            connection.sendall(post(IMAGE))
            assert eventually(lambda: served.model._batcher.waiting == 1)
        assert eventually(lambda: in_work(served) == 1)
        model.gate.set()
        first.join()
        assert served.ask(IMAGE, "image/png").status_code == 200
        assert model.calls == warm + 2


def test_stopping_answers_what_has_begun() -> None:
    model = Gated()
    answers: list[int] = []
    with serving(model, service=Service(decoders=1)) as served:
        model.gate.clear()
        thread = asked(served, answers)
        assert eventually(lambda: in_work(served) == 1)
        stopping = asyncio.run_coroutine_threadsafe(served.server.stop(), served.loop)
        assert eventually(lambda: not accepts(served))
        model.gate.set()
        thread.join()
        stopping.result(10)
    assert answers == [200]


def accepts(served: Served) -> bool:
    try:
        socket.create_connection(("127.0.0.1", served.port), timeout=1).close()
    except OSError:
        return False
    return True


HTTP_2 = ("connection: Upgrade, HTTP2-Settings", "upgrade: h2c", "http2-settings: AAMAAABk")


def test_who_asks_for_http_2_is_answered_in_http_1(served: Served) -> None:
    with connected(served) as connection:
        whole = post(IMAGE, *HTTP_2)
        connection.sendall(whole[:-20])
        connection.sendall(whole[-20:] + post(IMAGE) + post(IMAGE, "connection: close, upgrade", "upgrade: websocket"))
        answers = everything(connection)
    assert answers.count(b"HTTP/1.1 200 OK") == 3
    assert answers.count(b'"label":"red"') == 3


def test_a_thousand_wishes_for_another_protocol_at_once_are_answered(served: Served) -> None:
    lines = "\r\n".join(["GET /nothing HTTP/1.1", "host: x", *HTTP_2])
    answers = exchange(served, f"{lines}\r\n\r\n".encode() * 1000 + b"GET /ping HTTP/1.1\r\nconnection: close\r\n\r\n")
    assert answers.count(b"HTTP/1.1 404") == 1000
    assert answers.count(b"HTTP/1.1 200") == 1


def test_a_tunnel_is_refused(served: Served) -> None:
    assert exchange(served, b"CONNECT x:443 HTTP/1.1\r\nhost: x\r\n\r\n").startswith(b"HTTP/1.1 400")


def unread(served: Served, request: bytes) -> socket.socket:
    """Return a connection that asks on and on and reads no answer, once the server reads no more of it either."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", served.port))
    connection.settimeout(0.2)
    with contextlib.suppress(OSError):
        for _ in range(100_000):
            connection.sendall(request)
    return connection


@pytest.mark.parametrize("path", ["/nothing", "/docs"])
def test_who_asks_on_and_reads_no_answer_is_neither_read_from_nor_kept(path: str) -> None:
    request = f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode()
    limits = Limits(answer_seconds=1.0, head_seconds=30, idle_seconds=30, pipelined=100_000)
    with serving(limits=limits, service=Service(decoders=1)) as served:
        start = time.monotonic()
        connection = unread(served, request * 100)
        (kept,) = served.server._crowd.connections or (None,)
        # Answers that nobody reads are written no further than what had come in one piece, however much is asked.
        assert kept is None or kept._transport.get_write_buffer_size() < 4 * 2**20
        assert eventually(lambda: served.server.connections == 0, 5)
        assert time.monotonic() - start < 10
        connection.close()


def test_a_request_on_its_way_keeps_its_time_while_the_answer_before_it_is_read() -> None:
    limits = Limits(answer_seconds=30, head_seconds=0.5, idle_seconds=30)
    with serving(limits=limits, service=Service(decoders=1)) as served, connected(served) as connection:
        connection.sendall(b"GET /docs HTTP/1.1\r\nhost: x\r\n\r\nGET /ping HTTP/1.1\r\n")
        assert everything(connection).startswith(b"HTTP/1.1 200")  # and then it is closed


def test_bodies_are_bounded_together_and_small_ones_are_answered_all_the_same() -> None:
    limits = Limits(body_bytes=100_000, bodies_bytes=150_000, connections=10, body_seconds=30)
    with serving(limits=limits, service=Service(decoders=1)) as served:
        large = post(b"x" * 100_000)[:-10]
        with connected(served) as first, connected(served) as second:
            first.sendall(large)
            assert eventually(lambda: served.server._crowd.body_bytes == 99_990)
            second.sendall(large)
            refused = everything(second)
            assert refused.startswith(b"HTTP/1.1 503") and b"retry-after: 1" in refused
            assert served.ask(IMAGE, "image/png").status_code == 200
            first.sendall(b"x" * 10)
            assert first.recv(65536).startswith(b"HTTP/1.1 400")
        assert eventually(lambda: served.server._crowd.body_bytes == 0)
        assert served.ask(IMAGE + bytes(90_000), "image/png").status_code == 200
        assert eventually(lambda: served.server._crowd.body_bytes == 0)


def test_a_body_that_took_its_time_is_judged_by_the_load_when_it_is_there() -> None:
    model = Gated()
    with serving(model, service=Service(queue_images=1, decoders=1)) as served, connected(served) as slow:
        slow.sendall(post(IMAGE)[:-5])
        assert eventually(lambda: served.server._crowd.body_bytes == len(IMAGE) - 5)
        model.gate.clear()
        answers: list[int] = []
        thread = asked(served, answers)
        assert eventually(lambda: in_work(served) == 1)
        slow.sendall(IMAGE[-5:])
        refused = slow.recv(65536)
        assert refused.startswith(b"HTTP/1.1 503") and b"retry-after" in refused
        model.gate.set()
        thread.join()
        assert answers == [200]


def test_what_is_refused_without_asking_the_application_is_counted(impatient: Served) -> None:
    exchange(impatient, b"POST /invocations HTTP/1.1\r\nhost: x\r\ncontent-length: 999999999\r\n\r\n")
    exchange(impatient, b"GARBAGE\r\n\r\n")
    metrics = impatient.client.get("/metrics").text
    assert 'finepoint_requests_total{path="/invocations",status="413"}' in metrics
    assert 'finepoint_requests_total{path="other",status="400"}' in metrics


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    folder = tmp_path_factory.mktemp("tls")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost"
    if subprocess.run([*command.split(), "-keyout", key, "-out", certificate], capture_output=True).returncode:
        pytest.skip("no openssl to make a certificate with")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


def test_a_connection_with_tls_is_answered_again_and_again(tls: ssl.SSLContext) -> None:
    with serving(tls=tls, limits=Limits(answer_seconds=1), service=Service(decoders=1)) as served:
        for _ in range(5):
            assert served.ask(IMAGE, "image/png").status_code == 200
            assert served.client.get("/docs").status_code == 200
        assert served.server.connections == 1


def test_who_does_not_finish_agreeing_on_tls_is_bounded_and_sent_away(tls: ssl.SSLContext) -> None:
    async def run() -> None:
        server = Server(cast(Any, None), Limits(connections=5, head_seconds=0.5))
        listener = listening_socket("127.0.0.1", 0)
        server.listen(listener, tls)
        address = listener.getsockname()
        silent = [await asyncio.open_connection(*address) for _ in range(5 + _REFUSED_AT_ONCE)]
        reader, writer = await asyncio.open_connection(*address)
        began = time.monotonic()
        assert await reader.read() == b""  # at once: too many are agreeing
        assert time.monotonic() - began < 0.4
        assert {await reader.read() for reader, _ in silent} == {b""}  # their time is over
        for _, each in [(reader, writer), *silent]:
            each.close()
        await server.stop()

    asyncio.run(run())
