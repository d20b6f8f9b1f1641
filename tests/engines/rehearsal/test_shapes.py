from __future__ import annotations

from typing import Any

import pytest

from finepoint.engines.rehearsal.shapes import problems

WHOLE: dict[str, Any] = {
    "ModelName": "dogs",
    "PrimaryContainer": {"Image": "image", "ModelDataUrl": "s3://photos/model.tar.gz"},
    "ExecutionRoleArn": "arn:aws:iam::123456789012:role/finepoint",
}


def test_a_whole_request_has_no_problems() -> None:
    assert problems("CreateModel", WHOLE) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ModelName": "a b"}, "must match"),
        ({"ModelName": "a" * 64}, "at most 63"),
        ({"ModelName": 1}, "must be a string"),
        ({"Nix": 1}, "Nix is unknown"),
        ({"EnableNetworkIsolation": 1}, "must be a boolean"),
        ({"PrimaryContainer": {"Mode": "Nix"}}, "must be one of"),
        ({"Tags": [{"Key": "a"}]}, "Tags[0].Value is required"),
        ({"PrimaryContainer": {"Environment": {"A": "b" * 4000}}}, "PrimaryContainer.Environment.A"),
    ],
)
def test_each_kind_of_mistake_is_found(change: dict[str, Any], words: str) -> None:
    found = problems("CreateModel", {**WHOLE, **change})
    assert len(found) == 1
    assert words in found[0]


def test_an_answer_is_checked_too() -> None:
    assert problems("CreateModel", {}, answer=True) == ["ModelArn is required"]
