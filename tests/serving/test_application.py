from __future__ import annotations

import base64
import csv
import io
import json
import struct
import zlib
from collections.abc import Iterator, Sequence

import httpx
import numpy as np
import pytest
from PIL import Image
from tests.serving.conftest import Reddest, Served, picture, serving

from finepoint.serving.tokens import Token

RED, BLUE = picture((255, 0, 0)), picture((0, 0, 255))


def coded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_ping(served: Served) -> None:
    answer = served.client.get("/ping")
    assert answer.json() == {"status": "healthy", "endpoint": "reddest", "model_version": "v1"}
    assert served.client.head("/ping").status_code == 200


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_an_image_is_answered(served: Served, kind: str) -> None:
    answer = served.ask(picture((255, 0, 0), kind), f"image/{kind.lower()}")
    assert answer.status_code == 200
    assert answer.headers["X-Finepoint-Model-Version"] == "v1"
    value = answer.json()
    assert value["label"] == "red"
    assert value["probability"] == pytest.approx(1, abs=0.02)
    assert list(value["probabilities"]) == ["red", "not <red>"]


def test_base64_in_json_alone_and_in_a_list(served: Served) -> None:
    single = served.ask(json.dumps({"image": coded(RED)}).encode(), "application/json; charset=utf-8").json()
    assert single["label"] == "red"
    body = json.dumps({"images": [coded(RED), f"data:image/png;base64,{coded(BLUE)}"]}).encode()
    several = served.ask(body, "application/json").json()
    assert [row["label"] for row in several["predictions"]] == ["red", "not <red>"]


def test_pixels_as_npy_are_answered_and_objects_in_it_refused(served: Served) -> None:
    def body(value: np.ndarray, **save: bool) -> bytes:
        stream = io.BytesIO()
        np.save(stream, value, **save)
        return stream.getvalue()

    pixels = np.zeros((2, 9, 12, 3), np.uint8)
    pixels[0, ..., 0] = 255
    rows = served.ask(body(pixels), "application/x-npy").json()["predictions"]
    assert [row["label"] for row in rows] == ["red", "not <red>"]
    assert served.ask(body(pixels[0]), "application/x-npy").json()["label"] == "red"
    objects = served.ask(body(np.array([{}], object), allow_pickle=True), "application/x-npy")
    assert objects.status_code == 400
    assert "without Python objects" in objects.json()["error"]["message"]
    assert "uint8 [h, w, 3]" in served.ask(body(np.zeros(3)), "application/x-npy").json()["error"]["message"]


def test_the_answer_comes_in_the_form_that_accept_asks_for(served: Served) -> None:
    rows = list(csv.DictReader(io.StringIO(served.ask(RED, "image/png", Accept="text/csv").text)))
    assert rows == [{"name": "0", "label": "red", "probability": "1.0", "red": "1.0", "not <red>": "0.0"}]
    lines = served.ask(RED, "image/png", Accept="application/jsonlines").text.splitlines()
    assert json.loads(lines[0])["label"] == "red"
    array = np.load(io.BytesIO(served.ask(RED, "image/png", Accept="application/x-npy").content), allow_pickle=False)
    assert array.tolist() == [[1.0, 0.0]]
    assert served.ask(RED, "image/png", Accept="text/html, */*;q=0.8").headers["content-type"] == "application/json"
    assert served.ask(RED, "image/png", Accept="image/png").status_code == 406


def test_top_and_embedding(served: Served) -> None:
    value = served.ask(RED, "image/png", "/invocations?top=1&embedding=true").json()
    assert list(value["probabilities"]) == ["red"]
    assert value["embedding"] == [255.0, 0.0, 0.0]
    assert served.ask(RED, "image/png", "/invocations?top=x").status_code == 400
    assert served.ask(RED, "image/png", "/invocations?embedding=1").status_code == 400
    assert served.ask(RED, "image/png", "/invocations?top=1", Accept="text/csv").status_code == 400


