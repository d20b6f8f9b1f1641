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
LOSS_BEGIN             function name: a loss of `torch.nn.functional` is going to be computed
LOSS                   function name, args, kwargs, output: it was
ACTIVATION             function name, output: `torch` or `torch.nn.functional` applied one of `ACTIVATION_FUNCTIONS`
BACKWARD_BEGIN / END   the tensors that `backward` starts from
STEP_BEGIN / END       optimizer: around `Optimizer.step`
ZERO_GRAD              optimizer or module whose gradients were just cleared
SCHEDULE               scheduler, after its step
COMPILE                what is given to `torch.compile`; a module that compiles itself gives its bound `_call_impl`
=====================  ====================================================================================

Those of loading data are in `finepoint.batches`, those of tensors that go elsewhere in `finepoint.transfers`, that of
the outermost module in `finepoint.loops`.

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
import traceback
from collections.abc import Callable
from types import ModuleType
from typing import Any, Generic, ParamSpec

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules import module as module_hooks
from torch.optim import optimizer as optimizer_hooks

from finepoint.patching import Remove, replace_all

P = ParamSpec("P")

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
ACTIVATION_FUNCTIONS = ("relu", "relu6", "sigmoid", "tanh")
# Tracebacks of callbacks that raised and were dropped.
failures: list[str] = []


class Subscription:
    """A callback's place at an event; `close` gives it up, `pause` until `resume`.

    Args:
        close: ends it.
        resume: begins it anew.
    """

    def __init__(self, close: Remove, resume: Callable[[], None] | None = None) -> None:
        self._close: Remove | None = close
        self._resume = resume
        self._paused = False

    def close(self) -> None:
        """End it; closing twice does nothing."""
        if self._close is not None:
            if not self._paused:
                self._close()
            self._close = None

    def pause(self) -> None:
        """Have nothing called, at little cost or none, until `resume`."""
        if self._close is not None and self._resume is not None and not self._paused:
            self._close()
            self._paused = True

    def resume(self) -> None:
        """Go on after `pause`."""
        if self._close is not None and self._resume is not None and self._paused:
            self._resume()
            self._paused = False


