"""What a training job prints, from CloudWatch's logs."""

from __future__ import annotations

from pathlib import Path

from finepoint.engines.sagemaker.cloud import Cloud, is_missing
from finepoint.errors import CloudError

GROUP = "/aws/sagemaker/TrainingJobs"


class JobLog:
    """The log of a training job, read on from where the last reading ended.

    Args:
        cloud: the account.
        name: of the job in AWS.
        copy: file that every line is appended to, or None.
    """

    def __init__(self, cloud: Cloud, name: str, copy: Path | None = None) -> None:
        self._cloud, self._name, self._copy = cloud, name, copy
        self._tokens: dict[str, str] = {}
        if copy is not None:
            copy.unlink(missing_ok=True)

    def new_lines(self) -> list[str]:
        """Return the lines since the last call; with several hosts each is marked with its host."""
        lines: list[str] = []
        streams = self._streams()
        for stream in streams:
            host = stream.rpartition("/")[2].rpartition("-")[0]
            mark = f"[{host}] " if len(streams) > 1 else ""
            lines += [mark + line for line in self._read(stream)]
        if self._copy is not None and lines:
            with self._copy.open("a", encoding="utf-8") as file:
                file.write("".join(f"{line}\n" for line in lines))
        return lines

    def _streams(self) -> list[str]:
        try:
            listed = self._cloud.pages(
                "logs", "DescribeLogStreams", logGroupName=GROUP, logStreamNamePrefix=f"{self._name}/"
            )
            return sorted(stream["logStreamName"] for page in listed for stream in page.get("logStreams", ()))
        except CloudError as error:
            if is_missing(error):
                return []  # nothing was printed yet
            raise

    def _read(self, stream: str) -> list[str]:
        """Return a stream's new lines. A page may be empty in the middle; the end is where the token stays the same."""
        lines: list[str] = []
        while True:
            token = self._tokens.get(stream)
            answer = self._cloud.call(
                "logs",
                "GetLogEvents",
                logGroupName=GROUP,
                logStreamName=stream,
                startFromHead=True,
                **({"nextToken": token} if token else {}),
            )
            lines += [event["message"] for event in answer["events"]]
            following = answer.get("nextForwardToken", "")
            self._tokens[stream] = following
            if following in ("", token):
                return lines
