from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from finepoint.serving import request_log
from finepoint.serving.messages import Request, Response
from finepoint.serving.request_log import LoggedApplication


class Answers:
    def admit(self, request: Request) -> Response | None:
        return Response(status=404) if request.path == "/refused" else None

    async def answer(self, _request: Request) -> Response:
        return Response(b"ok")


def test_each_request_is_a_line_whatever_its_path_and_two_files_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_log, "_FILE_BYTES", 2_000)
    path = tmp_path / "log.jsonl"
    logged = LoggedApplication(Answers(), path)
    logged.admit(Request("GET", "/refused"))
    for number in range(30):
        asyncio.run(logged.answer(Request("POST", f"/{number}\nforged line")))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["log.jsonl", "log.jsonl.1"]
    rows = [json.loads(line) for file in (f"{path}.1", path) for line in Path(file).read_text().splitlines()]
    assert rows[-1]["path"] == "/29\nforged line"
    assert max(file.stat().st_size for file in tmp_path.iterdir()) < 2_400
    assert path.stat().st_mode & 0o077 == 0
