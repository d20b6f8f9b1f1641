from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

from finepoint.engines.profiling import profiler_configuration
from finepoint.engines.sagemaker.source import build_wheel, source_archive
from finepoint.engines.spec import JobSpec


def names(archive: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as packed:
        return packed.getnames()


def test_finepoints_own_module_comes_with_its_wheel() -> None:
    archive, entry_point = source_archive(JobSpec("j", module="finepoint.training"))
    wheel = next(name for name in names(archive) if name.endswith(".whl"))
    assert set(names(archive)) == {entry_point, "requirements.txt", wheel}
    assert source_archive(JobSpec("j", module="finepoint.training"))[0] == archive


def test_the_wheel_is_whole_and_says_what_it_needs() -> None:
    name, content = build_wheel()
    with zipfile.ZipFile(io.BytesIO(content)) as wheel:
        info = next(entry.split("/")[0] for entry in wheel.namelist() if entry.endswith("METADATA"))
        assert name.startswith(info.removesuffix(".dist-info"))
        assert "Requires-Dist: torch" in wheel.read(f"{info}/METADATA").decode()
        recorded = [line.split(",")[0] for line in wheel.read(f"{info}/RECORD").decode().splitlines()]
        assert sorted(recorded) == sorted(wheel.namelist())
        assert "finepoint/training/__main__.py" in recorded


def test_a_recorded_script_comes_with_finepoint_around_it(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("")
    (tmp_path / "requirements.txt").write_text("einops==0.8")
    spec = JobSpec("j", entry_point="train.py", source_dir=str(tmp_path), profiler=profiler_configuration())
    archive, entry_point = source_archive(spec)
    with tarfile.open(fileobj=io.BytesIO(archive)) as packed:
        requirements = packed.extractfile("requirements.txt")
        assert requirements is not None
        lines = requirements.read().decode().splitlines()
    assert lines[0] == "einops==0.8"
    assert lines[1].startswith("./finepoint-") and lines[1].endswith(".whl")
    assert {"train.py", entry_point, "finepoint_recording.json"} <= set(names(archive))


def test_a_script_comes_without_what_is_no_part_of_it(tmp_path: Path) -> None:
    for name in ("train.py", "lib/model.py", ".git/config", "__pycache__/x.pyc"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    archive, entry_point = source_archive(JobSpec("j", entry_point="train.py", source_dir=str(tmp_path)))
    assert (entry_point, sorted(names(archive))) == ("train.py", ["lib/model.py", "train.py"])
