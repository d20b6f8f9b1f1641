"""The check to be run by hand on a GPU machine, here on a recorded session."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from finepoint.profiler.gpu_check import check_gpu
from finepoint.profiler.nvml import Ask, DeviceReader, NvmlError, played_back

SESSION = Path(__file__).parent / "nvml-session.jsonl"


@contextmanager
def session() -> Iterator[Ask]:
    yield played_back(SESSION)


@contextmanager
def no_driver() -> Iterator[Ask]:
    raise NvmlError(12, "NVML Shared Library Not Found")
    yield played_back(SESSION)


@contextmanager
def no_torch() -> Iterator[str]:
    raise RuntimeError("torch sees no CUDA device")
    yield ""


def test_the_session_that_is_recorded_can_be_played_back(tmp_path: Path) -> None:
    checks = check_gpu(tmp_path, driver=session, load=lambda: nullcontext("a GPU"), pause=0)
    named = {check.name: check for check in checks}
    assert named["devices"].detail == "2: NVIDIA A10G, NVIDIA A10G"
    assert named["shares lie between 0 and 1"].passed
    assert named["session"].passed
    assert DeviceReader(played_back(tmp_path / "nvml-session.jsonl")).count == 2


def test_a_load_that_does_not_show_fails_the_check(tmp_path: Path) -> None:
    # The hand-made session's first five samples hold its highest utilisation; the load's lie below.
    checks = check_gpu(tmp_path, driver=session, load=lambda: nullcontext("a GPU"), pause=0)
    assert [check.passed for check in checks if check.name == "utilisation rises"] == [False]


def test_a_machine_without_a_driver_is_told_so(tmp_path: Path) -> None:
    (check,) = check_gpu(tmp_path, driver=no_driver)
    assert not check.passed
    assert "NVML Shared Library Not Found" in check.detail
    assert not (tmp_path / "nvml-session.jsonl").exists()


def test_torch_without_cuda_is_told_so(tmp_path: Path) -> None:
    checks = check_gpu(tmp_path, driver=session, load=no_torch, pause=0)
    assert [check.detail for check in checks if check.name == "torch"] == ["torch sees no CUDA device"]