class Event(Generic[P]):
    """A moment that may be watched.

    Args:
        install: puts the patch in place, which is to call the event's `emit`; returns what takes it away.

    `watched` is whether anybody watches.
    """

    def __init__(self, install: Callable[[Event[P]], Remove]) -> None:
        self._install = install
        self._remove: Remove | None = None
        self._callbacks: tuple[Callable[P, object], ...] = ()
        self.watched = False

    def subscribe(self, callback: Callable[P, object]) -> Subscription:
        """Have `callback` called at every such moment from now on."""
        self._add(callback)
        return Subscription(lambda: self._drop(callback), lambda: self._add(callback))

    def emit(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Call every callback; not while torch compiles or exports, which traces what it meets."""
        if not self.watched or torch.compiler.is_compiling():
            return
        for callback in self._callbacks:
            try:
                callback(*args, **kwargs)
            except Exception:  # noqa: BLE001 - the program that is watched must go on
                self._drop(callback)
                _tell_failure()

    def _add(self, callback: Callable[P, object]) -> None:
        self._callbacks, self.watched = (*self._callbacks, callback), True
        if self._remove is None:
            self._remove = self._install(self)

    def _drop(self, callback: Callable[P, object]) -> None:
        self._callbacks = tuple(kept for kept in self._callbacks if kept is not callback)
        self.watched = bool(self._callbacks)
        if not self.watched and self._remove is not None:
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
        shielded(begin, self, args, kwargs)
        output = original(self, *args, **kwargs)
        shielded(end, self, output)
        return output

    def remove() -> None:
        on[0] = False
        if vars(kind).get("__call__") is call:
            if own:
                kind.__call__ = original  # type: ignore[method-assign]
            else:
                del kind.__call__

    def install() -> None:
        on[0] = True
        kind.__call__ = call  # type: ignore[method-assign]

    install()
    return Subscription(remove, install)


def shielded(callback: Callable[..., object], *args: Any) -> None:
    """Call it; where it raises, the program that is watched goes on."""
    try:
        callback(*args)
    except Exception:  # noqa: BLE001 - the program that is watched must go on
        _tell_failure()


def _tell_failure() -> None:
    failures.append(traceback.format_exc())
    sys.stderr.write(f"finepoint: an observer failed and is no longer called\n{failures[-1]}")


def _install_forward_begin(event: Event[[nn.Module, tuple[Any, ...]]]) -> Remove:
    def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
        event.emit(module, args)

    return module_hooks.register_module_forward_pre_hook(hook).remove


def _install_forward_end(event: Event[[nn.Module, tuple[Any, ...], dict[str, Any], Any]]) -> Remove:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        event.emit(module, args, kwargs, output)

    handle = module_hooks.register_module_forward_hook(hook, with_kwargs=True)

    def remove() -> None:
        handle.remove()
        # torch leaves this behind, and would go on warning of global hooks.
        module_hooks._global_forward_hooks_with_kwargs.pop(handle.id, None)

    return remove


def _put_loss() -> Remove:
    def around(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def loss(*args: Any, **kwargs: Any) -> Any:
            LOSS_BEGIN.emit(name)
            output = original(*args, **kwargs)
            LOSS.emit(name, args, kwargs, output)
            return output

        return loss

    return replace_all(
        [(owner, name, functools.partial(around, name)) for owner, name in _loss_places(len(sys.modules))]
    )


@functools.lru_cache(maxsize=1)
def _loss_places(modules: int) -> list[tuple[Any, str]]:
    """Return where losses are called by name: torch, and modules that have imported them by name.

    Args:
        modules: how many are imported; looking through them takes milliseconds, and is done when there are more.
    """
    places = [(functional, name) for name in LOSS_FUNCTIONS]
    for module in [held for held in sys.modules.values() if isinstance(held, ModuleType)]:
        if not module.__name__.startswith("torch"):
            known = module.__dict__
            places += [(module, name) for name in LOSS_FUNCTIONS if known.get(name) is getattr(functional, name)]
    return places


def _install_activation(event: Event[[str, Any]]) -> Remove:
    inside = [False]

    def around(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def activation(*args: Any, **kwargs: Any) -> Any:
            if inside[0]:  # torch.nn.functional's call those of torch
                return original(*args, **kwargs)
            inside[0] = True
            try:
                output = original(*args, **kwargs)
            finally:
                inside[0] = False
            event.emit(name, output)
            return output

        return activation

    places = [(owner, name) for owner in (functional, torch) for name in ACTIVATION_FUNCTIONS if name in vars(owner)]
    return replace_all([(owner, name, functools.partial(around, name)) for owner, name in places])


class Shared:
    """A patch that several events need: put in place for the first of them, taken away with the last."""

    def __init__(self, put: Callable[[], Remove]) -> None:
        self._put, self._users = put, 0
        self._remove: Remove = lambda: None

    def __call__(self, event: Event[Any]) -> Remove:
        if self._users == 0:
            self._remove = self._put()
        self._users += 1
        return self._leave

    def _leave(self) -> None:
        self._users -= 1
        if self._users == 0:
            self._remove()


def _put_backward() -> Remove:
    def around(original: Callable[..., Any]) -> Callable[..., Any]:
        def backward(tensors: Any, *args: Any, **kwargs: Any) -> Any:
            BACKWARD_BEGIN.emit(tensors)
            try:
                return original(tensors, *args, **kwargs)
            finally:
                BACKWARD_END.emit(tensors)

        return backward

    return replace_all([(torch.autograd, "backward", around)], by=BACKWARD_BEGIN)


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


FORWARD_BEGIN: Event[[nn.Module, tuple[Any, ...]]] = Event(_install_forward_begin)
FORWARD_END: Event[[nn.Module, tuple[Any, ...], dict[str, Any], Any]] = Event(_install_forward_end)
_loss = Shared(_put_loss)
LOSS_BEGIN: Event[[str]] = Event(_loss)
LOSS: Event[[str, tuple[Any, ...], dict[str, Any], Any]] = Event(_loss)
ACTIVATION: Event[[str, Any]] = Event(_install_activation)
_backward = Shared(_put_backward)
BACKWARD_BEGIN: Event[[Tensor | Any]] = Event(_backward)
BACKWARD_END: Event[[Tensor | Any]] = Event(_backward)
STEP_BEGIN: Event[[torch.optim.Optimizer]] = Event(_install_step_begin)
STEP_END: Event[[torch.optim.Optimizer]] = Event(_install_step_end)
ZERO_GRAD: Event[[Any]] = Event(_install_zero_grad)
SCHEDULE: Event[[Any]] = Event(_install_schedule)
COMPILE: Event[[Any]] = Event(_install_compile)
