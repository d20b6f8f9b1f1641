"""What the slim image holds, installed as docker/Dockerfile does, without Docker: its size, and that it serves.

A virtual environment gets docker/requirements.txt and finepoint without its dependencies; in it the SageMaker entry
point serves a package from a made-up /opt/ml, and ends when told to.

    python benchmarks/image.py [--quick] [--json]
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import psutil

from photographs import photographs
from reporting import Goal, parser, report
from serving_processes import free_port, package, running_server, tiny_package

_ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    given = parser(__doc__.splitlines()[0]).parse_args()
    with tempfile.TemporaryDirectory() as name, (tiny_package if given.quick else package)() as model:
        folder = Path(name)
        python = installed(folder / "venv")
        (folder / "ml").mkdir()
        (folder / "ml" / "model").symlink_to(model)
        (photograph,) = photographs(None, folder, 1)
        goals = served(python, folder, photograph.read_bytes())
        (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
        sizes = {path.name: _size(path) for path in site.iterdir()}
        largest = sorted(sizes.items(), key=lambda item: -item[1])[:8]
        rows = [{"package": name, "MiB": f"{size / 2**20:.0f}"} for name, size in largest]
        total = sum(sizes.values())
        rows.append({"package": "all packages", "MiB": f"{total / 2**20:.0f}"})
        notes = "The image is these packages and python:3.12-slim."
        report("The slim image", rows, goals, as_json=given.json, notes=notes)


def installed(folder: Path) -> Path:
    """Make the environment and return its Python."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "-r", str(_ROOT / "docker" / "requirements.txt")], check=True)
    subprocess.run([*pip, "--no-deps", str(_ROOT)], check=True)
    # The image's own tools, which it does not need to serve.
    subprocess.run([str(python), "-m", "pip", "uninstall", "--quiet", "--yes", "pip", "setuptools"], check=True)
    return python


def served(python: Path, folder: Path, image: bytes) -> list[Goal]:
    """Serve as the container does and return what came of it."""
    port = free_port()
    environment = {
        "SAGEMAKER_BASE_DIR": str(folder / "ml"),
        "SAGEMAKER_BIND_TO_PORT": str(port),
        "FINEPOINT_CACHE": str(folder / "cache"),
        "FINEPOINT_STATE": str(folder / "state"),
        "PYTHONPATH": "",
    }
    command = [str(python), "-m", "finepoint.serving.sagemaker", "serve"]
    start = time.perf_counter()
    with running_server(command, f"http://127.0.0.1:{port}", "/ping", environment) as (url, process):
        seconds = time.perf_counter() - start
        answer = httpx.post(f"{url}/invocations", content=image, headers={"Content-Type": "image/jpeg"})
        family = [process, *process.children(recursive=True)]
        torch = any("libtorch" in (Path("/proc") / str(each.pid) / "maps").read_text() for each in family)
        os.kill(process.pid, signal.SIGTERM)
        code = process.wait(10)
        _, alive = psutil.wait_procs(family, timeout=5)
    return [
        Goal("answers an image", float(answer.status_code == 200), 1),
        Goal(f"1.5 s over the seconds to a good /ping ({seconds:.2f} s)", 1.5 / seconds, 1),
        Goal("without torch", float(not torch), 1),
        Goal("ends with 0 and leaves no process at SIGTERM", float(code == 0 and not alive), 1),
    ]


def _size(path: Path) -> int:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


if __name__ == "__main__":
    main()
