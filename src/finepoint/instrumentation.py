"""Instrumentation: the moments of a PyTorch program that others may watch, each patched once for all who watch.

Each moment is an `Event`. Subscribing to the first callback installs its patch (a global hook of torch's where there
is one, else a replaced function), closing the last subscription takes it away: an event that nobody watches costs
nothing. Callbacks only look; what they return is ignored, and one that raises is dropped and named in `failures`, for
the program watched must go on as if nobody watched. Importing this module imports torch.

=====================  ====================================================================================
event                  callback is called with
=====================  ====================================================================================
FORWARD_BEGIN          module, args
FORWARD_END            module, args, kwargs, output
OUTER                  module, True before and False after: the outermost module called, also where it raises
LOSS                   function name, args, kwargs, output: a loss of `torch.nn.functional` was computed
BACKWARD_BEGIN / END   the tensors that `backward` starts from
STEP_BEGIN / END       optimizer: around `Optimizer.step`
ZERO_GRAD              optimizer or module whose gradients were just cleared
SCHEDULE               scheduler, after its step
LOADER_BEGIN           loader: an iteration over a DataLoader begins
LOADER_READY           loader: its iterator is made (and its workers are started)
WAIT                   loader: it is asked for a batch
BATCH                  loader, batch, seconds waited for it
LOADER_END             loader, whether it was exhausted
COMPILE                what is given to `torch.compile`; a module that compiles itself gives its bound `_call_impl`
=====================  ====================================================================================

>>> import torch
>>> seen = []
>>> watching = FORWARD_END.subscribe(lambda module, args, kwargs, output: seen.append(type(module).__name__))
>>> _ = torch.nn.Linear(2, 2)(torch.zeros(1, 2))
>>> watching.close(); seen
['Linear']
"""

from __future__ import annotations

import functools
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any, Generic, ParamSpec

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules import module as module_hooks
from torch.optim import optimizer as optimizer_hooks
from torch.utils.data import DataLoader

P = ParamSpec("P")
Remove = Callable[[], None]

LOSS_FUNCTIONS = (
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "cosine_embedding_loss",
    "cross_entropy",
    "ctc_loss",
    "gaussian_nll_loss",
    "hinge_embedding_loss",
    "huber_loss",
    "kl_div",
    "l1_loss",
    "margin_ranking_loss",
    "mse_loss",
    "multi_margin_loss",
    "multilabel_margin_loss",
    "multilabel_soft_margin_loss",
    "nll_loss",
    "poisson_nll_loss",
    "smooth_l1_loss",
    "soft_margin_loss",
    "triplet_margin_loss",
)


class HookTime:
    """How long observers that record tensors have worked in this process; they add to it, the profiler reads it."""

    seconds = 0.0


hook_time = HookTime()
# Tracebacks of callbacks that raised and were dropped.
failures: list[str] = []


class Subscription:
    """A callback's place at an event; `close` gives it up."""

    def __init__(self, close: Remove) -> None:
        self._close: Remove | None = close

    def close(self) -> None:
        """End it; closing twice does nothing."""
        if self._close is not None:
            self._close()
            self._close = None


