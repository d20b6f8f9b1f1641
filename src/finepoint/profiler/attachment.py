"""The profiler inside a job's process: `finepoint.attaching` calls `attach` once torch has been imported.

It subscribes to the job's moments (see `finepoint.instrumentation`), gives the time between them to phases, and writes
rows into `profiler-output/steps`.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from finepoint import batches, loops, transfers
from finepoint import instrumentation as moments
from finepoint.patching import replace_all
from finepoint.profiler.context import FOLDER_VARIABLE, STEPS, process_start
from finepoint.profiler.device_clock import DeviceClock, cuda_clock
from finepoint.profiler.loading import Loaders, LoadingRecorder, first_tensor
from finepoint.profiler.network import NetworkProbe
from finepoint.profiler.passing import Stretch
from finepoint.profiler.phases import PhaseClock, seconds_per_moment
from finepoint.profiler.segments import TableWriter
from finepoint.profiler.startup import startup_phases
from finepoint.profiler.window import Window

WINDOW_VARIABLE = "FINEPOINT_PROFILE_STEPS"
# The function that a launcher names to `finepoint.attaching.environment_for`.
ATTACHMENT = "finepoint.profiler.attachment:attach"
# After so many steps the network is looked at; the first ones are unlike the rest.
_PROBE_AT, _PROBE_STEPS = 3, 3
# A loop that takes more steps than this with one batch needs no loader; with fewer, as with two optimizers, it does.
_STEPS_PER_BATCH = 10
# What subscribers' wrappers cost beside the callback itself, measured as 1 to 2 microseconds a moment.
_WRAPPER_SECONDS = 1.5e-6


def attach() -> None:
    """Profile this process, as its environment says; in a loader's worker only what it loads."""
    from torch.utils.data._utils import worker

    folder = Path(os.environ[FOLDER_VARIABLE])
    loading = LoadingRecorder(folder)
    loading.install()
    steps = int(os.environ.get(WINDOW_VARIABLE, "0"))
    cuda = torch.cuda.is_available()
    window = Window(folder, steps) if steps else None
    recorder = StepRecorder(folder, loading, window, device=cuda_clock() if cuda else None)
    recorder.subscribe(cuda=cuda)
    recorder.watch_startup()
    recorder.seal_in_time()
    atexit.register(recorder.close)
    if not was_spawned():
        return

    def around(work: Callable[..., None]) -> Callable[..., None]:
        def loop(*args: Any, **kwargs: Any) -> None:  # what this process was spawned for: it is a loader's worker
            atexit.unregister(recorder.close)
            recorder.discard()
            loading.watch_images()
            work(*args, **kwargs)

        return loop

    replace_all([(worker, "_worker_loop", around)])


