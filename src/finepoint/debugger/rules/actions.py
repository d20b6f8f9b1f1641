"""What is done when a rule fires: stop the training, run a command, tell a webhook."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import httpx

from finepoint.debugger.rules.result import RuleResult
from finepoint.errors import JobError

# A webhook that does not answer holds the judge up no longer.
_WEBHOOK_SECONDS = 10.0


class Action(Protocol):
    """Something that is done with the result of a rule that fired."""

    def __call__(self, result: RuleResult) -> None:
        """Do it.

        Raises:
            JobError: it could not be done.
        """


@dataclass(frozen=True)
class StopTraining:
    """Stops the job.

    Args:
        stop: what does so: an engine's own way, or `terminate(pid)`.
    """

    stop: Callable[[], None]

    def __call__(self, result: RuleResult) -> None:
        """Stop the job."""
        self.stop()


@dataclass(frozen=True)
class RunCommand:
    """Runs a command; the result is its standard input, as JSON, and its name is in $FINEPOINT_RULE.

    Args:
        command: program and arguments; no shell reads it.
    """

    command: Sequence[str]

    def __call__(self, result: RuleResult) -> None:
        """Run it."""
        environment = {**os.environ, "FINEPOINT_RULE": result.rule}
        text = json.dumps(result.to_json())
        try:
            done = subprocess.run([*self.command], input=text, text=True, env=environment, check=False)
        except OSError as error:
            raise JobError(f"{self.command[0]} cannot be run: {error.strerror}") from error
        if done.returncode:
            raise JobError(f"{self.command[0]} ended with code {done.returncode}")


@dataclass(frozen=True)
class PostToWebhook:
    """Sends the result to a URL as JSON.

    Args:
        url: of http or https.
    """

    url: str

    def __call__(self, result: RuleResult) -> None:
        """Send it."""
        try:
            httpx.post(self.url, json=result.to_json(), timeout=_WEBHOOK_SECONDS).raise_for_status()
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise JobError(f"{self.url} was not told of {result.rule}: {error}") from error


def terminate(pid: int) -> Callable[[], None]:
    """Return a function that asks a process to end (SIGTERM); one that has ended already is left in peace."""

    def stop() -> None:
        try:
            os.kill(pid, signal.SIGTERM)
        except ProcessLookupError:
            return

    return stop