class Event(Generic[P]):
    """A moment that may be watched.

    Args:
        install: puts the patch in place, which is to call the event's `emit`; returns what takes it away.
    """

    def __init__(self, install: Callable[[Event[P]], Remove]) -> None:
        self._install = install
        self._remove: Remove | None = None
        self._callbacks: tuple[Callable[P, object], ...] = ()

    def subscribe(self, callback: Callable[P, object]) -> Subscription:
        """Have `callback` called at every such moment from now on."""
        self._callbacks = (*self._callbacks, callback)
        if self._remove is None:
            self._remove = self._install(self)
        return Subscription(lambda: self._drop(callback))

    def emit(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Call every callback."""
        for callback in self._callbacks:
            try:
                callback(*args, **kwargs)
            except Exception:  # noqa: BLE001 - the program that is watched must go on
                self._drop(callback)
                _tell_failure()

    def _drop(self, callback: Callable[P, object]) -> None:
        self._callbacks = tuple(kept for kept in self._callbacks if kept is not callback)
        if not self._callbacks and self._remove is not None:
            self._remove()
            self._remove = None


def watch_calls(
    kind: type[nn.Module],
    begin: Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], object],
    end: Callable[[nn.Module, Any], object],
) -> Subscription:
    """Have callbacks called around every call of the modules of one class, and of no other.

    This costs the other modules nothing, leaves no hook on the module (which would be pickled and copied with it),
    and sees a compiled module from outside. What is called while torch compiles or exports is not told.

    Args:
        kind: the class; of a subclass's modules nothing is told.
        begin: called with module, args, kwargs.
        end: called with module, output.
    """
    own = "__call__" in vars(kind)
    original = kind.__call__
    on = [True]

    def call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if not on[0] or type(self) is not kind or torch.compiler.is_compiling():
            return original(self, *args, **kwargs)
        _shielded(begin, self, args, kwargs)
        output = original(self, *args, **kwargs)
        _shielded(end, self, output)
        return output

    def remove() -> None:
        on[0] = False
        if vars(kind).get("__call__") is call:
            if own:
                kind.__call__ = original  # type: ignore[method-assign]
            else:
                del kind.__call__

    kind.__call__ = call  # type: ignore[method-assign]
    return Subscription(remove)


def _shielded(callback: Callable[..., object], *args: Any) -> None:
    try:
        callback(*args)
    except Exception:  # noqa: BLE001 - the program that is watched must go on
        _tell_failure()


def _tell_failure() -> None:
    failures.append(traceback.format_exc())
    sys.stderr.write(f"finepoint: an observer failed and is no longer called\n{failures[-1]}")


def _install_forward_begin(event: Event[[nn.Module, tuple[Any, ...]]]) -> Remove:
    def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
        if not torch.compiler.is_compiling():
            event.emit(module, args)

    return module_hooks.register_module_forward_pre_hook(hook).remove


def _install_forward_end(event: Event[[nn.Module, tuple[Any, ...], dict[str, Any], Any]]) -> Remove:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if not torch.compiler.is_compiling():
            event.emit(module, args, kwargs, output)

    return module_hooks.register_module_forward_hook(hook, with_kwargs=True).remove


def _install_outer(event: Event[[nn.Module, bool]]) -> Remove:
    """Watch only the outermost module; global hooks would slow every module in it down four times as much."""
    original = nn.Module.__call__
    inside = False

    def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        nonlocal inside
        if inside:
            return original(module, *args, **kwargs)
        inside = True
        event.emit(module, True)
        try:
            return original(module, *args, **kwargs)
        finally:
            inside = False
            event.emit(module, False)

    def remove() -> None:
        nonlocal inside
        inside = True  # where another has wrapped ours since, ours does nothing any more
        if vars(nn.Module)["__call__"] is call:
            nn.Module.__call__ = original  # type: ignore[method-assign]

    nn.Module.__call__ = call  # type: ignore[method-assign]
    return remove


def _install_loss(event: Event[[str, tuple[Any, ...], dict[str, Any], Any]]) -> Remove:
    def around(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def loss(*args: Any, **kwargs: Any) -> Any:
            output = original(*args, **kwargs)
            if not torch.compiler.is_compiling():
                event.emit(name, args, kwargs, output)
            return output

        return loss

    return replace_all([(functional, name, functools.partial(around, name)) for name in LOSS_FUNCTIONS])


def _install_backward(begin: bool) -> Callable[[Event[[Any]]], Remove]:
    def install(event: Event[[Any]]) -> Remove:
        def around(original: Callable[..., Any]) -> Callable[..., Any]:
            def backward(tensors: Any, *args: Any, **kwargs: Any) -> Any:
                if begin:
                    event.emit(tensors)
                result = original(tensors, *args, **kwargs)
                if not begin:
                    event.emit(tensors)
                return result

            return backward

        return replace_all([(torch.autograd, "backward", around)])

    return install


def _install_step_begin(event: Event[[torch.optim.Optimizer]]) -> Remove:
    return optimizer_hooks.register_optimizer_step_pre_hook(lambda optimizer, *_: event.emit(optimizer)).remove


def _install_step_end(event: Event[[torch.optim.Optimizer]]) -> Remove:
    return optimizer_hooks.register_optimizer_step_post_hook(lambda optimizer, *_: event.emit(optimizer)).remove


def _install_zero_grad(event: Event[[Any]]) -> Remove:
    return replace_all([(kind, "zero_grad", _emitting_self(event)) for kind in (torch.optim.Optimizer, nn.Module)])


def _install_schedule(event: Event[[Any]]) -> Remove:
    kinds = [torch.optim.lr_scheduler.LRScheduler]
    for kind in kinds:
        kinds += [below for below in kind.__subclasses__() if below not in kinds]
    return replace_all([(kind, "step", _emitting_self(event)) for kind in kinds if "step" in vars(kind)])


def _install_loader_begin(event: Event[[DataLoader[Any]]]) -> Remove:
    def around(original: Callable[..., Any]) -> Callable[..., Any]:
        def begin(loader: DataLoader[Any]) -> Any:
            event.emit(loader)
            return original(loader)

        return begin

    return replace_all([(DataLoader, "__iter__", around)])


def _install_loader_ready(event: Event[[DataLoader[Any]]]) -> Remove:
    def around(original: Callable[..., Any]) -> Callable[..., Any]:
        def ready(loader: DataLoader[Any]) -> Any:
            batches = original(loader)
            event.emit(loader)
            return batches

        return ready

    return replace_all([(DataLoader, "__iter__", around)])


class _Batches:
    """An iterator over a loader's batches that tells of each; all else is the loader's own iterator's."""

    def __init__(
        self,
        batches: Iterator[Any],
        on_batch: Callable[[Any, float], None] | None,
        on_end: Callable[[bool], None] | None,
        on_wait: Callable[[], None] | None = None,
    ) -> None:
        self._batches, self._on_batch, self._on_end, self._on_wait = batches, on_batch, on_end, on_wait

    def __iter__(self) -> _Batches:
        return self

    def __next__(self) -> Any:
        if self._on_wait is not None:
            self._on_wait()
        began = time.perf_counter()
        try:
            batch = next(self._batches)
        except StopIteration:
            self._end(True)
            raise
        if self._on_batch is not None:
            self._on_batch(batch, time.perf_counter() - began)
        return batch

    def __len__(self) -> int:
        return len(self._batches)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batches, name)

    def __del__(self) -> None:
        self._end(False)

    def _end(self, exhausted: bool) -> None:
        if self._on_end is not None:
            self._on_end(exhausted)
            self._on_end = None


