from __future__ import annotations

import csv
import errno
import io
import json
from pathlib import Path

import pytest

from finepoint.cli import run_command
from finepoint.cli.images import files_in
from finepoint.cli.output import complain, plain, print_json, say
from finepoint.cli.tables import csv_table
from finepoint.models.classifier import Prediction

HOSTILE = "\x1b[2J[red]\u202e\udcff"


def test_names_cannot_command_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    say(f"{HOSTILE}\nsecond line")
    complain(f"{HOSTILE}: no image")
    said = capsys.readouterr().err
    assert said.splitlines() == [
        "\ufffd[2J[red]\ufffd\ufffd",
        "second line",
        "error: \ufffd[2J[red]\ufffd\ufffd: no image",
    ]
    assert plain("a\n[b]") == "a\ufffd\\[b]"


def test_json_can_say_every_name(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"path": HOSTILE})
    assert json.loads(capsys.readouterr().out) == {"path": HOSTILE}


def test_a_spreadsheet_computes_no_path(tmp_path: Path) -> None:
    names = ["=1+1.png", '@a,"b"\n.png', "\udcff.png", "plain.png"]
    answers = [(Path(name), Prediction("x", 1.0, {"x": 1.0, "y, z": 0.0}, name)) for name in names]
    content = csv_table(("x", "y, z"), answers)
    assert b"\xff.png" in content  # the file's name as it is on disk
    rows = list(csv.reader(io.StringIO(content.decode("utf-8", "surrogateescape"), newline="")))
    assert rows[0] == ["path", "label", "probability", "x", "y, z"]
    assert [row[0] for row in rows[1:]] == ["./=1+1.png", './@a,"b"\n.png', "\udcff.png", "plain.png"]


def test_hidden_and_stray_folders_are_not_predicted(tmp_path: Path) -> None:
    for folder in ("a", ".hidden", "__MACOSX", "a/.ipynb_checkpoints"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "1.jpg").touch()
    (tmp_path / "0.jpg").touch()
    assert files_in([tmp_path]) == [tmp_path / "0.jpg", tmp_path / "a" / "1.jpg"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_what_the_system_refuses_is_a_sentence_with_a_remedy(
    number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(_given: object) -> None:
        raise OSError(number, "refused", "/data/run.json")

    monkeypatch.setattr("finepoint.runs.folder.list_runs", refuse)
    assert run_command(["runs"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: /data/run.json: refused; ")
