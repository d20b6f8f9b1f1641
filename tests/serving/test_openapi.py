"""What the endpoint answers is what its OpenAPI description says, whatever it is sent."""

from __future__ import annotations

import base64
import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.serving.conftest import Served, picture

from finepoint.serving.openapi import openapi

OPERATIONS = [
    (path, method, operation)
    for path, operations in openapi("reddest")["paths"].items()
    for method, operation in operations.items()
]
IMAGES = [picture((200, 0, 0)), picture((0, 0, 200), "JPEG", size=(30, 20)), b"", b"GIF89a"]
TEXTS = st.text(max_size=20)


@st.composite
def values(draw: st.DrawFn, schema: dict[str, Any]) -> Any:
    """What a parameter's schema allows, or anything."""
    if draw(st.booleans()):
        return draw(TEXTS)
    if schema.get("type") == "integer":
        return str(draw(st.integers(schema.get("minimum", -5), 5)))
    if schema.get("type") == "boolean":
        return draw(st.sampled_from(["true", "false"]))
    return draw(st.sampled_from([str(value) for value in schema.get("enum", [])] or ["red", ""]))


@st.composite
def bodies(draw: st.DrawFn, kind: str) -> bytes:
    """A body of a content type, right or nearly so, or anything."""
    image = draw(st.sampled_from(IMAGES))
    coded = base64.b64encode(image).decode()
    if draw(st.integers(0, 4)) == 0:
        return draw(st.binary(max_size=300))
    if kind == "application/json":
        leaf = st.one_of(st.just(coded), TEXTS, st.none(), st.lists(st.just(coded), max_size=3), st.integers())
        return json.dumps(draw(st.dictionaries(st.sampled_from(["image", "images", "x"]), leaf, max_size=2))).encode()
    if kind == "application/jsonlines":
        lines = draw(st.lists(st.one_of(st.just({"image": coded}), st.just({"image": 1, "name": "a"})), max_size=3))
        return b"\n".join(json.dumps(line).encode() for line in lines)
    if kind.startswith("multipart/"):
        part = b'--b\r\nContent-Disposition: form-data; name="x"; filename="a.png"\r\n\r\n' + image + b"\r\n"
        return part * draw(st.integers(0, 2)) + b"--b--\r\n"
    return image


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, str, dict[str, Any], dict[str, str], dict[str, str], bytes]:
    """Path, method, operation, query, headers, body."""
    path, method, operation = draw(st.sampled_from(OPERATIONS))
    query = {
        parameter["name"]: draw(values(parameter["schema"]))
        for parameter in operation.get("parameters", ())
        if draw(st.booleans())
    }
    accepted = [*operation["responses"]["200"]["content"], "*/*", "text/nonsense", "application/json;q=0.1, text/csv"]
    headers = {"Accept": draw(st.sampled_from(accepted))}
    body = b""
    if "requestBody" in operation:
        kind = draw(st.sampled_from([*operation["requestBody"]["content"], "text/strange"]))
        headers["Content-Type"] = "multipart/form-data; boundary=b" if kind.startswith("multipart/") else kind
        body = draw(bodies(kind))
    return path, method, operation, query, headers, body


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(requests())
def test_every_answer_is_one_that_the_description_knows(
    served: Served, asked: tuple[str, str, dict[str, Any], dict[str, str], dict[str, str], bytes]
) -> None:
    path, method, operation, query, headers, body = asked
    answer = served.client.request(method, path, params=query, headers=headers, content=body)
    described = operation["responses"].get(str(answer.status_code))
    assert described is not None, (answer.status_code, answer.text)
    kind = answer.headers["content-type"].split(";")[0]
    assert kind in described["content"], (answer.status_code, kind)
    if answer.status_code != 200:
        error = answer.json()["error"]
        assert (error["code"], bool(error["message"])) == (answer.status_code, True)
