from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import psutil

from finepoint.engines.jobs import stop
from finepoint.engines.records import JobFolder
from finepoint.engines.spec import JobSpec
from finepoint.files import write_json


def test_a_job_that_is_being_started_is_stopped_by_its_supervisor_and_not_by_who_starts_it(tmp_path: Path) -> None:
    (tmp_path / "train.py").touch()
    job, stopped = JobFolder(tmp_path), []
    job.begin(JobSpec("job", entry_point="train.py", source_dir=str(tmp_path / "train.py")), starting=True)
    asking = threading.Thread(target=lambda: stopped.append(stop(job)))
    asking.start()  # this process is the one on record now
    supervisor = subprocess.Popen([sys.executable, "-c", "import threading; threading.Event().wait()"])
    started = psutil.Process(supervisor.pid).create_time()
    write_json(job.record, {**job.read(), "starting": False, "pid": supervisor.pid, "process_started": started})
    asking.join()
    assert supervisor.wait() == -signal.SIGTERM
    record: dict[str, Any] = stopped[0]
    assert (record["status"], record["failure"]) == ("Stopped", "stopped on request")
