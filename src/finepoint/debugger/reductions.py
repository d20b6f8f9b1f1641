"""Reductions of tensors: computed where the tensors are, brought over in one transfer, without waiting for a device."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor

from finepoint.debugger.writing import SeriesKey

_NAMED: dict[str, Callable[[Tensor], Tensor]] = {
    "min": lambda tensor: torch.aminmax(tensor)[0],
    "max": lambda tensor: torch.aminmax(tensor)[1],
    "mean": torch.mean,
    "std": lambda tensor: torch.std(tensor, correction=min(1, tensor.numel() - 1)),
    "variance": lambda tensor: torch.var(tensor, correction=min(1, tensor.numel() - 1)),
    "sum": torch.sum,
    "prod": torch.prod,
    "l1": lambda tensor: torch.linalg.vector_norm(tensor, 1),
    "l2": lambda tensor: torch.linalg.vector_norm(tensor, 2),
}
# Of these one pass over many tensors does what a call for each would.
_NORMS = {"l2": 2.0, "l1": 1.0, "abs_l1": 1.0, "abs_l2": 2.0}


# Tensors without values of their own here: of a tracer, or spread over processes.
_UNREADABLE = ("FakeTensor", "FunctionalTensor", "DTensor")


def measurable(value: object) -> Tensor | None:
    """Return a tensor as it can be reduced (detached, at least float32), or None where it cannot."""
    if not isinstance(value, Tensor) or value.layout is not torch.strided or value.is_quantized or value.is_meta:
        return None
    if type(value).__name__ in _UNREADABLE:
        return None
    tensor = value.detach().as_subclass(Tensor)
    if tensor.numel() == 0 or tensor.is_complex():
        return None
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()


# Outputs with more numbers are measured on a sample of about so many: torch works on fewer than 32,768 without waking
# its threads.
_ENOUGH = 32_000
# What is left of an image's sides, or of a sequence, at least.
_SIDE = 4


def sampled(tensor: Tensor, enough: int = _ENOUGH) -> Tensor:
    """Return a sample of a large batch: every so many rows, columns or tokens, then samples, two of them at least.

    Units (channels of images, features of all else) are all there: which are dead is counted on them.

    Args:
        tensor: [n, units], [n, tokens, units] or [n, units, h, w].
        enough: numbers that are enough; up to twice as many are left, more where there are many units.

    >>> sampled(torch.zeros(8, 64, 56, 56)).shape, sampled(torch.zeros(64, 197, 768)).shape
    (torch.Size([8, 64, 7, 8]), torch.Size([10, 5, 768]))
    >>> sampled(torch.zeros(64, 100)).shape
    torch.Size([64, 100])
    """
    if tensor.dim() < 2 or tensor.numel() <= enough:
        return tensor
    between = slice(2, 4) if tensor.dim() == 4 else slice(1, tensor.dim() - 1)
    excess = tensor.numel() / enough
    index = [slice(None)] * tensor.dim()
    for left, axis in zip(range(between.stop - between.start, 0, -1), range(between.start, between.stop), strict=True):
        stride = max(1, min(math.ceil(excess ** (1 / left)), tensor.shape[axis] // _SIDE))
        index[axis] = slice(None, None, stride)
        excess /= stride
    index[0] = slice(None, None, max(1, min(math.ceil(excess), tensor.shape[0] // 2)))
    return tensor[tuple(index)].contiguous()


def scattered(tensor: Tensor, enough: int = _ENOUGH) -> Tensor:
    """Return a sample of a large parameter or gradient: every so many numbers, in the order in which memory has them.

    The distance has no factor in common with the count, so that no place within kernels or rows is preferred.

    Args:
        tensor: of any shape.
        enough: numbers that are enough: of 32,000 a standard deviation is right to within half a percent.

    >>> scattered(torch.zeros(512, 512, 3, 3)).shape, scattered(torch.zeros(1000)).shape
    (torch.Size([30641]), torch.Size([1000]))
    """
    count = tensor.numel()
    if count <= enough:
        return tensor
    distance = math.ceil(count / enough)
    while math.gcd(distance, count) > 1:
        distance += 1
    dense = tensor.is_contiguous() or (tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last))
    flat = tensor.as_strided((count,), (1,)) if dense else tensor.reshape(-1)
    return flat[::distance].contiguous()


def reduce(tensor: Tensor, names: Iterable[str]) -> list[tuple[str, Tensor]]:
    """Return reductions of a tensor as tensors of no dimensions on its device.

    >>> [(name, value.item()) for name, value in reduce(torch.tensor([-3.0, 1.0]), ["abs_max", "mean"])]
    [('abs_max', 3.0), ('mean', -1.0)]
    """
    found, known = [], _Passes(tensor)
    for name in names:
        bare = name.removeprefix("abs_")
        if name in ("min", "max", "abs_max"):
            low, high = known.extremes
            value = torch.maximum(low.abs(), high.abs()) if name == "abs_max" else low if name == "min" else high
        elif name == "mean":
            value = known.mean
        elif name == "std":
            value = known.std
        elif name == "abs_mean":
            value = known.absolute.mean()
        elif name.startswith("abs_") and bare not in ("l1", "l2"):
            value = _NAMED[bare](known.absolute)
        else:
            value = _NAMED[bare](tensor)
        found.append((name, value))
    return found


class _Passes:
    """What several reductions of a tensor share, each computed when it is first asked for."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor

    @functools.cached_property
    def extremes(self) -> tuple[Tensor, Tensor]:
        low, high = torch.aminmax(self._tensor)
        return low, high

    @functools.cached_property
    def absolute(self) -> Tensor:
        return self._tensor.abs()

    @functools.cached_property
    def mean(self) -> Tensor:
        return torch.mean(self._tensor)

    @functools.cached_property
    def std(self) -> Tensor:
        """The standard deviation: on a CPU torch's own takes four times as long as what it is defined by."""
        if self._tensor.device.type != "cpu":
            return _NAMED["std"](self._tensor)
        away: Tensor = torch.linalg.vector_norm(self._tensor - self.mean)
        return away / math.sqrt(max(self._tensor.numel() - 1, 1))


