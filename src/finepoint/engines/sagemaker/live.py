"""`finepoint doctor --engine sagemaker --live`: what only AWS itself can show, tried for a few cents."""

from __future__ import annotations

import secrets
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from finepoint.engines.local import Watcher
from finepoint.engines.metrics import MetricDefinition
from finepoint.engines.packing import pack_with_script
from finepoint.engines.sagemaker.cleanup import cleanup
from finepoint.engines.sagemaker.cloud import Cloud
from finepoint.engines.sagemaker.endpoints import deploy, predict, undeploy
from finepoint.engines.sagemaker.hosting import Hosting
from finepoint.engines.sagemaker.settings import SageMakerSettings
from finepoint.engines.sagemaker.training import SageMakerEngine, recordings_of
from finepoint.engines.sagemaker.transfer import pull
from finepoint.engines.spec import Channel, JobSpec, Limits
from finepoint.errors import FinepointError
from finepoint.findings import Finding

# The smallest machine that every account may use; ten minutes of it cost two cents.
_INSTANCE, _MAX_RUN = "ml.m5.large", 600
_MARK = "finepoint-live"
_TRAIN = """
import os, pathlib
words = pathlib.Path(os.environ["SM_CHANNEL_WORDS"], "words.txt").read_text()
print("finepoint-live", words, "live=0.5;", flush=True)
pathlib.Path("/opt/ml/checkpoints", "state.txt").write_text(words)
pathlib.Path(os.environ["SM_MODEL_DIR"], "words.txt").write_text(words)
"""
_SERVE = """
def model_fn(folder):
    return open(folder + "/words.txt").read()

def input_fn(body, content_type):
    return body if isinstance(body, str) else bytes(body).decode()

def predict_fn(text, model):
    return text.upper()

def output_fn(text, accept):
    return text
"""


def try_out(
    settings: SageMakerSettings,
    cloud: Cloud,
    say: Callable[[str], None] = lambda text: None,
    sleep: Callable[[float], None] = time.sleep,
) -> list[Finding]:
    """Run the smallest job and the smallest endpoint, delete them, and return what was found of each step.

    Args:
        settings: role, bucket, images and network are tried as they are; the machine is the smallest.
        cloud: the account.
        say: is told what is done.
        sleep: waits so many seconds between two looks.
    """
    name = f"live-{secrets.token_hex(3)}"
    small = replace(settings, instance_type=_INSTANCE, instance_count=1, spot=False, max_wait_seconds=0)
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        for path, text in (("data/words.txt", name), ("code/train.py", _TRAIN), ("code/inference.py", _SERVE)):
            (root / path).parent.mkdir(exist_ok=True)
            (root / path).write_text(text)
        try:
            found = _try_job(SageMakerEngine(small, cloud, run=name, sleep=sleep), name, root, say)
            if found[0].severity != "error":
                found.append(_try_endpoint(small, cloud, name, root, say, sleep))
        finally:
            removed = cleanup(name, lambda region: cloud)
    if failed := [entry for entry in removed if entry.failure]:
        words = "; ".join(f"{entry.resource.kind} {entry.resource.name}: {entry.failure}" for entry in failed)
        return [*found, Finding("Cleaned up", "error", words, remedy=f"Type `finepoint cleanup {name}`.")]
    left = [entry.resource for entry in removed if entry.was_there]
    words = "nothing is left" if not left else f"stopped or deleted {', '.join(one.name for one in left)}"
    return [*found, Finding("Cleaned up", "info", f"{words}; a few kilobytes stay in the bucket")]


def _try_job(engine: SageMakerEngine, name: str, root: Path, say: Callable[[str], None]) -> list[Finding]:
    spec = JobSpec(
        name,
        entry_point="train.py",
        source_dir=str(root / "code"),
        channels={"words": Channel(str(root / "data"))},
        limits=Limits(_MAX_RUN),
        metric_definitions=(MetricDefinition("live", "live=(.*?);"),),
    )
    folder, lines = root / "job", list[str]()
    begin = time.monotonic()
    try:
        result = engine.run_job(folder, spec, Watcher(say=say, on_line=lambda host, line: lines.append(line)))
    except FinepointError as error:
        remedy = "the message says what; quotas, the role's permissions and the image are the usual reasons"
        return [Finding("Job", "error", str(error), {"job": name}, remedy)]
    seconds = round(time.monotonic() - begin)
    found = [Finding("Job", "info", f"ran on {_INSTANCE} and came back after {seconds} s", {"seconds": seconds})]
    logged = any(_MARK in line for line in lines)
    model = folder / "model" / "words.txt"
    try:
        kept = pull(engine.cloud, recordings_of(folder)[0], root / "checkpoints").files
    except FinepointError:
        kept = 0
    for what, seen, remedy in (
        ("Log", logged, "allow logs:CreateLogGroup, CreateLogStream and PutLogEvents to the role"),
        ("Metrics", result.metrics == {"live": 0.5}, "metrics may come late; look at the job in the console"),
        ("Checkpoints", kept == 1, "allow s3:PutObject on the bucket to the role"),
        ("Model", model.is_file() and model.read_text() == name, "allow s3:PutObject on the bucket to the role"),
    ):
        words = "arrived" if seen else "did not arrive"
        found.append(Finding(what, "info" if seen else "error", words, {}, "" if seen else remedy))
    return found


def _try_endpoint(
    settings: SageMakerSettings,
    cloud: Cloud,
    name: str,
    root: Path,
    say: Callable[[str], None],
    sleep: Callable[[float], None],
) -> Finding:
    try:
        model = root / "job" / "output" / "model.tar.gz"
        package = pack_with_script(model, "inference.py", root / "code", root / "served.tar.gz")
        hosting = Hosting("serverless")
        deploy(cloud, settings, package, name, hosting=hosting, run=name, say=say, sleep=sleep)
        answer, _ = predict(cloud, name, name.encode(), "text/plain", "text/plain")
        undeploy(cloud, name, name)
    except FinepointError as error:
        return Finding("Endpoint", "error", str(error), {}, "the message says what; its log is in CloudWatch")
    if answer.decode(errors="replace") != name.upper():
        return Finding("Endpoint", "error", f"a serverless endpoint answered {answer[:80]!r}", {}, "look at its log")
    return Finding("Endpoint", "info", "a serverless endpoint was made, answered, and was deleted")