class StepRecorder:
    """Turns moments into rows.

    Args:
        folder: a job's `profiler-output`.
        loading: is told when images may be watched.
        window: of torch.profiler, where one is wanted.
        device: times phases on the GPU, where there is one.
    """

    def __init__(
        self,
        folder: Path,
        loading: LoadingRecorder,
        window: Window | None = None,
        *,
        device: DeviceClock | None = None,
    ) -> None:
        rank = os.environ.get("RANK", "0")
        self._writer = TableWriter(folder / STEPS, f"rank{rank}-{os.getpid()}")
        self._pid, self._thread = os.getpid(), threading.get_ident()
        self._labels = {"pid": float(self._pid), "rank": float(rank) if rank.isdigit() else 0.0}
        # Up to now Python and torch were imported.
        self.clock = PhaseClock(
            lambda row: self._writer.append(row | self._labels),
            process_start(),
            hook_clock=lambda: loops.hook_time.seconds,
            first="import",
        )
        self.clock.leave("import")
        self._loading, self._window, self._device = loading, window, device
        self._loaders = Loaders()
        self._facts: dict[str, Any] = {
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "cuda": torch.cuda.is_available(),
            "argv": sys.argv,
        }
        self._subscriptions: list[moments.Subscription] = []
        self._passed: Stretch | None = None
        self._paused: list[moments.Subscription] = []
        self._probe: NetworkProbe | None = None
        self._probed = self._several = False
        self._fresh = False
        self._awaited: Any = None
        self._steps, self._since_batch = 0, _STEPS_PER_BATCH
        self._claimed = self._losses_watched = self._in_loss = False
        self._forward_began = self._sync_began = 0.0
        self._stop_watching_startup: Callable[[], None] | None = None

    def subscribe(self, *, cuda: bool) -> None:
        """Watch this process; where it has a CUDA device, copies to it and waits for it too."""
        pairs: list[tuple[moments.Event[Any], Callable[..., None]]] = [
            (batches.LOADER_BEGIN, self._loader_begins),
            (batches.LOADER_READY, self._loader_ready),
            (batches.LOADER_END, self._loader_ends),
            (transfers.SAVE, self._saves),
        ]
        if cuda:
            pairs += [(transfers.COPY, self._copies), (transfers.SYNC, self._syncs)]
        self._subscriptions = [event.subscribe(callback) for event, callback in pairs]
        self._asking = batches.WAIT.subscribe(self._waits)
        self._got = batches.BATCH.subscribe(self._batch)
        self._stepping = moments.STEP_END.subscribe(self._step_ends)
        self._inner = [
            loops.OUTERMOST.subscribe(self._outer),
            moments.BACKWARD_BEGIN.subscribe(self._backward_begins),
            moments.BACKWARD_END.subscribe(self._backward_ends),
            moments.STEP_BEGIN.subscribe(self._step_begins),
        ]

    def watch_startup(self) -> None:
        """Give the time before the first step to imports, loading of weights and listing of data."""
        self._stop_watching_startup = startup_phases(self.clock)

    @property
    def passing(self) -> bool:
        """Whether the row to come is passed over; in a loop with a loader until the batch with which that is over."""
        return self._passed is not None and (not self._passed.loader or batches.batch_times.loader is not None)

    def seal_in_time(self) -> None:
        """Put rows on disk every few seconds though none is added: a job that hangs adds none."""
        self._writer.seal_in_time()

    def discard(self) -> None:
        """Stop watching before any step was seen, and leave nothing behind."""
        self._end_watching()
        self._writer.close()

    def close(self) -> None:
        """Stop watching and put everything on disk; in a forked child nothing."""
        if os.getpid() == self._pid:
            self._thread = threading.get_ident()  # the loop's may have ended
        self._watch(time.perf_counter())
        self._end_watching()
        if os.getpid() != self._pid:
            return
        if self._window is not None:
            self._facts["window"] = self._window.close(self.clock, self._steps)
        self._count_device()
        self.clock.close()
        self._note()
        self._writer.close()
        self._loading.flush()

    def _end_watching(self) -> None:
        self._end_startup()
        for subscription in (*self._subscriptions, self._asking, self._got, self._stepping, *self._inner):
            subscription.close()
        if self._probe is not None:
            self._probe.close()

    def _note(self) -> None:
        self._facts["threads"] = torch.get_num_threads()
        if self._probe is not None:
            self._facts["networks"] = self._probe.networks()
        self._facts["loaders"], self._loaders.news = self._loaders.facts, False
        self._facts["moments"] = self.clock.transitions
        self._facts["seconds_per_moment"] = seconds_per_moment() + _WRAPPER_SECONDS
        # A copy: the thread that seals reads it later.
        self._writer.note(f"facts/{self._pid}", dict(self._facts))

    def _elsewhere(self) -> bool:
        # Forked children and other threads (of DataParallel, of a pin-memory loader) are not the loop.
        return threading.get_ident() != self._thread or os.getpid() != self._pid

    def _claim_loop(self, *, trains: bool) -> None:
        """Take this thread's loop for the job's: the main one's, or, while that has none, one that trains beside it."""
        if self._claimed or os.getpid() != self._pid:
            return
        here = threading.get_ident()
        self._claimed = here == threading.main_thread().ident
        if self._claimed or trains:
            self._thread = here

    def _enter(self, phase: str) -> None:
        # While a batch is waited for, the dataset may call modules (torchvision's transforms are some) and copy.
        if not self._elsewhere() and self.clock.phase != "data_wait":
            self.clock.enter(phase)
            if self._device is not None:
                self._device.enter(phase)

    def _leave(self, phase: str) -> None:
        if not self._elsewhere():
            self.clock.leave(phase)
            if self._device is not None:
                self._device.leave(phase)

    def _loader_begins(self, loader: Any) -> None:
        self._claim_loop(trains=False)
        if self._elsewhere() or self.clock.phase == "data_wait":
            return
        self._watch(time.perf_counter())
        self._loop_begins()
        self._loading.watch_images()
        self._end_row()
        self.clock.enter("data_wait")

    def _loader_ready(self, loader: Any) -> None:
        self._leave("data_wait")
        self._fresh = True

    def _waits(self, loader: Any) -> None:
        if self._elsewhere() or self.clock.phase == "data_wait":
            return
        before, self._awaited = self._awaited, loader
        fresh, self._fresh = self._fresh, False
        self._since_batch = 0
        together = loader is not before and self.clock.only_waited  # as with zip
        if self._passed is not None:
            self._begins(time.perf_counter(), 0.0)
        elif not fresh and not together:  # else the row has begun already
            self._end_row()
            if self._may_pass():
                self._pass_over(self._asking, self._got, self._stepping)
                return
        self.clock.loader = self._loaders.number(loader)
        self.clock.wait()

    def _batch(self, loader: Any, batch: Any, waited: float) -> None:
        if self._elsewhere() or loader is not self._awaited:
            return
        tensor = first_tensor(batch)
        self.clock.got_batch(len(tensor) if tensor is not None and tensor.ndim else 0)
        self._loaders.got_batch(loader, tensor)

    def _loader_ends(self, loader: Any, exhausted: bool, waited: float) -> None:
        # One that is given up is let go of at any moment; nothing is being waited for then.
        if exhausted and loader is self._awaited and not self._elsewhere():
            self._begins(time.perf_counter(), waited)
            self.clock.end_wait()
            self._since_batch = _STEPS_PER_BATCH

    def _outer(self, module: nn.Module, begins: bool) -> None:
        if self._elsewhere() or self.clock.phase == "data_wait":
            return
        if begins:
            self._forward_began = time.perf_counter()
            self._enter("forward")
            return
        self._leave("forward")
        self.clock.count("forwards")
        if not torch.is_grad_enabled():
            self.clock.count("frozen_forward", time.perf_counter() - self._forward_began)

    def _loss_begins(self, name: str) -> None:
        if not self._elsewhere() and self.clock.phase not in ("forward", "data_wait"):
            self._in_loss = True
            self._enter("forward")

    def _loss_ends(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if self._in_loss and not self._elsewhere():
            self._in_loss = False
            self._leave("forward")

    def _backward_begins(self, tensors: Any) -> None:
        self._claim_loop(trains=True)
        if self._elsewhere():
            return
        if not self.clock.in_loop:
            self._loop_begins()
            self.clock.boundary()
        self._enter("backward")

    def _backward_ends(self, tensors: Any) -> None:
        if not self._elsewhere():
            self._leave("backward")
            self.clock.count("backwards")

    def _step_begins(self, optimizer: torch.optim.Optimizer) -> None:
        self._enter("optimizer")

    def _step_ends(self, optimizer: torch.optim.Optimizer) -> None:
        if self._elsewhere():
            return
        self._steps += 1
        if self._passed is not None:  # in a loop without a loader
            now = time.perf_counter()
            self._passed.begins.extend((now, 0.0))
            if now >= self._passed.until:
                self._watch(now)
            return
        self._leave("optimizer")
        self.clock.count("steps")
        self._since_batch += 1
        if self._since_batch > _STEPS_PER_BATCH:  # a loop without a loader: its steps are its rows
            self.clock.boundary()
            self._after_row()
            if self._may_pass():
                self._pass_over()

    def _saves(self, begins: bool) -> None:
        if begins:
            self._watch(time.perf_counter())
            self._enter("checkpoint")
        elif not self._elsewhere() and self.clock.phase == "checkpoint":
            self._leave("checkpoint")
            self.clock.count("saves")

    def _copies(self, tensor: Tensor, begins: bool) -> None:
        if tensor.is_cuda:
            return
        if begins:
            self._enter("copy")
        else:
            self._leave("copy")

    def _syncs(self, tensor: Tensor, begins: bool) -> None:
        if not tensor.is_cuda or self._elsewhere() or self.clock.phase == "data_wait":
            return
        if begins:
            self._sync_began = time.perf_counter()
            return
        self.clock.count("syncs")
        self.clock.count(f"sync/{self.clock.phase}", time.perf_counter() - self._sync_began)

    def _may_pass(self) -> bool:
        # What a GPU did for a step is known later, when others may be passed over: there every step is watched.
        steady = self._probed and (self._window is None or self._window.done) and not self._several
        return steady and self._device is None and self.clock.may_pass()

    def _pass_over(self, *also: moments.Subscription) -> None:
        """Pass over the next rows.

        Args:
            also: what need not be told in a loop with a loader; without one, the ends of steps are its rows.
        """
        self._passed = self.clock.pass_over(loader=bool(also))
        self._loading.pass_over()
        self._paused = [*self._inner, *also]
        for subscription in self._paused:
            subscription.pause()
        if also:
            batches.batch_times.begin(
                self._awaited,
                self._passed.begins,
                self._passed.until,
                over=self._asking.resume,  # the next row is watched from its beginning
                another=self._another_batch,
            )

    def _another_batch(self) -> None:
        # Of two loaders at once, as with zip: whose batch begins a row?
        if not self._elsewhere():
            self._several = True
            self._watch(time.perf_counter(), computed=False)

    def _begins(self, now: float, waited: float) -> None:
        """Watch again from the beginning of a row that has waited so long."""
        if self._passed is not None:
            came = self._passed.begun
            self._passed.begins.extend((now - waited, waited))
            self._watch(now, came)

    def _watch(self, now: float, came: int | None = None, *, computed: bool = True) -> None:
        """Watch again what was passed over.

        Args:
            now: seconds of the clock.
            came: how many batches, meanwhile; by default one for each row.
            computed: whether the last row has, with the batch that it waited for.
        """
        if self._passed is None or self._elsewhere():
            return
        batches.batch_times.end()
        self.clock.watch(now, computed=computed)
        self._loading.watch(self._passed.begun if came is None else came)
        self._passed = None
        for subscription in self._paused:
            subscription.resume()
        self.clock.leave("hook")

    def _end_startup(self) -> None:
        if self._stop_watching_startup is not None:
            self._stop_watching_startup()
            self._stop_watching_startup = None

    def _loop_begins(self) -> None:
        self._end_startup()
        if not self._losses_watched:  # the script has imported by name what it imports so
            self._losses_watched = True
            self._inner += [
                moments.LOSS_BEGIN.subscribe(self._loss_begins),
                moments.LOSS.subscribe(self._loss_ends),
            ]

    def _count_device(self) -> None:
        """Add what the GPU has come through since; it runs behind, so that this may be the work of rows before."""
        if self._device is not None:
            for phase, seconds in self._device.take().items():
                self.clock.count(f"gpu/{phase}", seconds)

    def _end_row(self) -> None:
        """End a row before a batch is asked for: nothing goes on then, though what raised may not have been left."""
        self.clock.leave_all()
        self._in_loss = False
        if self._device is not None:
            self._device.leave_all()
        self.clock.boundary()
        self._after_row()

    def _after_row(self) -> None:
        """Between two rows: begin or end what lasts for some steps."""
        self._count_device()
        if self._probe is None and self._steps >= _PROBE_AT:
            self._probe = NetworkProbe(_PROBE_STEPS)
        elif self._probe is not None and self._probe.step():
            self._probed = True
            self._note()
        elif self._loaders.news:  # a job that is killed must have noted where its batches came from
            self.clock.enter("hook")
            self._note()
            self.clock.leave("hook")
        if self._window is not None:
            self._window.step(self.clock, self._steps)


def was_spawned() -> bool:
    """Whether this process was made by multiprocessing's spawn or forkserver: a loader's worker, or one that trains."""
    return any("--multiprocessing-fork" in word or "multiprocessing.forkserver" in word for word in sys.orig_argv)