def reduce_all(
    tensors: Sequence[Tensor], names: Sequence[str], *, sample: bool = False
) -> list[list[tuple[str, Tensor]]]:
    """Return the reductions of several tensors; norms of all are computed in one call for each device and type.

    Args:
        tensors: to reduce.
        names: of the reductions.
        sample: whether all but the norms are of `scattered` samples.
    """
    rows: list[dict[str, Tensor]] = [{} for _ in tensors]
    groups: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for place, tensor in enumerate(tensors):
        groups.setdefault((tensor.device, tensor.dtype), []).append(place)
    for places in groups.values():
        members = [tensors[place] for place in places]
        for name in names:
            if name in _NORMS:
                for place, norm in zip(places, torch._foreach_norm(members, _NORMS[name]), strict=True):
                    rows[place][name] = norm
    rest = [name for name in names if name not in _NORMS]
    for tensor, row in zip(tensors, rows, strict=True):
        row.update(reduce(scattered(tensor) if sample else tensor, rest))
    return [[(name, row[name]) for name in names] for row in rows]


class Pending:
    """Values of one step, some of them still on their devices."""

    def __init__(self) -> None:
        self._values: dict[SeriesKey, Tensor | float] = {}

    def __bool__(self) -> bool:
        return bool(self._values)

    def __contains__(self, key: SeriesKey) -> bool:
        return key in self._values

    def add(self, key: SeriesKey, value: Tensor | float) -> None:
        """Add a number, or a tensor of no dimensions."""
        self._values[key] = value

    def depart(self) -> Arriving:
        """Send the values on their way to this side, and be empty again."""
        groups: dict[tuple[torch.device, torch.dtype], list[SeriesKey]] = {}
        for key, value in self._values.items():
            if isinstance(value, Tensor):
                groups.setdefault((value.device, value.dtype), []).append(key)
        parts = []
        for (device, _), keys in groups.items():
            wide = torch.float32 if device.type == "mps" else torch.float64
            stacked = torch.stack([cast(Tensor, self._values[key]) for key in keys]).to(wide)
            event = None
            if device.type == "cuda":
                there = torch.empty(len(keys), dtype=wide, pin_memory=True)
                there.copy_(stacked, non_blocking=True)
                event = torch.cuda.Event()  # type: ignore[no-untyped-call]
                event.record(torch.cuda.current_stream(device))
                stacked = there
            parts.append((keys, stacked, event))
        arriving = Arriving(self._values, parts)
        self._values = {}
        return arriving


class Arriving:
    """Values of one step on their way from their devices."""

    def __init__(
        self,
        values: dict[SeriesKey, Tensor | float],
        parts: list[tuple[list[SeriesKey], Tensor, torch.cuda.Event | None]],
    ) -> None:
        self._values, self._parts = values, parts
        # The keys of what was computed in no more than float32.
        self.narrow = {
            key
            for key, value in values.items()
            if isinstance(value, Tensor) and value.dtype in (torch.float32, torch.float16, torch.bfloat16)
        }

    @property
    def here(self) -> bool:
        """Whether they can be read without waiting."""
        return all(event is None or event.query() for *_, event in self._parts)  # type: ignore[no-untyped-call]

    def read(self) -> dict[SeriesKey, float]:
        """Return the values in the order in which they were added; waits for them if need be."""
        for keys, values, event in self._parts:
            if event is not None:
                event.synchronize()
            self._values.update(zip(keys, values.tolist(), strict=True))
        return cast(dict[SeriesKey, float], self._values)


def as_array(tensor: Tensor) -> np.ndarray:
    """Return a whole tensor as an array of its own; bfloat16, which NumPy lacks, as float32."""
    tensor = tensor.detach()
    if tensor.dtype is torch.bfloat16:
        tensor = tensor.float()
    return np.array(tensor.cpu().numpy(), copy=True)
