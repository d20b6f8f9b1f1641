"""Every moment belongs to one phase, and rows are steps."""

from __future__ import annotations

import pytest

from finepoint.profiler.phases import Mode, PhaseClock


class Time:
    """A clock that goes on when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def go(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def rows() -> list[dict[str, float]]:
    return []


@pytest.fixture
def clock(time: Time, rows: list[dict[str, float]]) -> PhaseClock:
    made = PhaseClock(rows.append, 0.0, clock=time, cpu_clock=time)
    made._last = made._row_began = time.now  # the process started now
    return made


def step(
    clock: PhaseClock, time: Time, *, wait: float, forward: float, backward: float = 0.0, rest: float = 0.0
) -> None:
    clock.boundary()
    clock.wait()
    time.go(wait)
    clock.got_batch(8)
    clock.enter("forward")
    time.go(forward)
    clock.leave("forward")
    clock.count("forwards")
    if backward:
        clock.enter("backward")
        time.go(backward)
        clock.leave("backward")
        clock.count("backwards")
        clock.count("steps")
    time.go(rest)


def phases(row: dict[str, float]) -> dict[str, float]:
    """Return the phases of a row; to observe takes no time by this clock."""
    names = {name: name.removeprefix("phase/") for name in row if name.startswith("phase/")}
    return {phase: round(row[name], 9) for name, phase in names.items() if row[name] or phase != "hook"}


def test_time_before_the_first_batch_is_startup_and_steps_follow(
    clock: PhaseClock, time: Time, rows: list[dict[str, float]]
) -> None:
    clock.enter("import")
    time.go(2)
    clock.leave("import")
    time.go(1)
    step(clock, time, wait=0.3, forward=0.1, backward=0.2, rest=0.05)
    step(clock, time, wait=0.1, forward=0.1)
    clock.close()
    assert [row["mode"] for row in rows] == [Mode.STARTUP, Mode.TRAIN, Mode.EVALUATION]
    assert phases(rows[0]) == {"import": 2, "other": 1}
    assert phases(rows[1]) == {"data_wait": 0.3, "forward": 0.1, "backward": 0.2, "other": 0.05}
    assert rows[1]["data_wait_cpu"] == pytest.approx(0.3)
    assert (rows[1]["steps"], rows[1]["samples"]) == (1, 8)


def test_phases_of_every_row_add_up_to_its_seconds(clock: PhaseClock, time: Time, rows: list[dict[str, float]]) -> None:
    for number in range(5):
        step(clock, time, wait=0.01 * number, forward=0.05, backward=0.1, rest=0.003)
    clock.close()
    for row in rows:
        assert sum(phases(row).values()) == pytest.approx(row["seconds"])
    assert sum(row["seconds"] for row in rows) == pytest.approx(time.now - 100)


def test_what_nests_is_counted_once(clock: PhaseClock, time: Time, rows: list[dict[str, float]]) -> None:
    clock.boundary()
    clock.enter("optimizer")  # as LBFGS does, with a closure that runs the model
    time.go(1)
    clock.enter("forward")
    time.go(2)
    clock.leave("forward")
    time.go(1)
    clock.leave("optimizer")
    clock.count("steps")
    clock.close()
    assert phases(rows[-1]) | {"other": 0} == {"optimizer": 2, "forward": 2, "other": 0}


def test_an_exception_inside_leaves_all_that_it_entered(clock: PhaseClock, time: Time) -> None:
    clock.enter("forward")
    clock.enter("copy")
    clock.leave("forward")
    assert clock.phase == "other"
    clock.leave("forward")
    assert clock.phase == "other"


def test_short_steps_share_a_row_and_the_longest_is_kept(
    clock: PhaseClock, time: Time, rows: list[dict[str, float]]
) -> None:
    for number in range(100):
        step(clock, time, wait=0.0, forward=0.0005, backward=0.0005 + 0.002 * (number == 50))
    clock.close()
    trained = [row for row in rows if row["mode"] == Mode.TRAIN]
    assert 4 <= len(trained) <= 6
    assert sum(row["steps"] for row in trained) == 100
    assert max(row["longest"] for row in trained) == pytest.approx(0.003)


def test_what_observers_take_is_hook_whatever_phase_they_worked_in(time: Time, rows: list[dict[str, float]]) -> None:
    hooked = Time()
    clock = PhaseClock(rows.append, 0.0, clock=time, cpu_clock=time, hook_clock=hooked)
    clock._last = clock._row_began = time.now
    clock.boundary()
    clock.enter("forward")
    time.go(1)
    hooked.go(0.25)
    clock.leave("forward")
    clock.count("forwards")
    clock.close()
    assert phases(rows[-1]) | {"other": 0} == {"forward": 0.75, "hook": 0.25, "other": 0}


def test_a_slow_step_after_fast_ones_is_a_row_by_itself(
    clock: PhaseClock, time: Time, rows: list[dict[str, float]]
) -> None:
    for forward in (*[0.001] * 6, 1.0, *[0.001] * 6):
        step(clock, time, wait=0.0, forward=forward, backward=0.001)
    clock.boundary()
    clock.close()
    trained = [(row["steps"], round(row["seconds"], 3)) for row in rows if row["mode"] == Mode.TRAIN]
    assert trained == [(6, 0.012), (1, 1.001), (6, 0.012)]