def test_a_batch_answers_each_image_for_itself(served: Served) -> None:
    lines = [{"image": coded(RED), "name": "a"}, {"image": coded(b"no image")}, {"nothing": 1}, {"image": coded(BLUE)}]
    body = "\n".join(json.dumps(line) for line in lines).encode()
    answer = served.ask(body, "application/jsonlines", "/invocations/batch")
    rows = [json.loads(line) for line in answer.text.splitlines()]
    assert [row["name"] for row in rows] == ["a", "1", "2", "3"]
    assert [row.get("label") for row in rows] == ["red", None, None, "not <red>"]
    assert [row.get("error", {}).get("code") for row in rows] == [None, 400, 400, None]


def test_a_name_that_cannot_be_sent_back_is_replaced(served: Served) -> None:
    body = b'{"name": "\\ud800", "image": "' + coded(RED).encode() + b'"}'
    assert served.ask(body, "application/jsonlines", "/invocations/batch").json()["name"] == "?"


def test_a_batch_as_multipart(served: Served) -> None:
    files = [("x", ("red.png", RED, "image/png")), ("x", ("blue.png", BLUE, "image/png"))]
    answer = served.client.post("/invocations/batch", files=files, headers={"Accept": "application/json"}).json()
    assert [(row["name"], row["label"]) for row in answer["predictions"]] == [
        ("red.png", "red"),
        ("blue.png", "not <red>"),
    ]


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"", "application/jsonlines", 400),
        (b"\n".join([b"{}"] * 513), "application/jsonlines", 413),
        (b"x", "image/png", 415),
        (b"x", "multipart/form-data", 400),
        (b"x", "multipart/form-data; boundary=b", 400),
        (b"--b--\r\n", "multipart/form-data; boundary=b", 400),
        (b"--b\r\n\r\n" * 600 + b"--b--", "multipart/form-data; boundary=b", 413),
    ],
)
def test_a_batch_that_is_none_is_refused(served: Served, body: bytes, kind: str, status: int) -> None:
    assert served.ask(body, kind, "/invocations/batch").status_code == status


def test_the_runtime_clients_path_and_errors(served: Served) -> None:
    path = "/endpoints/reddest/invocations"
    good = served.ask(RED, "image/png", path)
    assert good.status_code == 200
    assert good.headers["x-amzn-invoked-production-variant"] == "AllTraffic"
    bad = served.ask(b"no image", "image/png", path)
    assert (bad.status_code, bad.headers["x-amzn-errortype"]) == (424, "ModelError")
    assert bad.json()["OriginalStatusCode"] == 400
    assert "not an image" in bad.json()["OriginalMessage"]
    for name, headers in (
        ("other", {}),
        ("reddest", {"X-Amzn-SageMaker-Target-Variant": "other"}),
        ("reddest", {"X-Amzn-SageMaker-Target-Model": "a"}),
    ):
        other = served.ask(RED, "image/png", f"/endpoints/{name}/invocations", **headers)
        assert (other.status_code, other.headers["x-amzn-errortype"]) == (400, "ValidationError")
    assert served.ask(RED, "image/png", path, **{"X-Amzn-SageMaker-Target-Variant": "AllTraffic"}).status_code == 200


def test_metadata_metrics_and_documentation(served: Served) -> None:
    served.ask(RED, "image/png")
    assert served.client.get("/metadata").json()["classes"] == ["red", "not <red>"]
    metrics = served.client.get("/metrics")
    assert metrics.headers["content-type"].startswith("application/openmetrics-text")
    lines = metrics.text.splitlines()
    assert lines[-1] == "# EOF"
    assert any(line.startswith('finepoint_requests_total{path="/invocations",status="200"} ') for line in lines)
    assert any(line.startswith('finepoint_phase_seconds_bucket{phase="inference",le="+Inf"} ') for line in lines)
    described = served.client.get("/openapi.json").json()
    assert set(described["paths"]) >= {"/ping", "/invocations", "/invocations/batch", "/metadata", "/metrics"}
    assert "<code>POST /invocations</code>" in served.client.get("/docs").text


def claiming(width: int, height: int) -> bytes:
    """Return a PNG whose head claims a size."""
    head = b"IHDR" + struct.pack("!II", width, height) + b"\x08\x02\0\0\0"
    return RED[:12] + head + struct.pack("!I", zlib.crc32(head)) + RED[33:]


NESTED = b'{"image":' + b"[" * 50_000 + b"]" * 50_000 + b"}"


