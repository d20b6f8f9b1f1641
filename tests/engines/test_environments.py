from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.engines.conftest import SCRIPTS

from finepoint.engines.local import Watcher, run_job
from finepoint.engines.spec import JobSpec
from finepoint.errors import ConfigurationError


def source(tmp_path: Path, requirements: str, text: str = "") -> Path:
    folder = tmp_path / "source"
    folder.mkdir(exist_ok=True)
    (folder / "train.py").write_text(text)
    (folder / "requirements.txt").write_text(requirements)
    return folder


def test_what_is_installed_already_needs_no_environment(tmp_path: Path) -> None:
    folder = source(
        tmp_path,
        "# comment\nnumpy>=1.0  # needed\nno-such-package; python_version < '3'\n",
        "import sys; print(sys.executable)",
    )
    run_job(tmp_path / "job", JobSpec("job", entry_point="train.py", source_dir=str(folder)))
    import sys

    assert (tmp_path / "job" / "logs.txt").read_text().strip() == sys.executable


def test_offline_unmet_requirements_are_named(tmp_path: Path) -> None:
    folder = source(tmp_path, "numpy>=1.0\nnumpy<1.0\nno-such-package==1\n")
    spec = JobSpec("job", entry_point="train.py", source_dir=str(folder), requirements="offline")
    with pytest.raises(ConfigurationError, match=r"offline.*: numpy<1.0, no-such-package==1\. "):
        run_job(tmp_path / "job", spec)


@pytest.mark.slow
def test_a_requirement_is_installed_into_an_environment_that_the_next_job_finds(tmp_path: Path) -> None:
    package = tmp_path / "source" / "rare"
    package.mkdir(parents=True)
    (package / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    )
    (package / "backend.py").write_text(_BACKEND)
    folder = source(tmp_path, "./rare\n", "import rare, numpy, sys; print(rare.WORD, sys.prefix)")
    said: list[str] = []
    spec = JobSpec("job", entry_point="train.py", source_dir=str(folder))
    offline = replace(spec, requirements="offline")
    for name, one in (("first", spec), ("second", spec), ("third", offline)):
        run_job(tmp_path / name, one, Watcher(say=said.append))
    logs = [(tmp_path / name / "logs.txt").read_text() for name in ("first", "second", "third")]
    assert len(set(logs)) == 1
    assert logs[0].startswith("found ")
    assert len(said) == 1
    (folder / "requirements.txt").write_text("./rare\n# another environment\n")
    with pytest.raises(ConfigurationError, match="offline"):
        run_job(tmp_path / "fourth", offline)


@pytest.mark.slow
def test_a_package_is_installed_and_run_as_a_module(tmp_path: Path) -> None:
    spec = JobSpec(
        "job",
        entry_point="flowers",
        source_dir=str(SCRIPTS / "package"),
        hyperparameters={"lr": 1},
        requirements="offline",
    )
    run_job(tmp_path / "job", spec)
    assert (tmp_path / "job" / "logs.txt").read_text() == "flowers 1.0 ['--lr', '1']\n"


# A build backend that needs nothing: it writes the wheel itself.
_BACKEND = """
import zipfile

def build_wheel(directory, config_settings=None, metadata_directory=None):
    name = "rare-1-py3-none-any.whl"
    with zipfile.ZipFile(f"{directory}/{name}", "w") as wheel:
        wheel.writestr("rare.py", "WORD = 'found'")
        wheel.writestr("rare-1.dist-info/METADATA", "Metadata-Version: 2.1\\nName: rare\\nVersion: 1\\n")
        wheel.writestr("rare-1.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr("rare-1.dist-info/RECORD", "")
    return name
"""
