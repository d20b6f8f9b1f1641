"""What verifies a server's certificate."""

from __future__ import annotations

from finepoint.serving.client import Endpoint
from finepoint.serving.trust import trusted


def test_the_systems_certificates_are_read_once_and_not_for_each_request() -> None:
    assert Endpoint("http://127.0.0.1:1").trust() is Endpoint("http://127.0.0.1:2").trust()
    assert trusted("") is trusted("")
