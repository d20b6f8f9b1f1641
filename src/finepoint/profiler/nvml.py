"""NVIDIA devices through NVML: utilisation, memory, power, temperature, clocks, and why clocks are held back.

Everything is asked through one function, `Ask`, so that a session of answers can be recorded on a machine that has
a driver (`finepoint doctor --gpu`) and played back on one that has not.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from finepoint.errors import InputError
from finepoint.files import write_bytes

# Asks NVML a question by the name of its function, about a device or (None) the system; the answer is JSON.
Ask = Callable[[str, int | None], Any]

# Bits of nvmlDeviceGetCurrentClocksEventReasons that mean a slower device than it could be (nvml.h).
THROTTLE_REASONS = {
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x20: "thermal slowdown (driver)",
    0x40: "thermal slowdown (hardware)",
    0x80: "power brake",
}
_NOT_SUPPORTED, _FUNCTION_NOT_FOUND = 3, 13
# Constants of nvml.h that a question has beside its device.
_ARGUMENTS: dict[str, tuple[int, ...]] = {
    "nvmlDeviceGetTemperature": (0,),  # NVML_TEMPERATURE_GPU
    "nvmlDeviceGetClockInfo": (1,),  # NVML_CLOCK_SM
    "nvmlDeviceGetMaxClockInfo": (1,),
    "nvmlDeviceGetClockInfo/memory": (2,),  # NVML_CLOCK_MEM
    "nvmlDeviceGetMaxClockInfo/memory": (2,),
}
_THROTTLE = "nvmlDeviceGetCurrentClocksEventReasons"
# Drivers before 535 know it under this name only; the bits are the same.
_THROTTLE_FORMERLY = "nvmlDeviceGetCurrentClocksThrottleReasons"


class NvmlError(Exception):
    """NVML answered a question with an error code; `code` is the one of nvml.h."""

    def __init__(self, code: int, text: str = "") -> None:
        self.code = code
        super().__init__(text or f"NVML error {code}")


@contextmanager
def nvml_driver() -> Iterator[Ask]:
    """Yield what asks this machine's driver.

    Raises:
        NvmlError: there is no driver, or it cannot be used.
    """
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise NvmlError(int(error.value), str(error)) from error

    def ask(name: str, device: int | None) -> Any:
        try:
            arguments = () if device is None else (pynvml.nvmlDeviceGetHandleByIndex(device),)
            # A question that is asked of several things has the thing behind its name.
            function = getattr(pynvml, name.partition("/")[0], None)
            if function is None:
                raise NvmlError(_FUNCTION_NOT_FOUND, f"this nvidia-ml-py has no {name}")
            return _plain(function(*arguments, *_ARGUMENTS.get(name, ())))
        except pynvml.NVMLError as error:
            raise NvmlError(int(error.value), str(error)) from error

    try:
        yield ask
    finally:
        pynvml.nvmlShutdown()


def recorded(ask: Ask, answers: list[dict[str, Any]]) -> Ask:
    """Return what asks on, and adds each question and answer to a list that `write_session` can write."""

    def note(name: str, device: int | None) -> Any:
        line: dict[str, Any] = {"ask": name, "device": device}
        answers.append(line)
        try:
            line["answer"] = ask(name, device)
        except NvmlError as refusal:
            line |= {"error": refusal.code, "text": str(refusal)}
            raise
        return line["answer"]

    return note


def write_session(path: Path, answers: list[dict[str, Any]]) -> None:
    """Write a recorded session, a JSON object in each line."""
    write_bytes(path, "".join(json.dumps(line) + "\n" for line in answers).encode())


def played_back(path: Path) -> Ask:
    """Return what answers as a recorded session did; each question's last answer is repeated.

    Raises:
        InputError: the file is not a session.
    """
    answers: dict[tuple[str, int | None], list[dict[str, Any]]] = {}
    try:
        for text in path.read_text().splitlines():
            line = json.loads(text)
            answers.setdefault((line["ask"], line["device"]), []).append(line)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is not a recorded NVML session: {error}") from error

    def ask(name: str, device: int | None) -> Any:
        queue = answers.get((name, device))
        if not queue:
            raise NvmlError(_NOT_SUPPORTED, f"the session has no answer to {name}")
        line = queue.pop(0) if len(queue) > 1 else queue[0]
        if "error" in line:
            raise NvmlError(line["error"], line.get("text", ""))
        return line["answer"]

    return ask


class DeviceReader:
    """Reads every NVIDIA device that is asked about.

    Args:
        ask: see `nvml_driver` and `played_back`.
        visible: the job's CUDA_VISIBLE_DEVICES, which narrows the devices to its own; None is all.

    Raises:
        NvmlError: not even the number of devices is to be had.
    """

    def __init__(self, ask: Ask, visible: str | None = None) -> None:
        self._ask = ask
        self._devices = list(range(int(ask("nvmlDeviceGetCount", None))))
        if visible is not None:
            self._devices = self._visible(visible)
        self.count = len(self._devices)

    def describe(self) -> list[dict[str, Any]]:
        """Return name, memory, power limit and highest clock of each device; None for what it does not say."""
        return [
            {
                "name": self._value("nvmlDeviceGetName", device),
                "memory_bytes": self._value("nvmlDeviceGetMemoryInfo", device, "total"),
                "power_limit_watts": _scaled(self._value("nvmlDeviceGetEnforcedPowerLimit", device), 1e-3),
                "clock_max_mhz": self._value("nvmlDeviceGetMaxClockInfo", device),
                "memory_clock_max_mhz": self._value("nvmlDeviceGetMaxClockInfo/memory", device),
            }
            for device in self._devices
        ]

    def read(self) -> dict[str, float]:
        """Return a row with `gpu/N/...` for each device; what a device does not say is left out.

        Utilisation and memory are shares from 0 to 1, `throttle` the bits of the clocks' event reasons.
        """
        row: dict[str, float] = {}
        for number, device in enumerate(self._devices):
            memory = self._value("nvmlDeviceGetMemoryInfo", device) or {}
            values = {
                "utilisation": _scaled(self._value("nvmlDeviceGetUtilizationRates", device, "gpu"), 0.01),
                "memory_bytes": memory.get("used"),
                "memory": memory["used"] / memory["total"] if memory.get("total") else None,
                "power_watts": _scaled(self._value("nvmlDeviceGetPowerUsage", device), 1e-3),
                "temperature_celsius": self._value("nvmlDeviceGetTemperature", device),
                "clock_mhz": self._value("nvmlDeviceGetClockInfo", device),
                "memory_clock_mhz": self._value("nvmlDeviceGetClockInfo/memory", device),
                "throttle": self._throttle(device),
            }
            row |= {f"gpu/{number}/{name}": float(value) for name, value in values.items() if value is not None}
        return row

    def _throttle(self, device: int) -> Any:
        found = self._value(_THROTTLE, device)
        return self._value(_THROTTLE_FORMERLY, device) if found is None else found

    def _visible(self, names: str) -> list[int]:
        """Return the devices that CUDA shows: by number or by the beginning of their UUID, up to the first unknown."""
        uuids = {device: str(self._value("nvmlDeviceGetUUID", device) or "") for device in self._devices}
        found: list[int] = []
        for name in (part.strip() for part in names.split(",")):
            if name.startswith("MIG-"):
                return self._devices  # a part of a device, which NVML numbers otherwise
            by_uuid = [device for device, uuid in uuids.items() if name.startswith("GPU-") and uuid.startswith(name)]
            by_number = [device for device in self._devices if name == str(device)]
            if not by_uuid and not by_number:
                break
            found += (by_uuid or by_number)[:1]
        return found

    def _value(self, name: str, device: int, part: str | None = None) -> Any:
        try:
            answer = self._ask(name, device)
        except NvmlError:
            return None  # passively cooled, virtual or old devices do not answer every question
        return answer if part is None else answer.get(part)


def throttle_names(bits: int) -> list[str]:
    """Return why a device's clocks are held back.

    >>> throttle_names(0x44), throttle_names(0x1)
    (['power cap', 'thermal slowdown (hardware)'], [])
    """
    return [text for bit, text in THROTTLE_REASONS.items() if bits & bit]


def _scaled(value: Any, factor: float) -> float | None:
    return None if value is None else float(value) * factor


def _plain(answer: Any) -> Any:
    """Return an answer of the C library as JSON."""
    if hasattr(answer, "_fields_"):
        return {name: _plain(getattr(answer, name)) for name, *_ in answer._fields_}
    return answer.decode(errors="replace") if isinstance(answer, bytes) else answer
