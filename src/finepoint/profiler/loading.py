"""What data loading is made of: fetching batches, and in it decoding images, in the job's process and its workers."""

from __future__ import annotations

import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from multiprocessing import util
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from finepoint.patching import Remove, replace_all
from finepoint.profiler.segments import TableWriter

LOADING = "loading"
# Workers are often killed rather than asked to go, so that they write what they saw soon.
_WRITE_SECONDS = 2.0


class LoadingRecorder:
    """Times what a loader's dataset does for each batch, in whatever process it does it.

    Args:
        folder: a job's `profiler-output`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / LOADING
        self._pid = 0
        self._images_watched = False
        self._passing, self._passed = False, 0
        self._remove: Remove = lambda: None
        self._thread = threading.local()
        self._reset()

    def install(self) -> None:
        """Watch the fetching of batches from now on, until `remove`. Workers forked later inherit this."""
        from torch.utils.data._utils import fetch

        kinds = (fetch._MapDatasetFetcher, fetch._IterableDatasetFetcher)
        self._remove = replace_all([(kind, "fetch", self._around_fetch) for kind in kinds], by=self)

    def remove(self) -> None:
        """Watch no more."""
        self._remove()

    def pass_over(self) -> None:
        """Watch nothing until `watch`."""
        self._passing = True
        self._remove()

    def watch(self, passed: int) -> None:
        """Go on after `pass_over`, during which so many batches came; they count as those that were watched do."""
        self._passing = False
        self._passed += passed
        self.install()

    def watch_images(self) -> None:
        """Watch Pillow's decoding too, once the script has imported it."""
        if "PIL.Image" not in sys.modules or self._images_watched:
            return
        from PIL import Image
        from PIL.ImageFile import ImageFile  # Pillow itself imports it with the first image

        self._images_watched = True
        replace_all(
            [
                (ImageFile, "load", self._around_load),
                (Image.Image, "convert", self._around_convert),
                (Image, "open", self._decoding),
            ]
        )

    def flush(self) -> None:
        """Put what this process saw on disk."""
        if self._pid == os.getpid() and self._row["fetches"]:
            stands_for = 1 + self._passed / self._row["fetches"]
            row = {name: value * stands_for for name, value in self._row.items()}
            self._writer.append({"time": time.time(), "pid": float(self._pid), **row})
            self._writer.seal()
        self._reset()

    def _around_fetch(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def fetch(fetcher: Any, index: Any) -> Any:
            self._own_process()
            began, cpu = time.perf_counter(), time.thread_time()
            try:
                return original(fetcher, index)
            finally:
                now = time.perf_counter()
                self._row["fetches"] += 1
                self._row["threads"] += torch.get_num_threads()
                self._row["items"] += len(index) if hasattr(index, "__len__") else 1
                self._row["seconds"] += now - began
                self._row["cpu"] += time.thread_time() - cpu
                if now - self._began >= _WRITE_SECONDS:
                    self.flush()

        return fetch

    def _around_load(self, original: Callable[..., Any]) -> Callable[..., Any]:
        decode = self._decoding(original)

        def load(image: Any, *args: Any, **kwargs: Any) -> Any:
            if self._passing or not _undecoded(image):
                return original(image, *args, **kwargs)
            try:
                return decode(image, *args, **kwargs)
            finally:
                row = self._row
                row["images"] += 1
                row["pixels"] += image.size[0] * image.size[1]
                name = f"format/{image.format}"
                row[name] = row.get(name, 0.0) + 1

        return load

    def _around_convert(self, original: Callable[..., Any]) -> Callable[..., Any]:
        decode = self._decoding(original)

        def convert(image: Any, *args: Any, **kwargs: Any) -> Any:
            return (decode if _undecoded(image) else original)(image, *args, **kwargs)

        return convert

    def _decoding(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function whose time counts as decoding, once where such functions call each other."""
        thread = self._thread

        def decode(*args: Any, **kwargs: Any) -> Any:
            if self._passing or getattr(thread, "decodes", False):
                return original(*args, **kwargs)
            thread.decodes = True
            began, cpu = time.perf_counter(), time.thread_time()
            try:
                return original(*args, **kwargs)
            finally:
                thread.decodes = False
                self._row["decode_seconds"] += time.perf_counter() - began
                self._row["decode_cpu"] += time.thread_time() - cpu

        return decode

    def _own_process(self) -> None:
        """Begin anew in a process that was forked since."""
        if self._pid == os.getpid():
            return
        self._pid = os.getpid()
        self._writer = TableWriter(self._folder, str(self._pid))
        self._reset()
        # Written at the first fetch already: a short job's worker may see only one batch.
        self._began -= _WRITE_SECONDS
        util.Finalize(None, self.flush, exitpriority=10)

    def _reset(self) -> None:
        self._began, self._passed = time.perf_counter(), 0
        self._row: dict[str, float] = dict.fromkeys(
            ("fetches", "threads", "items", "seconds", "cpu", "images", "decode_seconds", "decode_cpu", "pixels"), 0.0
        )


def _undecoded(image: Any) -> bool:
    return bool(getattr(image, "tile", None))


class Loaders:
    """The DataLoaders that batches came from. Those that are alike are one, as one is that is made anew in each epoch.

    `facts` has a JSON object for each, in order of their numbers; `news` is whether it has changed since it was noted.
    """

    def __init__(self) -> None:
        self._alike: dict[tuple[Any, ...], dict[str, Any]] = {}
        # By number, which another has when the one that had it is gone.
        self._seen: dict[int, tuple[weakref.ref[Any], dict[str, Any]]] = {}
        self.news = False

    @property
    def facts(self) -> list[dict[str, Any]]:
        """What is known of each."""
        return list(self._alike.values())

    def number(self, loader: Any) -> int:
        """Return the number of a DataLoader."""
        return int(self._facts_of(loader)["number"])

    def got_batch(self, loader: Any, tensor: Tensor | None) -> None:
        """Note the shape and type of the first batch of a DataLoader, of which this is the first tensor."""
        facts = self._facts_of(loader)
        if facts["shape"] is None and tensor is not None:
            facts |= {"shape": list(tensor.shape), "dtype": str(tensor.dtype).removeprefix("torch.")}
            self.news = True

    def _facts_of(self, loader: Any) -> dict[str, Any]:
        reference, facts = self._seen.get(id(loader), (None, {}))
        if reference is None or reference() is not loader:
            made = _made(loader)
            facts = self._alike.setdefault(
                tuple(made.values()), {"number": len(self._alike), **made, "shape": None, "dtype": None}
            )
            self._seen[id(loader)] = weakref.ref(loader), facts
            self.news = True
        return facts


def _made(loader: Any) -> dict[str, Any]:
    """Return how a DataLoader was made."""
    try:
        batches: int | None = len(loader)
    except (TypeError, NotImplementedError, AttributeError):  # as a dataset or sampler without a length says it
        batches = None
    return {
        "workers": loader.num_workers,
        "batch_size": loader.batch_size,
        "batches": batches,
        "pin_memory": bool(loader.pin_memory),
        "persistent_workers": bool(loader.persistent_workers),
        "dataset": type(loader.dataset).__name__,
    }


def first_tensor(batch: Any) -> Tensor | None:
    """Return the first tensor in a batch of tensors, tuples, lists and mappings; None where there is none."""
    if isinstance(batch, Tensor):
        return batch
    parts = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, list | tuple) else ()
    return next((found for part in parts if (found := first_tensor(part)) is not None), None)
