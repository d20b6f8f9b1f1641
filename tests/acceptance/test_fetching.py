from __future__ import annotations

from pathlib import Path

import pytest
from tests.acceptance.conftest import Finepoint, value_of
from tests.data.test_extracting import tar_bytes

pytestmark = pytest.mark.slow


@pytest.fixture
def archive(tmp_path: Path, colours: Path) -> Path:
    path = tmp_path / "colours.tar.gz"
    files = {f"inner/{file.relative_to(colours)}": file.read_bytes() for file in sorted(colours.rglob("*.png"))}
    path.write_bytes(tar_bytes(files, "w:gz"))
    return path


def test_an_archive_is_fetched_and_checked(finepoint: Finepoint, archive: Path, tmp_path: Path) -> None:
    fetched = value_of(finepoint("data", "fetch", archive, "--to", tmp_path / "out", "--json"))
    assert (fetched["root"], fetched["classes"]) == (str(tmp_path / "out" / "inner"), 3)
    assert "go on with" in finepoint("data", "fetch", archive, "--to", tmp_path / "out").stderr.lower()
    checked = [value_of(finepoint("data", "check", path, "--json")) for path in (archive, fetched["root"])]
    assert checked[0]["images"] == checked[1]["images"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["data", "fetch", "gs://bucket/images"], "gs:// is not supported here"),
        (["run", "s3://bucket/images"], "no AWS region is set"),
        (["data", "fetch", "nix.zip"], "no such file"),
        (["data", "fetch", "ARCHIVE", "--to", "OUT", "--sha256", "0" * 64], "not what was asked for"),
    ],
)
def test_what_cannot_be_fetched_is_explained(
    finepoint: Finepoint,
    archive: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    words: str,
) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    given = {"ARCHIVE": archive, "OUT": tmp_path / "out"}
    assert words in finepoint(*(given.get(argument, argument) for argument in arguments), code=2).stderr
