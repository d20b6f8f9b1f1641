"""schemathesis, another reader of OpenAPI than ours, asks a real server by the document that the server gives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from tests.serving.conftest import Served, picture, serving

from finepoint.models.answers import IMAGE_TYPES

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
IMAGES = st.sampled_from([picture((200, 0, 0)), picture((0, 0, 200), "JPEG"), b""]) | st.binary(max_size=100)
for kind in IMAGE_TYPES:
    schemathesis.openapi.media_type(kind, IMAGES)


@pytest.fixture(scope="module")
def ordinary() -> Iterator[Served]:
    with serving() as running:
        yield running


@pytest.mark.parametrize(
    ("path", "method"),
    [
        ("/ping", "GET"),
        ("/invocations", "POST"),
        ("/invocations/batch", "POST"),
        ("/metadata", "GET"),
        ("/metrics", "GET"),
    ],
)
def test_every_answer_is_what_the_served_document_promises(ordinary: Served, path: str, method: str) -> None:
    schema = schemathesis.openapi.from_dict(ordinary.client.get("/openapi.json").json())
    assert path in schema
    statuses: Counter[int] = Counter()
    session = requests.Session()
    session.trust_env = False  # no proxy

    @settings(max_examples=150 if method == "POST" else 5, deadline=None, suppress_health_check=list(HealthCheck))
    @given(schema[path][method].as_strategy())
    def ask(case: Any) -> None:
        statuses[case.call_and_validate(ordinary.url, session, checks=CHECKS).status_code] += 1

    with session:
        ask()
    assert 200 in statuses
