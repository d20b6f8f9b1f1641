from __future__ import annotations

from pathlib import Path

import pytest

from finepoint.errors import ConfigurationError
from finepoint.training.hyperparameters import known_hyperparameters
from finepoint.tuning.objectives import direction_of
from finepoint.tuning.parameters import (
    DEFAULT_SPACE,
    CategoricalParameter,
    ContinuousParameter,
    IntegerParameter,
    check_space,
    load_space,
    parse_range,
    space_from_json,
    space_to_json,
)
from finepoint.tuning.strategies import grid


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lr=0.001:0.1:log", ("lr", ContinuousParameter(0.001, 0.1, "Logarithmic"))),
        ("lr=1e-3:0.1", ("lr", ContinuousParameter(0.001, 0.1))),
        ("batch_size=64,128", ("batch_size", CategoricalParameter((64, 128)))),
        ("epochs=2:4", ("epochs", IntegerParameter(2, 4))),
        ("optimizer=adam,sgd", ("optimizer", CategoricalParameter(("adam", "sgd")))),
    ],
)
def test_ranges_are_read(text: str, expected: object) -> None:
    assert parse_range(text) == expected


@pytest.mark.parametrize(
    "text",
    ["lr", "lr=", "=1:2", "lr=1:2:3:4", "lr=a:b", "lr=0.1:0.001", "lr=-1:1:log", "lr=0:1:cubic", "x=1,1", "lr=nan:1"],
)
def test_wrong_ranges_are_refused(text: str) -> None:
    with pytest.raises(ConfigurationError):
        parse_range(text)


def test_the_default_space_is_the_reference_one() -> None:
    assert dict(DEFAULT_SPACE) == {
        "lr": ContinuousParameter(0.001, 0.1, "Logarithmic"),
        "batch_size": CategoricalParameter((64, 128)),
        "epochs": IntegerParameter(2, 4),
    }
    check_space(DEFAULT_SPACE, known_hyperparameters())


def test_space_files_in_every_form(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(
        'lr = "0.001:0.1:log"\nbatch_size = [64, 128]\nepochs = { type = "integer", min_value = 2, max_value = 4 }\n'
    )
    assert load_space(tmp_path / "s.toml") == dict(DEFAULT_SPACE)
    assert space_from_json(space_to_json(DEFAULT_SPACE)) == dict(DEFAULT_SPACE)
    (tmp_path / "bad.json").write_text('{"lr": "x:y", "epochs": {"type": "whole"}, "batch_size": {"min_value": 1}}')
    with pytest.raises(ConfigurationError) as caught:
        load_space(tmp_path / "bad.json")
    assert len(caught.value.mistakes) == 3


def test_a_space_the_trainer_does_not_know_is_refused() -> None:
    space = {
        "lerning_rate": ContinuousParameter(0, 1),
        "epochs": IntegerParameter(0, 4),
        "head": CategoricalParameter(("x",)),
    }
    with pytest.raises(ConfigurationError) as caught:
        check_space(space, known_hyperparameters())
    assert len(caught.value.mistakes) == 3


def test_objectives() -> None:
    assert direction_of("valid_loss") == "minimize"
    assert direction_of("valid_balanced_accuracy") == "maximize"
    with pytest.raises(ConfigurationError, match="test part"):
        direction_of("test_accuracy")
    with pytest.raises(ConfigurationError, match="does not say"):
        direction_of("thing")


def test_the_grid_holds_every_point_once() -> None:
    points = grid(
        {"a": CategoricalParameter((1, 2)), "b": IntegerParameter(1, 3), "lr": ContinuousParameter(0.001, 0.1)}
    )
    assert len(points) == 2 * 3 * 5
    assert len({tuple(point.values()) for point in points}) == 30
    assert {point["lr"] for point in points} >= {0.001, 0.1}
    assert sorted({point["lr"] for point in points})[2] == pytest.approx(0.01)
