"""How a job died, from its exit code, its control group and the kernel's record."""

from __future__ import annotations

from pathlib import Path

from finepoint.profiler.ending import judge_ending, kernel_record, killed_for_memory

RECORD = [
    "6,800,2500000,-;oom-kill:constraint=CONSTRAINT_MEMCG,task=python,pid=4242,uid=0",
    "3,801,2500100,-;Memory cgroup out of memory: Killed process 4242 (python) total-vm:9kB, anon-rss:8kB",
    "3,802,90000000,-;Out of memory: Killed process 77 (python) total-vm:9kB",
]


def test_the_kernels_record_names_its_victims_since_the_job_began() -> None:
    assert killed_for_memory(RECORD) == [4242, 77]
    assert killed_for_memory(RECORD, since=80.0) == [77]


def test_a_worker_that_the_kernel_killed_makes_the_job_out_of_memory_whatever_its_exit_code() -> None:
    ending = judge_ending(1, killed_by_kernel=[4242], pids={4000, 4242})
    assert ending.kind == "out of memory"
    assert "4242" in ending.sentence


def test_another_jobs_victim_is_not_ours() -> None:
    assert judge_ending(-9, killed_by_kernel=[4242], pids={4000}).kind == "signal"


def test_the_control_groups_counter_is_evidence_where_the_record_may_not_be_read() -> None:
    ending = judge_ending(-9, memory_kills=1, memory_limit=512 * 2**20)
    assert ending.kind == "out of memory"
    assert "512 MiB" in ending.sentence


def test_a_neighbours_kill_in_the_same_group_does_not_make_a_good_end_bad() -> None:
    assert judge_ending(0, memory_kills=1).kind == "completed"


def test_a_hang_is_told_beside_what_ended_it() -> None:
    ending = judge_ending(-15, hung_seconds=90)
    assert (ending.kind, ending.signal, ending.hung_seconds) == ("signal", "SIGTERM", 90)
    assert "it hung" in ending.sentence


def test_nobody_saw_the_exit_code_is_not_a_good_end() -> None:
    assert judge_ending(None).kind == "unknown"


def test_a_record_that_may_not_be_read_is_empty(tmp_path: Path) -> None:
    assert kernel_record(tmp_path / "kmsg") == []
