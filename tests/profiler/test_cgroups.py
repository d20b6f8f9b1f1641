"""Limits and counters of both versions of control groups."""

from __future__ import annotations

from pathlib import Path

from finepoint.profiler.cgroups import ControlGroup, control_group_of


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def group(tmp_path: Path, membership: str, files: dict[str, str]) -> ControlGroup:
    write(tmp_path, {"proc/7/cgroup": membership, **{f"fs/{name}": text for name, text in files.items()}})
    return control_group_of(7, root=tmp_path / "fs", proc=tmp_path / "proc")


def test_version_2_takes_the_tightest_limit_on_the_way_up(tmp_path: Path) -> None:
    found = group(
        tmp_path,
        "0::/jobs/one\n",
        {
            "jobs/cpu.max": "150000 100000\n",
            "jobs/one/cpu.max": "max 100000\n",
            "jobs/one/memory.max": "1073741824\n",
            "jobs/memory.max": "max\n",
            "jobs/one/cpu.stat": "usage_usec 5\nnr_throttled 3\nthrottled_usec 2500000\n",
            "jobs/one/memory.events": "low 0\noom 1\noom_kill 2\n",
        },
    )
    assert found.cpu_limit() == 1.5
    assert found.memory_limit() == 2**30
    assert found.throttled_seconds() == 2.5
    assert found.memory_kills() == 2


def test_version_1_has_a_folder_for_each_controller(tmp_path: Path) -> None:
    found = group(
        tmp_path,
        "5:memory:/box\n2:cpu,cpuacct:/\n",
        {
            "cpu/cpu.cfs_quota_us": "-1\n",
            "cpu/cpu.cfs_period_us": "100000\n",
            "cpu/cpu.stat": "nr_throttled 0\nthrottled_time 500000000\n",
            "memory/memory.limit_in_bytes": "9223372036854771712\n",
            "memory/box/memory.limit_in_bytes": "536870912\n",
            "memory/box/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n",
        },
    )
    assert found.within_root
    assert found.cpu_limit() is None
    assert found.memory_limit() == 512 * 2**20
    assert found.throttled_seconds() == 0.5
    assert found.memory_kills() == 1


def test_a_container_that_shows_the_hosts_name_is_read_at_its_own_root(tmp_path: Path) -> None:
    found = group(tmp_path, "0::/host/name/of/it\n", {"cpu.max": "50000 100000\n"})
    assert found.cpu_limit() == 0.5


def test_a_system_without_control_groups_limits_nothing(tmp_path: Path) -> None:
    found = control_group_of(7, root=tmp_path, proc=tmp_path)
    assert (found.cpu_limit(), found.memory_limit(), found.throttled_seconds(), found.memory_kills()) == (
        None,
        None,
        0,
        0,
    )
