"""What a job uploads of code: the folder of a script, or finepoint itself as a wheel and a line that starts it."""

from __future__ import annotations

import base64
import gzip
import hashlib
import importlib.metadata
import io
import json
import tarfile
import tempfile
import zipfile
from pathlib import Path

import finepoint
from finepoint.engines.container import copy_code
from finepoint.engines.recorded import CONFIGURATION, configuration_of, is_recorded
from finepoint.engines.spec import JobSpec

ENTRY_POINT = "finepoint_job.py"
_ENTRY = '''"""Starts {module} of finepoint, which requirements.txt installs from the wheel beside this file."""

import runpy

runpy.run_module("{module}", run_name="__main__", alter_sys=True)
'''
# The oldest time that a zip entry can have: the same content gives the same bytes.
_EPOCH = (1980, 1, 1, 0, 0, 0)


def source_archive(spec: JobSpec) -> tuple[bytes, str]:
    """Return a job's `sourcedir.tar.gz` and the entry point in it; the same code gives the same bytes."""
    if spec.is_script:
        with tempfile.TemporaryDirectory() as folder:
            code = Path(folder) / "code"
            copy_code(spec, code)
            files = {path.relative_to(code).as_posix(): path.read_bytes() for path in code.rglob("*") if path.is_file()}
        if not is_recorded(spec):
            return _tar(files), spec.entry_point
        name, wheel = build_wheel()
        files |= {
            name: wheel,
            "requirements.txt": files.get("requirements.txt", b"").rstrip() + f"\n./{name}\n".encode(),
            CONFIGURATION: json.dumps(configuration_of(spec)).encode(),
            ENTRY_POINT: _ENTRY.format(module="finepoint.engines.recorded").encode(),
        }
        return _tar(files), ENTRY_POINT
    name, wheel = build_wheel()
    files = {
        name: wheel,
        "requirements.txt": f"./{name}\n".encode(),
        ENTRY_POINT: _ENTRY.format(module=spec.module).encode(),
    }
    return _tar(files), ENTRY_POINT


def build_wheel() -> tuple[str, bytes]:
    """Return file name and bytes of a wheel of the finepoint that runs here, however it was installed."""
    package = Path(finepoint.__file__).parent
    version = finepoint.__version__
    info = f"finepoint-{version}.dist-info"
    metadata = importlib.metadata.distribution("finepoint").read_text("METADATA") or ""
    wheel = "Wheel-Version: 1.0\nGenerator: finepoint\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files = {
        path.relative_to(package.parent).as_posix(): path.read_bytes()
        for path in sorted(package.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }
    files |= {f"{info}/METADATA": metadata.encode(), f"{info}/WHEEL": wheel.encode()}
    record = "".join(f"{name},sha256={_digest(content)},{len(content)}\n" for name, content in files.items())
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), content, zipfile.ZIP_DEFLATED)
    return f"finepoint-{version}-py3-none-any.whl", buffer.getvalue()


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


def _tar(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=buffer, mtime=0) as stream,
        tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for name, content in sorted(files.items()):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o755 if name.endswith(".sh") else 0o644
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()
