from __future__ import annotations

from typing import Any

from finepoint.engines.sagemaker.cloud import Cloud
from finepoint.engines.sagemaker.logs import JobLog


class Scripted(Cloud):
    """Logs as CloudWatch hands them out: streams in pages, and pages of lines that may be empty in the middle."""

    def __init__(self, pages: dict[str | None, tuple[list[str], str]]) -> None:
        self.pages_of_lines, self.tokens = pages, list[str | None]()

    def call(self, service: str, operation: str, **parameters: Any) -> dict[str, Any]:
        if operation == "DescribeLogStreams":
            if "nextToken" not in parameters:
                return {"logStreams": [{"logStreamName": "job/algo-1-17"}], "nextToken": "more"}
            return {"logStreams": [{"logStreamName": "job/algo-2-17"}]}
        token = parameters.get("nextToken")
        if parameters["logStreamName"] != "job/algo-1-17":
            return {"events": [], "nextForwardToken": "e"}
        self.tokens.append(token)
        lines, following = self.pages_of_lines[token]
        return {"events": [{"message": line} for line in lines], "nextForwardToken": following}


def test_an_empty_page_is_not_the_end_of_a_log_and_nothing_is_read_twice() -> None:
    cloud = Scripted({None: (["one"], "a"), "a": ([], "b"), "b": (["two"], "c"), "c": ([], "c")})
    log = JobLog(cloud, "job")
    assert log.new_lines() == ["[algo-1] one", "[algo-1] two"]
    cloud.pages_of_lines["c"], cloud.pages_of_lines["d"] = (["three"], "d"), ([], "d")
    cloud.tokens.clear()
    assert log.new_lines() == ["[algo-1] three"]
    assert cloud.tokens == ["c", "d"]