@pytest.mark.parametrize(
    ("body", "kind", "status", "words"),
    [
        (b"", "image/jpeg", 400, "empty"),
        (b"hello", "image/jpeg", 400, "not an image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/png", 400, "SVG"),
        (b"\0\0\0\x18ftypheic" + b"\0" * 64, "image/jpeg", 400, "HEIC"),
        (picture((1, 2, 3), "JPEG")[:-60], "image/jpeg", 400, "cut off"),
        (claiming(11_000, 10_000), "image/png", 400, "too large"),
        (b"x", "text/plain", 415, "text/plain"),
        (b"x", "", 415, "none"),
        (b"{", "application/json", 400, "not valid JSON"),
        (b"[1]", "application/json", 400, "must be"),
        (b"{}", "application/json", 400, "must be"),
        (b'{"image": "a", "images": []}', "application/json", 400, "must be"),
        (b'{"image": 7}', "application/json", 400, "not a base64 string"),
        (b'{"image": "%%%"}', "application/json", 400, "not valid base64"),
        (b'{"images": []}', "application/json", 400, "at least one"),
        (json.dumps({"images": ["eA=="] * 65}).encode(), "application/json", 413, "at most 64"),
        (b'{"images": [' + b"[]," * 10_000 + b"[]]}", "application/json", 400, "more than 10,000 values"),
        (b'{"images": ["eA=="]}', "application/json", 400, "image 0"),
        (NESTED, "application/json", 400, ""),
        (b"x" * 200_001, "image/jpeg", 413, "larger than"),
        (b"\xff\xfe\xfd", "application/json", 400, "not valid JSON"),
    ],
)
def test_what_cannot_be_answered_is_refused_with_a_sentence(
    served: Served, body: bytes, kind: str, status: int, words: str
) -> None:
    answer = served.ask(body, kind)
    assert answer.status_code == status
    assert answer.json()["error"]["code"] == status
    assert words in answer.json()["error"]["message"]


