from __future__ import annotations

import asyncio
import json
import os
import threading
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

    def note(self, request: Request, response: Response) -> None:
        pass


def test_each_request_is_a_line_whatever_its_path_and_two_files_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_log, "_FILE_BYTES", 2_000)
    path = tmp_path / "log.jsonl"
    logged = LoggedApplication(Answers(), path)
    logged.admit(Request("GET", "/refused"))
    for number in range(30):
        asyncio.run(logged.answer(Request("POST", f"/{number}\nforged line")))
    logged.note(Request("", "", arrived=0.0), Response(status=408))
    logged.close()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["log.jsonl", "log.jsonl.1"]
    rows = [json.loads(line) for file in (f"{path}.1", path) for line in Path(file).read_text().splitlines()]
    assert [row["path"] for row in rows[-2:]] == ["/29\nforged line", ""]
    assert [row["status"] for row in rows[-2:]] == [200, 408]
    assert max(file.stat().st_size for file in tmp_path.iterdir()) < 2_400
    assert path.stat().st_mode & 0o077 == 0


def test_no_answer_waits_for_a_disk_and_what_it_cannot_keep_up_with_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_log, "_WAITING", 10)
    path, disk, writes = tmp_path / "log.jsonl", threading.Event(), os.write

    def slowly(file: int, data: bytes) -> int:
        assert disk.wait(10)
        return writes(file, data)

    monkeypatch.setattr(request_log.os, "write", slowly)
    logged = LoggedApplication(Answers(), path)
    for number in range(50):
        assert asyncio.run(logged.answer(Request("POST", f"/{number}"))).status == 200
    disk.set()
    logged.close()
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    noted = [row["path"] for row in rows if "path" in row]
    assert noted[:10] == [f"/{number}" for number in range(10)]
    assert sum(row.get("not_noted", 0) for row in rows) == 50 - len(noted) > 0
