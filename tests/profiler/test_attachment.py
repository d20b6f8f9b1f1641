"""What is seen of scripts that train by more than one loader, optimizer, thread or process, and of those killed."""

from __future__ import annotations

import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.profiler.making import watched
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from finepoint.profiler import phases
from finepoint.profiler.phases import Mode
from finepoint.profiler.recording import ProfilerRecording, open_recording, total
from finepoint.profiler.running import profiler_environment
from finepoint.profiler.segments import Table

IMAGES = torch.rand(64, 4)
SPAWNING = """
import torch
from torch import multiprocessing
from torch.utils.data import DataLoader, TensorDataset

def train(rank):
    model = torch.nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    loader = DataLoader(TensorDataset(torch.rand(64, 4)), 16, num_workers=1, multiprocessing_context="spawn")
    for (x,) in loader:
        model(x).sum().backward()
        optimizer.step()

if __name__ == "__main__":
    multiprocessing.spawn(train)
"""


class Trained(nn.Linear):
    """A layer with its optimizer."""

    def __init__(self) -> None:
        super().__init__(4, 2)
        self.optimizer = torch.optim.SGD(self.parameters(), 0.01)

    def step(self, images: torch.Tensor) -> None:
        """Train with a batch."""
        self.optimizer.zero_grad()
        self(images).sum().backward()
        self.optimizer.step()


@pytest.fixture(autouse=True)
def written_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However short a step, it is watched and has a row."""
    monkeypatch.setattr(phases, "SHORTEST_ROW_SECONDS", 0.0)
    monkeypatch.setattr(phases, "LONGEST_PASSED_SECONDS", 0.0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """Seconds that pass only where a test says so."""
    now = [0.0]
    monkeypatch.setitem(phases.PhaseClock.__init__.__kwdefaults__, "clock", lambda: now[0])
    monkeypatch.setattr("finepoint.profiler.attachment.process_start", lambda: 0.0)
    yield now


def loader() -> DataLoader[tuple[torch.Tensor, ...]]:
    """Four batches."""
    return DataLoader(TensorDataset(IMAGES), 16)


@pytest.mark.parametrize(("epochs", "late"), [(1, False), (5, False), (1, True)])
def test_the_loader_is_known_of_a_job_that_was_killed(tmp_path: Path, epochs: int, late: bool) -> None:
    model = Trained()
    with watched(tmp_path) as recorder:
        for _ in range(20 if late else 0):
            model.step(IMAGES)
        for each in [loader() for _ in range(epochs)]:
            for (x,) in each:
                model.step(x)
        recorder._writer.seal()  # as happens every few seconds
        recording = open_recording(tmp_path)
    found = recording.loader()
    assert found is not None
    assert len(recording.facts["loaders"]) == 1, "alike"
    assert (found["batches"], found["workers"], found["shape"]) == (4, 0, [16, 4])


def test_two_optimizers_step_in_one_row_for_each_batch(tmp_path: Path) -> None:
    one, other = Trained(), Trained()
    with watched(tmp_path):
        for _ in range(3):
            for (x,) in loader():
                one.step(x)
                other.step(x)
    trained = rows_of(open_recording(tmp_path), Mode.TRAIN)
    assert list(trained["steps"]) == [2] * 12 and list(trained["batches"]) == [1] * 12


def test_a_loop_that_goes_on_with_one_batch_has_rows_too(tmp_path: Path) -> None:
    model = Trained()
    with watched(tmp_path):
        x = next(iter(loader()))[0]
        for _ in range(40):
            model.step(x)
    assert len(rows_of(open_recording(tmp_path), Mode.TRAIN)) > 25


def test_batches_of_two_loaders_that_are_zipped_are_in_one_row(tmp_path: Path) -> None:
    model = Trained()
    with watched(tmp_path):
        for (one,), (other,) in zip(loader(), loader(), strict=True):
            model.step(one + other)
    trained = rows_of(open_recording(tmp_path), Mode.TRAIN)
    assert list(trained["batches"]) == [2] * 4 and list(trained["samples"]) == [32] * 4


def test_what_raises_is_left(tmp_path: Path, clock: list[float]) -> None:
    class Raises(torch.autograd.Function):
        @staticmethod
        def forward(context: object, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(context: object, gradient: torch.Tensor) -> torch.Tensor:
            clock[0] += 1
            raise ValueError

    def refuse(*_: object) -> None:
        clock[0] += 1
        raise ValueError

    with watched(tmp_path):
        for way in (Raises.apply, nn.Identity()):
            model = Trained()
            if way is not Raises.apply:
                model.optimizer.step = refuse
            for (x,) in loader():
                with pytest.raises(ValueError):
                    model.step(way(x.requires_grad_()))
                clock[0] += 10
    seconds = {
        name: total(open_recording(tmp_path).loop, f"phase/{name}") for name in ("backward", "optimizer", "other")
    }
    assert seconds["backward"] == 4 and seconds["other"] >= 80


def test_losses_by_their_functions_are_forward_as_those_that_are_modules(tmp_path: Path, clock: list[float]) -> None:
    class Target(torch.Tensor):
        """One that takes a second to be compared with."""

        @classmethod
        def __torch_function__(cls, function: object, types: object, args: tuple = (), kwargs: object = None) -> object:  # type: ignore[type-arg]
            plain = [value.as_subclass(torch.Tensor) if isinstance(value, Target) else value for value in args]
            clock[0] += 1
            return function(*plain)  # type: ignore[operator]

    model = Trained()
    with watched(tmp_path):
        for (x,) in loader():
            loss = functional.mse_loss(model(x), torch.zeros(16, 2).as_subclass(Target))
            loss.backward()
            model.optimizer.step()
    loop = open_recording(tmp_path).loop
    assert total(loop, "phase/forward") >= 4 and total(loop, "phase/other") == 0


def test_a_compiled_network_is_not_warned_of_hooks_of_ours(tmp_path: Path) -> None:
    model = Trained()
    compiled = torch.compile(model, backend="eager")
    with warnings.catch_warnings(), watched(tmp_path):
        warnings.simplefilter("error", UserWarning)
        before = list(warnings.filters)
        for _ in range(20):
            compiled(IMAGES).sum().backward()
            model.optimizer.step()
        assert warnings.filters == before
    assert total(open_recording(tmp_path).loop, "steps") == 20


def test_a_training_beside_the_main_thread_is_seen_until_that_has_one(tmp_path: Path) -> None:
    model = Trained()

    def beside() -> None:
        for (x,) in loader():
            model.step(x)

    for main_too, steps in ((False, 4), (True, 8)):
        with watched(tmp_path / str(main_too)):
            thread = threading.Thread(target=beside)
            thread.start()
            thread.join()
            if main_too:
                beside()
        assert total(open_recording(tmp_path / str(main_too)).loop, "steps") == steps


def test_a_training_in_a_process_that_was_spawned_is_seen_and_its_loaders_worker_is_none(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(SPAWNING)
    environment = profiler_environment(tmp_path / "profiler-output")
    subprocess.run([sys.executable, str(script)], env=environment, check=True)
    recording = open_recording(tmp_path)
    assert total(recording.loop, "steps") == 4
    assert total(recording.loading, "fetches") == 4
    assert (
        len({name.split("-")[1] for name in (path.name for path in (tmp_path / "profiler-output/steps").iterdir())})
        == 2
    )


def rows_of(recording: ProfilerRecording, mode: Mode) -> Table:
    """Return a recording's rows of a mode."""
    return recording.loop.where(recording.loop["mode"] == mode)
