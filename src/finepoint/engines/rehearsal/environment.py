"""The clean environments that rehearsed containers run in: the official toolkits', with nothing of finepoint's, and
that of our own serving image.

PyTorch and the other packages that an AWS PyTorch image would bring, or that pip would download into it, are taken from
this machine's site-packages through links, so that an environment takes seconds and not minutes. finepoint itself is
not among them: a job has it only if it uploaded it.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Mapping
from pathlib import Path

from filelock import FileLock
from packaging.requirements import Requirement

from finepoint.engines.sagemaker.source import build_wheel
from finepoint.errors import JobError

TOOLKITS = ("sagemaker-training==5.1.4", "sagemaker-pytorch-inference==2.0.25")
# What docker/Dockerfile installs beside finepoint; a test compares.
SERVING = (
    "filelock",
    "httptools",
    "numpy",
    "openvino",
    "pillow",
    "platformdirs",
    "psutil",
    "safetensors",
    "simplejpeg",
)
# A venv's own is older than PyTorch asks for, and would be replaced in each container anew.
_SETUPTOOLS = "setuptools>=77.0.3"
_READY = ".ready"
# A real container would download packages and weights; on this machine they may be there already.
_PASSED_ON = frozenset(
    [
        "PATH",
        "LANG",
        "LD_LIBRARY_PATH",
        "SSL_CERT_FILE",
        "http_proxy",
        "https_proxy",
        "no_proxy",
        "TORCH_HOME",
        "HF_HOME",
    ]
)
_LEFT_OUT = ("finepoint", "_editable", "__editable__", "pip", "setuptools", "_distutils_hack", "sagemaker")


def toolkit_environment(cache: Path) -> Path:
    """Return the site-packages of an environment with the official toolkits, made once in a cache folder.

    Raises:
        JobError: the toolkits could not be installed; the message has pip's last words.
    """
    folder = cache / f"toolkit-{_key()}"
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not (folder / _READY).is_file():
            shutil.rmtree(folder, ignore_errors=True)
            venv.create(folder, with_pip=True, symlinks=True)
            _link_packages(folder / "links")
            (_packages(folder) / "machine.pth").write_text(f"{folder / 'links'}\n")
            command = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-input"]
            command += ["--upgrade", _SETUPTOOLS, *TOOLKITS]
            done = subprocess.run(command, capture_output=True, text=True, timeout=600)
            if done.returncode != 0:
                raise JobError(f"the rehearsal's toolkits cannot be installed: {done.stderr.strip()[-500:]}")
            (folder / _READY).touch()
    return _packages(folder)


def passed_on(variables: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return what a container has of this machine's variables: where packages and pretrained weights are found.

    >>> passed_on({"PATH": "/bin", "TORCH_HOME": "/weights", "AWS_PROFILE": "mine"})
    {'PATH': '/bin', 'TORCH_HOME': '/weights'}
    """
    return {name: value for name, value in variables.items() if name in _PASSED_ON or name.startswith("PIP_")}


def overlay(folder: Path, toolkit: Path) -> Path:
    """Make an environment for one container over the toolkit's, and return its Python; what is installed there stays
    in it."""
    venv.create(folder, with_pip=False, symlinks=True)
    links = toolkit.parents[2] / "links"
    (_packages(folder) / "toolkit.pth").write_text(f"{toolkit}\n{links}\n")
    return folder / "bin" / "python"


def serving_environment(folder: Path) -> Path:
    """Make an environment with what our serving image installs, finepoint among it, and return its Python."""
    venv.create(folder, with_pip=False, symlinks=True)
    packages = _packages(folder)
    names: set[str] = set()
    for name in SERVING:
        _add_needed(name, names)
    for name in names:
        distribution = importlib.metadata.distribution(name)
        for top in {path.parts[0] for path in distribution.files or () if path.parts[0] not in ("..", "__pycache__")}:
            if not (packages / top).exists():
                (packages / top).symlink_to(str(distribution.locate_file(top)))
    with zipfile.ZipFile(io.BytesIO(build_wheel()[1])) as wheel:
        wheel.extractall(packages)
    return folder / "bin" / "python"


def _add_needed(name: str, names: set[str]) -> None:
    """Add a distribution to a set, and whatever it needs."""
    names.add(name)
    for line in importlib.metadata.requires(name) or ():
        wanted = Requirement(line)
        if wanted.name not in names and (wanted.marker is None or wanted.marker.evaluate({"extra": ""})):
            _add_needed(wanted.name, names)


def _key() -> str:
    text = f"{sys.version} {sys.prefix} {TOOLKITS} {_SETUPTOOLS} {sorted(path.name for path in _site().iterdir())}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _site() -> Path:
    return Path(sysconfig.get_path("purelib"))


def _packages(folder: Path) -> Path:
    return Path(sysconfig.get_path("purelib", "venv", {"base": str(folder)}))


def _link_packages(target: Path) -> None:
    target.mkdir()
    for path in _site().iterdir():
        if not path.name.startswith(_LEFT_OUT) and path.suffix != ".pth":
            (target / path.name).symlink_to(path)
