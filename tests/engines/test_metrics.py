from __future__ import annotations

import pytest

from finepoint.engines.metrics import MetricDefinition, explain_missing, parse_metric
from finepoint.errors import ConfigurationError

LINE = "Test set: Average loss: 0.4321, Accuracy: 9/10 (90%)"


def test_the_first_group_is_the_value() -> None:
    assert MetricDefinition("loss", r"Average loss: ([0-9\.]+)").values(LINE) == [0.4321]
    assert MetricDefinition("loss", r"loss: ([0-9.]+)").values("loss: 1 loss: 2") == [1.0, 2.0]


def test_what_is_no_finite_number_is_no_value() -> None:
    assert MetricDefinition("loss", r"loss: (\S+)").values("loss: nan loss: inf loss: 0.5. loss: 1e-3") == [0.001]


@pytest.mark.parametrize(
    ("text", "words"), [("loss", "NAME=REGEX"), ("loss=loss: [0-9]+", "has no group"), ("loss=(", "unterminated")]
)
def test_a_definition_that_cannot_be_used_is_explained(text: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        parse_metric(text)


def test_a_metric_that_never_came_is_explained_by_the_lines_that_nearly_matched() -> None:
    log = ["Downloading 10 files", "Train Epoch: 1 Loss: 2.1", LINE.replace("0.4", "0.9"), LINE, ""]
    text = explain_missing(MetricDefinition("loss", r"Test set: Avarage loss: ([0-9\.]+)"), log)
    assert text.splitlines()[1].strip() == LINE
    assert "Downloading" not in text


def test_a_group_that_takes_too_much_is_shown() -> None:
    text = explain_missing(MetricDefinition("loss", r"loss: ([0-9.]+)"), ["loss: 0.5."])
    assert "'0.5.'" in text
