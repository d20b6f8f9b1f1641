"""What a channel may be, as a script on this machine finds it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from finepoint import stores
from finepoint.engines.channels import name_in_channel, on_this_machine
from finepoint.engines.local import execute
from finepoint.engines.spec import Channel, JobSpec
from finepoint.errors import ConfigurationError, DataError


class Shelf:
    """A store whose content is a mapping of addresses."""

    def __init__(self, content: dict[str, bytes]) -> None:
        self.content = content

    def file(self, address: str, target: Path, progress: Callable[[int, int], None] | None = None) -> None:
        target.write_bytes(self.content[address])

    def channel(self, address: str, target: Path) -> int:
        return self._bring(
            {name_in_channel(address, key): key for key in self.content if key.startswith(address)}, target
        )

    def named(self, prefix: str, names: Sequence[str], target: Path) -> None:
        self._bring({name: prefix + name for name in names}, target)

    def folder(self, address: str, target: Path, **settings: Any) -> int:
        return self.channel(address.rstrip("/") + "/", target)

    def send(self, files: Mapping[str, Path], address: str) -> None:
        self.content |= {f"{address.rstrip('/')}/{name}": path.read_bytes() for name, path in files.items()}

    def _bring(self, keys: Mapping[str, str], target: Path) -> int:
        for name, key in keys.items():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).write_bytes(self.content[key])
        return len(keys)


@pytest.fixture(autouse=True)
def shelf(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Shelf:
    monkeypatch.setenv("FINEPOINT_CACHE", str(tmp_path / "cache"))
    made = Shelf({"shelf://set/a/1.txt": b"1", "shelf://set/b/2.txt": b"2", "shelf://set/c/3.txt": b"3"})
    monkeypatch.setitem(stores._STORES, "shelf", lambda: made)
    return made


def job(tmp_path: Path, **channels: Channel) -> JobSpec:
    (tmp_path / "train.py").write_text("")
    return JobSpec("job", entry_point="train.py", source_dir=str(tmp_path / "train.py"), channels=channels)


def names(spec: JobSpec, channel: str) -> dict[str, str]:
    root = spec.channels[channel].path
    return {path.relative_to(root).as_posix(): path.read_text() for path in sorted(root.rglob("*.txt"))}


def test_an_address_is_brought_and_a_manifest_is_what_it_names(tmp_path: Path, shelf: Shelf) -> None:
    elsewhere, here = tmp_path / "elsewhere.manifest", tmp_path / "here.manifest"
    elsewhere.write_text(json.dumps([{"prefix": "shelf://set/"}, "a/1.txt", "c/3.txt"]))
    here.write_text(json.dumps([{"prefix": f"file://{tmp_path}"}, "one/1.txt"]))
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "1.txt").write_text("here")
    shelf.content["shelf://lists/x.manifest"] = elsewhere.read_bytes()
    spec = job(
        tmp_path,
        whole=Channel("shelf://set"),
        elsewhere=Channel(str(elsewhere)),
        there=Channel("shelf://lists/x.manifest"),
        here=Channel(str(here)),
    )
    said: list[str] = []
    brought = on_this_machine(spec, tmp_path / "links", said.append)
    assert names(brought, "whole") == {"a/1.txt": "1", "b/2.txt": "2", "c/3.txt": "3"}
    assert names(brought, "elsewhere") == names(brought, "there") == {"a/1.txt": "1", "c/3.txt": "3"}
    assert names(brought, "here") == {"one/1.txt": "here"}
    assert said == ["Bringing shelf://set", "Bringing shelf://lists/x.manifest"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[]", "no manifest"),
        ('["a.txt"]', "no manifest"),
        ("nonsense", "no manifest"),
        ('[{"prefix": "/data"}, "../a"]', "outside"),
        ('[{"prefix": "/data"}]', "names nothing"),
        ('[{"prefix": "/nowhere"}, "a"]', "not there"),
    ],
)
def test_a_manifest_that_is_none_is_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "x.manifest").write_text(text)
    with pytest.raises(DataError, match=words):
        on_this_machine(job(tmp_path, train=Channel(str(tmp_path / "x.manifest"))), tmp_path / "links", print)


def test_what_cannot_be_read_here_is_refused_before_the_start(tmp_path: Path) -> None:
    spec = job(tmp_path, a=Channel("gs://x/y"), b=Channel("shelf://set", "Pipe"))
    with pytest.raises(ConfigurationError) as caught:
        execute(tmp_path / "job", spec)
    assert len(caught.value.mistakes) == 2