def odd_images() -> Iterator[tuple[str, bytes]]:
    def saved(image: Image.Image, kind: str, **options: object) -> bytes:
        stream = io.BytesIO()
        image.save(stream, kind, **options)
        return stream.getvalue()

    red = Image.new("RGB", (16, 16), (255, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6
    yield "1 x 1", picture((255, 0, 0), size=(1, 1))
    yield "30,000 x 1", picture((255, 0, 0), size=(30_000, 1))
    yield "CMYK", saved(red.convert("CMYK"), "JPEG")
    yield "turned by EXIF", saved(red, "JPEG", exif=exif.tobytes())
    yield "with transparency", saved(red.convert("RGBA"), "PNG")
    yield "palette", saved(red.convert("P"), "GIF")
    yield "animated", saved(red, "GIF", save_all=True, append_images=[Image.new("RGB", (16, 16))])
    yield "a polyglot", saved(red, "JPEG") + b"<script>alert(1)</script>PK\x03\x04"


@pytest.mark.parametrize(
    ("name", "data"), list(odd_images()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_odd_images_are_classified_right(served: Served, name: str, data: bytes) -> None:
    assert served.ask(data, "application/octet-stream").json()["label"] == "red", name


def test_a_sixteen_bit_image_keeps_its_upper_bits(served: Served) -> None:
    stream = io.BytesIO()
    Image.fromarray(np.full((8, 8), 0xFF00, np.uint16)).save(stream, "PNG")
    assert served.ask(stream.getvalue(), "image/png").json()["probabilities"]["red"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/invocations", 405), ("POST", "/ping", 405), ("GET", "/nix", 404), ("GET", "/../etc/passwd", 404)],
)
def test_wrong_paths_and_methods(served: Served, method: str, path: str, status: int) -> None:
    answer = served.client.request(method, path)
    assert answer.status_code == status
    assert answer.json()["error"]["message"]


def test_pages_from_elsewhere_may_neither_read_nor_ask(served: Served) -> None:
    asked = {"Origin": "http://elsewhere.example", "Access-Control-Request-Method": "POST"}
    before = served.client.options("/invocations", headers=asked)
    assert before.status_code == 405
    answer = served.ask(RED, "image/png", Origin="http://elsewhere.example")
    assert answer.status_code == 200  # not a browser's: it would say where the page is from
    for each in (before, answer):
        assert not [name for name in each.headers if name.startswith("access-control")]
    for place, status in (("cross-site", 403), ("same-site", 403), ("same-origin", 200), ("none", 200)):
        assert served.ask(RED, "image/png", **{"Sec-Fetch-Site": place}).status_code == status
    assert served.client.get("/metadata", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 200  # a link to it


def test_a_token_is_demanded_where_there_is_one_but_not_by_ping() -> None:
    with serving(token=Token("a-secret-of-some-length")) as guarded:
        assert guarded.client.get("/ping").status_code == 200
        for header in ("", "Bearer wrong", "Basic a-secret-of-some-length"):
            refused = guarded.ask(RED, "image/png", Authorization=header)
            assert refused.status_code == 401
        for path in ("/metadata", "/metrics", "/docs"):
            assert guarded.client.get(path).status_code == 401
        shown = {"Authorization": "Bearer a-secret-of-some-length"}
        assert guarded.ask(RED, "image/png", **shown).status_code == 200
        # Requests sent ahead of their answers are asked too.
        pipelined = (
            b"GET /ping HTTP/1.1\r\nhost: x\r\n\r\nGET /metadata HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
        )
        assert b"401 Unauthorized" in exchange(guarded, pipelined)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8080", 200),
        ("localhost", 200),
        ("LOCALHOST:1", 200),
        ("[::1]:8080", 200),
        ("10.0.0.7", 200),
        ("elsewhere.example", 421),
        ("elsewhere.example:8080", 421),
        ("127.0.0.1.elsewhere.example", 421),
        ("localhost.elsewhere.example", 421),
        ("localhost@elsewhere.example", 421),
        ("127.0.0.1, elsewhere.example", 421),
    ],
)
def test_who_gives_this_machines_address_another_name_is_refused_on_loopback(
    unnamed: Served, host: str, status: int
) -> None:
    for path in ("/metadata", "/", "/ping"):
        assert unnamed.client.get(path, headers={"Host": host}).status_code == status
    assert unnamed.ask(RED, "image/png", Host=host).status_code == status


def test_where_a_token_is_asked_or_everybody_may_ask_an_endpoint_has_any_name(served: Served) -> None:
    named = {"Host": "elsewhere.example"}
    assert served.client.get("/metadata", headers=named).status_code == 200
    with serving(token=Token("a-secret-of-some-length"), any_host=False) as guarded:
        shown = {"Authorization": "Bearer a-secret-of-some-length"}
        assert guarded.client.get("/metadata", headers={**named, **shown}).status_code == 200


@pytest.fixture(scope="module")
def unnamed() -> Iterator[Served]:
    with serving(any_host=False) as running:
        yield running


def exchange(served: Served, data: bytes) -> bytes:
    import socket

    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as connection:
        connection.sendall(data)
        parts = []
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts)


class Broken(Reddest):
    """Fails at what it is asked."""

    broken = False

    def compute(self, crops: Sequence[np.ndarray], outputs: Sequence[str]) -> dict[str, np.ndarray]:
        if self.broken:
            raise RuntimeError("the device is gone")
        return super().compute(crops, outputs)


def test_what_a_runtime_fails_at_is_a_model_error_counted_and_logged(capsys: pytest.CaptureFixture[str]) -> None:
    model = Broken()
    with serving(model) as served:
        model.broken = True
        assert served.ask(RED, "image/png").status_code == 500
        runtime = served.ask(RED, "image/png", "/endpoints/reddest/invocations")
        assert (runtime.status_code, runtime.headers["x-amzn-errortype"]) == (424, "ModelError")
        assert runtime.json()["OriginalStatusCode"] == 500
        counted = served.client.get("/metrics").text
    assert 'finepoint_requests_total{path="/invocations",status="500"} 1' in counted
    assert 'finepoint_requests_total{path="/endpoints/NAME/invocations",status="424"} 1' in counted
    assert capsys.readouterr().err.count("RuntimeError: the device is gone") == 2


def test_httpx_needs_no_more_than_one_connection(served: Served) -> None:
    before = served.server.connections
    with httpx.Client(base_url=served.url, trust_env=False) as client:
        for _ in range(3):
            assert client.post("/invocations", content=b"bad", headers={"Content-Type": "text/x"}).status_code == 415
        assert served.server.connections <= before + 1