def _install_wait(event: Event[[DataLoader[Any]]]) -> Remove:
    def around(original: Callable[..., Any]) -> Callable[..., Any]:
        def batches(loader: DataLoader[Any]) -> _Batches:
            return _Batches(original(loader), None, None, lambda: event.emit(loader))

        return batches

    return replace_all([(DataLoader, "__iter__", around)])


def _install_batch(event: Event[[DataLoader[Any], Any, float]]) -> Remove:
    def around(original: Callable[..., Any]) -> Callable[..., Any]:
        def batches(loader: DataLoader[Any]) -> _Batches:
            return _Batches(original(loader), lambda batch, waited: event.emit(loader, batch, waited), None)

        return batches

    return replace_all([(DataLoader, "__iter__", around)])


def _install_loader_end(event: Event[[DataLoader[Any], bool]]) -> Remove:
    def around(original: Callable[..., Any]) -> Callable[..., Any]:
        def batches(loader: DataLoader[Any]) -> _Batches:
            return _Batches(original(loader), None, lambda exhausted: event.emit(loader, exhausted))

        return batches

    return replace_all([(DataLoader, "__iter__", around)])


def _install_compile(event: Event[[Any]]) -> Remove:
    def around(original: Callable[..., Any]) -> Callable[..., Any]:
        def compile_(model: Any = None, *args: Any, **kwargs: Any) -> Any:
            if model is not None:
                event.emit(model)
            return original(model, *args, **kwargs)

        return compile_

    return replace_all([(torch, "compile", around)])


def _emitting_self(event: Event[[Any]]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def around(original: Callable[..., Any]) -> Callable[..., Any]:
        def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            result = original(self, *args, **kwargs)
            event.emit(self)
            return result

        return method

    return around


def replace_all(places: list[tuple[Any, str, Callable[[Callable[..., Any]], Callable[..., Any]]]]) -> Remove:
    """Replace attributes by what wraps them; return what puts the former ones back.

    Where another has wrapped ours since, ours stays below it and does nothing any more.
    """
    done = []
    for owner, name, around in places:
        original = vars(owner)[name]
        replacement = _gated(original, around(original), removed := [False])
        setattr(owner, name, replacement)
        done.append((owner, name, original, replacement, removed))

    def remove() -> None:
        for owner, name, original, replacement, removed in done:
            removed[0] = True
            if vars(owner)[name] is replacement:
                setattr(owner, name, original)

    return remove


def _gated(original: Callable[..., Any], wrapped: Callable[..., Any], removed: list[bool]) -> Callable[..., Any]:
    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        return (original if removed[0] else wrapped)(*args, **kwargs)

    return call


FORWARD_BEGIN: Event[[nn.Module, tuple[Any, ...]]] = Event(_install_forward_begin)
FORWARD_END: Event[[nn.Module, tuple[Any, ...], dict[str, Any], Any]] = Event(_install_forward_end)
OUTER: Event[[nn.Module, bool]] = Event(_install_outer)
LOSS: Event[[str, tuple[Any, ...], dict[str, Any], Any]] = Event(_install_loss)
BACKWARD_BEGIN: Event[[Tensor | Any]] = Event(_install_backward(True))
BACKWARD_END: Event[[Tensor | Any]] = Event(_install_backward(False))
STEP_BEGIN: Event[[torch.optim.Optimizer]] = Event(_install_step_begin)
STEP_END: Event[[torch.optim.Optimizer]] = Event(_install_step_end)
ZERO_GRAD: Event[[Any]] = Event(_install_zero_grad)
SCHEDULE: Event[[Any]] = Event(_install_schedule)
LOADER_BEGIN: Event[[DataLoader[Any]]] = Event(_install_loader_begin)
LOADER_READY: Event[[DataLoader[Any]]] = Event(_install_loader_ready)
WAIT: Event[[DataLoader[Any]]] = Event(_install_wait)
BATCH: Event[[DataLoader[Any], Any, float]] = Event(_install_batch)
LOADER_END: Event[[DataLoader[Any], bool]] = Event(_install_loader_end)
COMPILE: Event[[Any]] = Event(_install_compile)
