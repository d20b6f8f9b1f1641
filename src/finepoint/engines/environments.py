"""The Python environment that a script runs in: finepoint's own, or one with what its requirements.txt asks for."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import shutil
import site
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable, Iterable
from pathlib import Path

from filelock import FileLock
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from finepoint.errors import ConfigurationError
from finepoint.files import cache_dir

_READY = ".ready"
_PIP_LINES = 12


def python_for(code: Path, entry_point: str, *, offline: bool, say: Callable[[str], None]) -> str:
    """Return the Python that runs a script.

    Where everything that `requirements.txt` asks for is installed here already, and there is no package to install,
    that is this process's. Otherwise it is that of an environment of its own, in which what is installed here can be
    seen too; it is kept in the cache by the content of what it was made from.

    Args:
        code: the script's folder.
        entry_point: the script; a `.sh` is not helped by a setup.py.
        offline: download nothing; an environment that is there already is taken.
        say: is told in a line what is being done.

    Raises:
        ConfigurationError: something cannot be installed; the message has pip's last words.
    """
    listed = code / "requirements.txt"
    package = (code / "setup.py").is_file() and not entry_point.endswith(".sh")
    missing = unmet(listed)
    if not package and not missing:
        return sys.executable
    folder = cache_dir() / "environments" / _key(code, listed, package)
    with FileLock(f"{folder}.lock"):
        if not (folder / _READY).is_file():
            if offline and missing:
                raise ConfigurationError(
                    f"{listed.name} asks for what is not installed here, and nothing may be downloaded (offline): "
                    f"{', '.join(missing)}. Install it beside finepoint, or run once with a network and without "
                    "--offline"
                )
            what = "the package" if package else f"what {listed.name} asks for ({', '.join(missing)})"
            say(f"Installing {what} into an environment of its own; the next job will find it there")
            _make(folder, code, listed if listed.is_file() else None, package, offline)
    return str(folder / "bin" / "python")


def unmet(listed: Path) -> list[str]:
    """Return what a requirements.txt asks for and is not installed here; what is no plain requirement is not met."""
    if not listed.is_file():
        return []
    lines = (line.split(" #")[0].strip() for line in listed.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("#") and not _met(line)]


def _met(line: str) -> bool:
    try:
        wanted = Requirement(line)
    except InvalidRequirement:
        return False
    if wanted.marker is not None and not wanted.marker.evaluate():
        return True
    if wanted.url or wanted.extras:
        return False
    try:
        return wanted.specifier.contains(importlib.metadata.version(wanted.name), prereleases=True)
    except importlib.metadata.PackageNotFoundError:
        return False


def _key(code: Path, listed: Path, package: bool) -> str:
    """Return the name of the environment: a hash of all that decides what is in it."""
    content = hashlib.sha256()
    content.update(f"{sys.version} {sys.prefix}".encode())
    for name, version in sorted(_installed()):
        content.update(f"{name}=={version}\n".encode())
    text = listed.read_bytes() if listed.is_file() else b""
    content.update(text)
    # Lines that name other files, or the folder itself, make all of it count.
    if package or any(line.lstrip().startswith((b"-", b".", b"/")) for line in text.splitlines()):
        for path in sorted(path for path in code.rglob("*") if path.is_file()):
            content.update(str(path.relative_to(code)).encode() + b"\0" + path.read_bytes())
    return content.hexdigest()[:32]


def _installed() -> Iterable[tuple[str, str]]:
    for distribution in importlib.metadata.distributions():
        name = distribution.metadata["Name"]
        if name:
            yield canonicalize_name(name), distribution.version


def _make(folder: Path, code: Path, listed: Path | None, package: bool, offline: bool) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True, symlinks=True)
    python = str(folder / "bin" / "python")
    purelib = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder)}))
    seen = list(dict.fromkeys([*site.getsitepackages(), sysconfig.get_path("purelib")]))
    # A venv sees the interpreter's own packages at most, not those of the venv that finepoint is in.
    (purelib / "finepoint-parent.pth").write_text(
        "".join(f"import site; site.addsitedir({path!r})\n" for path in seen), encoding="utf-8"
    )
    command = [python, "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--quiet"]
    if offline:
        command.append("--no-index")
    if package:
        if _can_build():
            # What is installed here builds it, so that nothing need be downloaded; a venv's own setuptools may be old.
            subprocess.run([python, "-m", "pip", "uninstall", "--quiet", "--yes", "setuptools"], check=True)
            command.append("--no-build-isolation")
        command.append(".")
    if listed is not None:
        command += ["-r", listed.name]
    done = subprocess.run(command, cwd=code, capture_output=True, text=True, env={**os.environ, "PIP_USER": "0"})
    if done.returncode != 0:
        shutil.rmtree(folder, ignore_errors=True)
        said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        words = "\n  ".join(said[-_PIP_LINES:])
        what = "the package (setup.py)" if package else "requirements.txt"
        raise ConfigurationError(
            f"{what} could not be installed; pip says:\n  {words}\n"
            "Without a network, install what is missing beside finepoint and run with --offline"
        )
    (folder / _READY).touch()


def _can_build() -> bool:
    """Return whether setuptools is installed here, in a version that builds wheels by itself."""
    try:
        return Version(importlib.metadata.version("setuptools")) >= Version("70.1")
    except importlib.metadata.PackageNotFoundError:
        return False
