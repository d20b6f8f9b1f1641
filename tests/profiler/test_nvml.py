"""NVIDIA devices, from a session of NVML answers; `finepoint doctor --gpu` records a real one in the same form."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finepoint.errors import InputError
from finepoint.profiler.nvml import Ask, DeviceReader, NvmlError, played_back, recorded, write_session

SESSION = Path(__file__).parent / "nvml-session.jsonl"


def test_devices_are_described_and_what_one_does_not_say_is_none() -> None:
    first, second = DeviceReader(played_back(SESSION)).describe()
    assert first == {
        "name": "NVIDIA A10G",
        "memory_bytes": 23609475072,
        "power_limit_watts": 300.0,
        "clock_max_mhz": 1710,
        "memory_clock_max_mhz": 6251,
    }
    assert second["power_limit_watts"] is None


def test_a_row_holds_shares_watts_and_throttle_reasons() -> None:
    reader = DeviceReader(played_back(SESSION))
    reader.describe()
    rows = [reader.read() for _ in range(6)]
    assert [row["gpu/0/utilisation"] for row in rows] == [0.0, 0.37, 0.96, 0.98, 0.22, 0.97]
    assert rows[2]["gpu/0/power_watts"] == pytest.approx(279.6)
    assert rows[2]["gpu/0/throttle"] == 0x4
    assert rows[2]["gpu/0/memory_clock_mhz"] == 6251
    assert rows[5]["gpu/0/memory"] == pytest.approx(9132 * 2**20 / 23609475072)
    assert rows[2]["gpu/1/utilisation"] == 0
    assert "gpu/1/power_watts" not in rows[2]


def test_a_session_played_back_and_recorded_again_is_the_same(tmp_path: Path) -> None:
    answers: list[dict[str, object]] = []
    reader = DeviceReader(recorded(played_back(SESSION), answers))
    reader.describe()
    expected = [reader.read() for _ in range(6)]
    write_session(tmp_path / "again.jsonl", answers)
    again = DeviceReader(played_back(tmp_path / "again.jsonl"))
    again.describe()
    assert [again.read() for _ in range(6)] == expected


def answering(**answers: object) -> Ask:
    """Return a driver of four devices that knows these questions."""

    def ask(name: str, device: int | None) -> object:
        if name == "nvmlDeviceGetCount":
            return 4
        if name == "nvmlDeviceGetUUID":
            return f"GPU-{device}0aa"
        if name not in answers:
            raise NvmlError(13)
        return answers[name]

    return ask


def test_an_older_driver_is_asked_by_the_older_name() -> None:
    row = DeviceReader(answering(nvmlDeviceGetCurrentClocksThrottleReasons=0x8)).read()
    assert row["gpu/3/throttle"] == 0x8


@pytest.mark.parametrize(
    ("visible", "devices"),
    [
        (None, [0, 1, 2, 3]),
        ("2,0", [2, 0]),
        ("GPU-10", [1]),
        ("3,9,0", [3]),
        ("", []),
        ("-1", []),
        ("MIG-1", [0, 1, 2, 3]),
    ],
)
def test_only_the_jobs_devices_are_read(visible: str | None, devices: list[int]) -> None:
    def named(name: str, device: int | None) -> object:
        return device if name == "nvmlDeviceGetTemperature" else answering()(name, device)

    reader = DeviceReader(named, visible)
    assert reader.count == len(devices)
    assert reader.read() == {f"gpu/{place}/temperature_celsius": device for place, device in enumerate(devices)}


def test_no_driver_is_an_error_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "none.jsonl").write_text(json.dumps({"ask": "nvmlDeviceGetCount", "device": None, "error": 9}) + "\n")
    with pytest.raises(NvmlError) as refused:
        DeviceReader(played_back(tmp_path / "none.jsonl"))
    assert refused.value.code == 9


def test_a_file_that_is_no_session_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text("[]\n")
    with pytest.raises(InputError, match="not a recorded NVML session"):
        played_back(tmp_path / "x.jsonl")
