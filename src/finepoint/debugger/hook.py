"""The hook: what a training script uses to be recorded."""

from __future__ import annotations

import atexit
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from finepoint.debugger.budget import BUDGET, Budget
from finepoint.debugger.collection import Collection, CollectionKeys, CollectionManager
from finepoint.debugger.configuration import ReductionConfig, SaveConfig, SaveConfigMode
from finepoint.debugger.hook_file import HookFile, read_hook_file
from finepoint.debugger.modes import ModeKeys
from finepoint.debugger.observers import observe
from finepoint.debugger.observers.losses import Losses
from finepoint.debugger.observers.outputs import Outputs
from finepoint.debugger.observers.parameters import Gradients, Parameters
from finepoint.debugger.observers.processes import Process, rank
from finepoint.debugger.recorder import Recorder
from finepoint.debugger.recording import Recording
from finepoint.debugger.selection import DEFAULT_COLLECTIONS, Selection
from finepoint.debugger.tensorboard import export_tensorboard
from finepoint.debugger.writing import RecordingWriter
from finepoint.errors import ConfigurationError, NotFoundError


class Hook:
    """Records a model's training into a folder; with smdebug's names, so that its users find their way.

    By default scalars and reductions are saved, as often as `budget` allows; whole tensors only where a
    `ReductionConfig(save_raw_tensor=True)` asks for them.

    Args:
        out_dir: folder of the recording; it must not hold a finished one.
        export_tensorboard: when the recording ends, write it as TensorBoard event files too, which needs the extra
            `tensorboard`; `finepoint debug export` makes them of any recording.
        tensorboard_dir: where to; by default `tensorboard` inside `out_dir`.
        dry_run: record nothing.
        reduction_config: what is saved of tensors in collections without their own; by default chosen by kind.
        save_config: which steps are saved of collections without their own (a `SaveConfig`, a `SaveConfigMode`, or
            one by mode); by default as many as the budget allows.
        include_regex: tensors whose names these match are saved too (collection `default`).
        include_collections: names of collections to save, beside the losses.
        save_all: save every tensor.
        include_workers: `all` or `one`: whether every process of a job records, or the one of rank 0.
        budget: share of the job's time that recording may take where no `save_config` says which steps.

    >>> import tempfile
    >>> model, loss = nn.Linear(2, 3), nn.CrossEntropyLoss()
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with Hook(folder) as hook:
    ...         hook.register_module(model)
    ...         hook.register_loss(loss)
    ...         _ = loss(model(torch.zeros(4, 2)), torch.zeros(4, dtype=torch.int64))
    ...     Recording.open(folder).names("[Ll]oss")
    ['CrossEntropyLoss_output_0']
    """

    # smdebug's ways: whole tensors, its own defaults, nothing that was not asked for.
    compatible: ClassVar[bool] = False

    def __init__(
        self,
        out_dir: str | Path,
        export_tensorboard: bool = False,
        tensorboard_dir: str | None = None,
        dry_run: bool = False,
        reduction_config: ReductionConfig | None = None,
        save_config: SaveConfig | SaveConfigMode | Mapping[ModeKeys, SaveConfigMode] | None = None,
        include_regex: str | list[str] | None = None,
        include_collections: list[str] | None = None,
        save_all: bool = False,
        include_workers: str = "all",
        budget: float = BUDGET,
    ) -> None:
        self.out_dir = Path(out_dir).expanduser()
        _refuse_finished(self.out_dir)
        self.collection_manager = CollectionManager(beyond=not self.compatible)
        included = list(include_collections or (() if self.compatible else DEFAULT_COLLECTIONS))
        included.append(CollectionKeys.LOSSES)
        if include_regex:
            self.collection_manager.get(CollectionKeys.DEFAULT).include(include_regex)
            included.append(CollectionKeys.DEFAULT)
        if save_all:
            self.collection_manager.get(CollectionKeys.ALL).include(".*")
            included.append(CollectionKeys.ALL)
        configured = SaveConfig.parse(save_config) if save_config is not None or self.compatible else None
        self._selection = Selection(
            self.collection_manager,
            included,
            configured,
            reduction_config,
            None if self.compatible else Budget(budget),
            whole=self.compatible,
        )
        self._recorder = Recorder(
            RecordingWriter(self.out_dir, rank),
            self._selection,
            discover=False,
            mode=ModeKeys.GLOBAL if self.compatible else None,
        )
        self._events = Path(tensorboard_dir or self.out_dir / "tensorboard") if export_tensorboard else None
        self._silent = dry_run or (include_workers == "one" and rank() != 0)
        self._losses: Losses | None = None
        self._outputs: Outputs | None = None
        if not self._silent:
            self._observe()
        atexit.register(self.close)

    @classmethod
    def create_from_json_file(cls, json_file_path: str | Path | None = None) -> Self:
        """Return the hook that a file describes: the one named, or that of `$SMDEBUG_CONFIG_FILE_PATH`, or SageMaker's.

        Raises:
            FileNotFoundError: there is no such file.
            ConfigurationError: it is not what it should be.
        """
        return cls.from_file(read_hook_file(json_file_path))

    @classmethod
    def from_file(cls, file: HookFile) -> Self:
        """Return the hook that a file, already read, describes."""
        hook = cls(
            file.out_dir,
            reduction_config=file.reduction_config,
            save_config=file.save_config,
            include_regex=file.include_regex,
            include_collections=file.include_collections,
            save_all=file.save_all,
            include_workers=file.include_workers or ("one" if cls.compatible else "all"),
        )
        for wanted in file.collections:
            held = hook.collection_manager.get(wanted.name)
            held.include(wanted.include_regex)
            held.save_config = wanted.save_config
            held.reduction_config = wanted.reduction_config or held.reduction_config
        return hook

    def register_module(self, module: nn.Module) -> None:
        """Record this model: each call of it is a step.

        Raises:
            ConfigurationError: it is no module, or a collection holds nothing.
        """
        if not isinstance(module, nn.Module):
            raise ConfigurationError(f"register_module was given a {type(module).__name__}; it needs a torch.nn.Module")
        for held in self.collection_manager.collections.values():
            for member, (inputs, outputs) in held.modules.items():
                path = next((path for path, known in module.named_modules() if known is member), None)
                if path is None:
                    raise ConfigurationError(f"collection {held.name!r} holds a module that the model does not have")
                held.include([f"^{path}_input_"] * inputs + [f"^{path}_output_"] * outputs)
        self.collection_manager.check()
        if not self._silent:
            self._recorder.adopt(module)

    register_hook = register_module

    def register_loss(self, loss_module: nn.Module) -> None:
        """Record what this module returns as a loss.

        Raises:
            ConfigurationError: it is no module; functional losses are recorded without being registered.
        """
        if not isinstance(loss_module, nn.Module):
            raise ConfigurationError(
                f"register_loss was given a {type(loss_module).__name__}; it needs a module. Losses of "
                "torch.nn.functional are recorded without being registered"
            )
        if self._silent:
            return
        if self._losses is not None:
            self._losses.register(loss_module)
        elif self._outputs is not None:
            self._outputs.register(loss_module)

    def set_mode(self, mode: ModeKeys) -> None:
        """Say what the steps from now on are for.

        Raises:
            ConfigurationError: it is none of `modes`.
        """
        if not isinstance(mode, ModeKeys):
            raise ConfigurationError(f"mode is {mode!r}; it must be one of {', '.join(map(str, ModeKeys))}")
        self._recorder.mode = mode

    def save_scalar(self, name: str, value: Any, sm_metric: bool = False, timestamp: float | None = None) -> None:
        """Record a number, as `scalar/NAME`, at the current step.

        Raises:
            ConfigurationError: it is not one number.
        """
        array = np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value, np.float64)
        if array.size != 1:
            raise ConfigurationError(f"scalar {name!r} has {array.size} values; it must have one")
        if not self._silent:
            self._recorder.scalar(f"scalar/{name}", float(array.reshape(())))

    def save_tensor(
        self, tensor_name: str, tensor_value: Any, collections_to_write: str | list[str] = "default"
    ) -> None:
        """Keep a whole tensor at the current step."""
        if self._silent:
            return
        array = torch.as_tensor(tensor_value)
        names = [collections_to_write] if isinstance(collections_to_write, str) else collections_to_write
        for name in names:
            self.collection_manager.get(name).tensor_names.add(tensor_name)
        self._recorder.keep_whole(tensor_name, array, tuple(names))

    def record_tensor_value(self, tensor_name: str, tensor_value: Tensor) -> None:
        """Record the output of a function, such as `F.mse_loss`, under a name of yours."""
        if not self._silent:
            self._recorder.save(f"{tensor_name}_output_0", tensor_value, "output")

    def get_collection(self, name: str, create: bool = True) -> Collection:
        """Return a collection, to include names in it or to set what is saved of it and when."""
        return self.collection_manager.get(name, create)

    def get_collections(self) -> dict[str, Collection]:
        """Return all collections by name."""
        return self.collection_manager.collections

    def add_collection(self, collection: Collection) -> None:
        """Add a collection; name it in `include_collections` to have it saved."""
        self.collection_manager.add(collection)

    @property
    def overhead_fraction(self) -> float:
        """The share of the job's time that recording has taken so far, measured in this process."""
        return self._recorder.budget.fraction

    def close(self) -> None:
        """End the recording; at the end of the process this happens by itself."""
        recorded = not self._recorder.closed and self._recorder.total >= 0
        self._recorder.close()
        atexit.unregister(self.close)
        if self._events is not None and recorded and rank() == 0:
            try:
                export_tensorboard(Recording.open(self.out_dir), self._events)
            except ConfigurationError as error:  # what was recorded is there, and the script has done its work
                warnings.warn(f"no TensorBoard events were written: {error}", stacklevel=2)

    def __enter__(self) -> Hook:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _observe(self) -> None:
        if not self.compatible:
            self._losses = observe(self._recorder)
            return
        Process(self._recorder)
        Parameters(self._recorder, frozen_once=False)
        self._outputs = Outputs(self._recorder, leaves_only=False, beyond=False)
        Gradients(self._recorder, beyond=False)


def _refuse_finished(folder: Path) -> None:
    try:
        ended = Recording.open(folder).ended
    except NotFoundError:
        return
    if ended:
        raise ConfigurationError(f"{folder} holds a finished recording; give another out_dir, or remove it")
