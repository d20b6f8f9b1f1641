"""Our rules on recordings made by hand: what they are about, what they promise, and when they keep silent."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.profiler.making import NETWORK, loader, recording, samples, step, table

from finepoint.profiler.checking import judge_own
from finepoint.profiler.phases import Mode
from finepoint.profiler.rules.own_compute import (
    ChannelsLast,
    FrequentSync,
    Precision,
    RecomputedFeatures,
    SlowPython,
    ThreadOversubscription,
    TinyBatch,
)
from finepoint.profiler.rules.own_loading import DataLoaderWorkers, DecodeBound, Oversized, SlowImageFormat
from finepoint.profiler.rules.own_loop import CheckpointTooOften, EvaluationShare, HookTooHeavy
from finepoint.profiler.rules.own_machine import BusyNeighbour, IdleInstance, MemoryLeak, SwapInUse, Throttled
from finepoint.profiler.segments import Table

HEALTHY = [step(data_wait=0.001, forward=0.05, backward=0.1, optimizer=0.01, other=0.001)] * 40


def images(pixels: float, *, decode: float = 0.8, count: float = 100, **formats: float) -> Any:
    row = {"time": 1.0, "images": count, "items": count, "pixels": pixels * count, "cpu": 1.0, "decode_cpu": decode}
    row |= {"seconds": 8.0, "fetches": 20.0}
    return table([row | {f"format/{name}": value for name, value in (formats or {"JPEG": count}).items()}])


def test_nothing_fires_on_a_healthy_job() -> None:
    results = judge_own(recording(HEALTHY, facts={"loaders": [loader(workers=2)]}))
    assert [result.rule for result in results if result.fired] == []
    assert not any(result.status == "Error" for result in results)


def test_rules_on_loading_say_truly_why_they_do_not_judge_a_run_of_ours() -> None:
    rows = [row | {"loader": -1.0, "part": 4.0} for row in HEALTHY]
    for rule in (DataLoaderWorkers(), Oversized(), SlowImageFormat(), DecodeBound(), TinyBatch()):
        assert "without a DataLoader" in rule.judge(recording(rows, facts={"loaders": []})).reason
        rows_of_a_script = [row | {"loader": -1.0} for row in HEALTHY]
        assert rule.judge(recording(rows_of_a_script, facts={"loaders": []})).reason == "no DataLoader was seen"


def test_no_rule_of_steps_passes_a_job_of_a_few_steps() -> None:
    short = recording(HEALTHY[:3])
    for rule in (
        DataLoaderWorkers(),
        SlowPython(),
        CheckpointTooOften(),
        EvaluationShare(),
        HookTooHeavy(),
        TinyBatch(),
    ):
        assert rule.judge(short).reason == "too few data points: 2 training steps after the first, of 8"


def test_workers_are_predicted_to_hide_loading_behind_computing() -> None:
    rows = [step(data_wait=0.3, forward=0.1, backward=0.1, cpu=0.5)] * 20
    result = DataLoaderWorkers().judge(recording(rows))
    assert result.fired
    # Two workers load in 0.15 s what the network takes 0.2 s for; starting them twice (20 steps of 10) costs 0.12 s.
    assert result.evidence["change"] == {"num_workers": 2}
    assert result.evidence["predicted_speedup"] == pytest.approx(10 / (4 + 0.12), rel=0.01)
    assert result.evidence["amdahl_bound"] == pytest.approx(1 / 0.4)


def test_workers_promise_no_more_than_the_cores_can_do() -> None:
    rows = [step(data_wait=0.3, forward=0.2, cpu=0.7)] * 20  # the network uses two cores
    result = DataLoaderWorkers().judge(recording(rows, sampler={"usable_cores": 2}))
    # One worker would hold both threads up for the 6 s that it loads, and so gain nothing. Two share the cores with
    # threads for 6 s: in a quarter of those both run.
    assert result.evidence["change"] == {"num_workers": 2}
    assert result.evidence["predicted_speedup"] == pytest.approx(10 / (4 + 0.75 * 6 + 0.12), rel=0.02)


def test_far_more_workers_than_cores_are_too_many() -> None:
    rows = [step(data_wait=2.0 if number % 10 == 0 else 0.001, forward=0.1) for number in range(40)]
    result = DataLoaderWorkers().judge(recording(rows, facts={"loaders": [loader(workers=16)]}))
    assert result.fired
    assert result.evidence["change"] == {"num_workers": 4}
    assert result.evidence["predicted_speedup"] == pytest.approx(12.04 / (12.04 - 8 * 0.75), rel=0.01)
    assert not DataLoaderWorkers().judge(recording(rows, facts={"loaders": [loader(workers=8)]})).fired


def test_images_far_larger_than_the_crop_are_oversized() -> None:
    rows = [step(data_wait=0.3, forward=0.1)] * 20
    big = recording(rows, loading=images(12e6))
    result = Oversized().judge(big)
    assert result.fired
    assert result.evidence["pixel_ratio"] == pytest.approx(12e6 / 224**2)
    assert result.evidence["change"] == {"image_side": 320}  # 224 * 1.5, to a multiple of 32
    # Copies of 320 x 427 have 0.011 of the pixels; making a tensor of the crop takes 2.51 of an item's 10 ms as before.
    kept = 320**2 * 4 / 3 / 12e6 + 0.2509
    assert result.evidence["predicted_speedup"] == pytest.approx(8 / (2 + 6 * kept), rel=0.01)
    assert not Oversized().judge(recording(rows, loading=images(400 * 533))).fired
    assert Oversized().judge(recording(rows)).status == "NotApplicable"


def test_advice_on_loading_makes_no_loop_shorter_than_the_work_of_its_cores() -> None:
    rows = [step(data_wait=0.3, forward=0.1, cpu=0.4)] * 20
    loading = Table({**images(12e6).columns, "cpu": np.array([160.0]), "decode_cpu": np.array([128.0])})
    found = Oversized().judge(recording(rows, facts={"loaders": [loader(workers=4)]}, loading=loading))
    kept = 320**2 * 4 / 3 / 12e6 + 224**2 * 5e-8 / 1.6  # of an item's 1.6 s
    assert found.evidence["predicted_speedup"] == pytest.approx(8 / ((160 * kept + 8) / 4), rel=0.01)
    assert found.evidence["predicted_speedup"] < found.evidence["amdahl_bound"]


def test_a_large_jpeg_may_be_decoded_at_a_fraction_of_its_size_instead() -> None:
    rows = [step(data_wait=0.3, forward=0.1)] * 20
    (drafted,) = Oversized().judge(recording(rows, loading=images(12e6))).evidence["also"]
    assert drafted["change"] == {"draft_side": 320}
    # Half of the decoding, which is 0.8 of loading, stays; of the rest what the copies keep.
    kept = 0.8 * 0.5 + 0.2 * (320**2 * 4 / 3 / 12e6 + 0.2509)
    assert drafted["predicted_speedup"] == pytest.approx(8 / (2 + 6 * kept), rel=0.01)
    assert Oversized().judge(recording(rows, loading=images(12e6, PNG=100))).evidence["also"] == []


def test_the_start_of_a_pass_stays_when_loading_gets_faster() -> None:
    # A batch takes 0.4 s to load. The first of each pass is waited for 0.9 s, 0.5 s of it for the workers to start.
    rows = [step(data_wait=0.9 if number % 10 == 0 else 0.3, forward=0.1, wait_cpu=0.0) for number in range(20)]
    seen = images(2e5, decode=1.0)
    result = DecodeBound().judge(recording(rows, loading=seen, facts={"loaders": [loader(workers=2)]}))
    assert result.evidence["predicted_speedup"] == pytest.approx(9.2 / (2.0 + 2 * 0.5), rel=0.01)


def test_lossless_formats_are_slow_only_where_decoding_is_waited_for() -> None:
    rows = [step(data_wait=0.3, forward=0.1)] * 20
    assert SlowImageFormat().judge(recording(rows, loading=images(2e5, PNG=90, JPEG=10))).fired
    assert not SlowImageFormat().judge(recording(rows, loading=images(2e5, PNG=10, JPEG=90))).fired
    assert not SlowImageFormat().judge(recording(HEALTHY, loading=images(2e5, PNG=100))).fired


def test_decoding_behind_workers_gains_what_is_waited_for() -> None:
    rows = [step(data_wait=0.3, forward=0.1, wait_cpu=0.0)] * 20
    result = DecodeBound().judge(recording(rows, loading=images(2e5), facts={"loaders": [loader(workers=2)]}))
    # Loading takes 0.4 s a step, 0.1 of it hidden; without decoding 0.08 s, all hidden but for each pass's first.
    assert result.evidence["predicted_speedup"] == pytest.approx(8 / (2 + 2 * 0.3 * 0.2))
    # More than the 0.75 * 0.8 that decoding is of what is waited for: what is left of loading hides.
    assert result.evidence["amdahl_bound"] == pytest.approx(result.evidence["predicted_speedup"])


def test_computing_gets_faster_too_when_workers_leave_it_the_cores() -> None:
    # Two threads compute on what one worker leaves of two cores: each gets half a core.
    rows = [step(data_wait=0.3, forward=0.2, cpu=0.2, wait_cpu=0.0, main_cpu=0.1)] * 20
    facts = {"loaders": [loader(workers=1)], "threads": 2}
    seen = {"loading": images(2e5, decode=0.99), "sampler": {"usable_cores": 2}, "facts": facts}
    together = DecodeBound().judge(recording(rows, **seen)).evidence["predicted_speedup"]
    assert together == pytest.approx(10 / 2, rel=0.15)
    # One thread had all that it can use.
    rows = [row | {"main_cpu": 0.2} for row in rows]
    alone = DecodeBound().judge(recording(rows, **seen)).evidence["predicted_speedup"]
    assert alone == pytest.approx(10 / 4, rel=0.05)


def test_decoding_leaves_the_word_to_a_rule_that_knows_why_it_is_slow() -> None:
    rows = [step(data_wait=0.3, forward=0.1)] * 20
    beside = {"loaders": [loader(workers=1)]}
    assert DecodeBound().judge(recording(rows, loading=images(2e5), facts=beside)).fired
    assert not DecodeBound().judge(recording(rows, loading=images(12e6), facts=beside)).fired
    assert not DecodeBound().judge(recording(rows, loading=images(2e5, PNG=100), facts=beside)).fired
    assert not DecodeBound().judge(recording(rows, loading=images(2e5))).fired, "workers come first"


def test_a_frozen_backbone_is_recomputed_from_the_second_pass_on() -> None:
    rows = [step(data_wait=0.1, forward=0.3, backward=0.01)] * 40
    frozen = {"networks": [NETWORK | {"frozen_share": 0.9}]}
    result = RecomputedFeatures().judge(recording(rows, facts=frozen))
    assert result.fired
    assert result.evidence["passes"] == 4
    saved = 40 * (0.1 + 0.9 * 0.3) * 3 / 4
    assert result.evidence["predicted_speedup"] == pytest.approx(16.4 / (16.4 - saved), rel=0.01)
    assert "only 1.0 passes" in RecomputedFeatures().judge(recording(rows[:10], facts=frozen)).reason
    assert not RecomputedFeatures().judge(recording(rows)).fired


def test_a_backbone_under_no_grad_counts_as_frozen() -> None:
    rows = [step(forward=0.3, backward=0.01, frozen_forward=0.28)] * 40
    assert RecomputedFeatures().judge(recording(rows)).fired


@pytest.mark.parametrize(("rule", "name"), [(ChannelsLast(), "channels_last"), (Precision(), "bf16")])
def test_formats_are_advised_only_where_measured_faster_here(rule: Any, name: str) -> None:
    facts = {"networks": [NETWORK | {"convolutions": 5, "channels_last": False}]}
    assert rule.judge(recording(HEALTHY, facts=facts)).status == "NotApplicable"
    assert not rule.judge(recording(HEALTHY, facts=facts, speeds={name: 0.9})).fired
    # The layers take 0.12 s of the 0.15 s of forward and backward in each step of 0.162 s.
    result = rule.judge(recording(HEALTHY, facts=facts, speeds={name: 2.0, "seconds": 0.12}))
    assert result.evidence["predicted_speedup"] == pytest.approx(0.162 / (0.162 - 0.12 / 2))
    # They cannot take more than the job did.
    result = rule.judge(recording(HEALTHY, facts=facts, speeds={name: 2.0, "seconds": 0.5}))
    assert result.evidence["predicted_speedup"] == pytest.approx(0.162 / (0.162 - 0.15 / 2))
    # A network of small operations gains nothing, however fast its layers.
    assert not rule.judge(recording(HEALTHY, facts=facts, speeds={name: 4.0, "seconds": 0.002})).fired


def test_threads_beyond_the_cores_that_a_group_allows() -> None:
    limited = {"usable_cores": 64, "cpu_limit_cores": 2.0}
    result = ThreadOversubscription().judge(recording(HEALTHY, facts={"threads": 64}, sampler=limited))
    assert result.fired
    assert result.evidence["change"] == {"threads": 2}
    assert not ThreadOversubscription().judge(recording(HEALTHY)).fired


def test_threads_of_loader_workers_count_too() -> None:
    def judged(threads: float) -> Any:
        loading = table([{"time": 1.0, "fetches": 20.0, "threads": 20 * threads}])
        rows = [step(data_wait=0.3, forward=0.1)] * 20
        return ThreadOversubscription().judge(recording(rows, facts={"loaders": [loader(workers=4)]}, loading=loading))

    assert not judged(1).fired
    result = judged(4)
    assert "4 loader workers compute with 4 threads each on 4 cores" in result.meaning
    assert result.evidence["share_of_time"] == pytest.approx(0.75)


def test_reading_values_back_matters_only_with_a_gpu() -> None:
    rows = [step(forward=0.1, other=0.1, syncs=3.0, sync_seconds=0.09, gpu=0.15)] * 20
    assert FrequentSync().judge(recording(rows)).status == "NotApplicable"
    assert FrequentSync().judge(recording(rows, facts={"cuda": True})).evidence["syncs_per_step"] == 3


def test_a_sync_costs_what_the_gpu_stands_still_for_and_not_the_whole_wait() -> None:
    def judged(gpu: float) -> Any:
        rows = [step(forward=0.1, other=0.1, syncs=1.0, sync_seconds=0.09, gpu=gpu)] * 20
        return FrequentSync().judge(recording(rows, facts={"cuda": True}))

    # Of each 0.2 s the GPU computes 0.15: without the wait the host would be 0.05 ahead, and no more.
    result = judged(0.15)
    assert result.evidence["share_of_time"] == pytest.approx(0.25, rel=0.06)
    assert result.evidence["predicted_speedup"] == pytest.approx(0.2 / 0.15, rel=0.02)
    assert not judged(0.199).fired  # a wait for a GPU that is at work loses nothing


def test_waiting_for_the_gpu_is_no_slow_python() -> None:
    waiting = [step(forward=0.1, other=0.3, sync_seconds=0.29, gpu=0.38)] * 20
    assert not SlowPython().judge(recording(waiting)).fired
    beside = [step(forward=0.1, other=0.3, gpu=0.39)] * 20  # Python that the GPU computes beside costs nothing
    assert not SlowPython().judge(recording(beside)).fired
    own = [step(forward=0.1, other=0.3, sync_seconds=0.1, gpu=0.15)] * 20
    result = SlowPython().judge(recording(own))
    assert result.evidence["seconds_per_step"] == pytest.approx(0.2)


def test_no_loop_is_predicted_shorter_than_what_its_gpu_computes() -> None:
    rows = [step(data_wait=0.3, forward=0.1, cpu=0.4, gpu=0.25)] * 20
    result = DataLoaderWorkers().judge(recording(rows))
    assert result.evidence["predicted_speedup"] == pytest.approx(8 / 5, rel=0.03)


def test_the_scripts_own_code_is_slow_python() -> None:
    result = SlowPython().judge(recording([step(forward=0.1, other=0.3)] * 20))
    assert result.evidence["predicted_speedup"] == pytest.approx(4, rel=0.2)
    assert result.evidence["seconds_per_step"] == pytest.approx(0.3)


def test_a_tiny_batch_pays_each_steps_own_cost_too_often() -> None:
    rows = [step(forward=0.001, backward=0.001, optimizer=0.002)] * 50
    result = TinyBatch().judge(recording(rows, facts={"loaders": [loader(batch_size=2)]}))
    assert result.evidence["predicted_speedup"] == pytest.approx(1 / (1 - 0.5 * (1 - 2 / 64)), rel=0.03)
    assert not TinyBatch().judge(recording(rows)).fired
    # A machine of 1 GFLOPS needs 0.3 ms of the 4 ms a step for 1e5 operations forward.
    facts = {"loaders": [loader(batch_size=2)], "networks": [NETWORK | {"flops": 1e5}]}
    measured = TinyBatch().judge(recording(rows, facts=facts, speeds={"gflops": 1.0}))
    assert measured.evidence["predicted_speedup"] == pytest.approx(
        1 / (1 - 49 / 50 * (1 - (0.3 + 3.7 * 2 / 64) / 4)), rel=0.01
    )


def test_a_larger_batch_is_predicted_from_the_networks_own_layers() -> None:
    rows = [step(forward=0.004, backward=0.004, optimizer=0.002) | {"forwards": 2.0}] * 50  # the loss is a module too
    facts = {"loaders": [loader(batch_size=2)], "networks": [NETWORK | {"flops": 1e5, "calls_per_step": 1.0}]}
    speeds = {"gflops": 1000.0, "seconds": 0.003, "larger_seconds": 0.001}
    result = TinyBatch().judge(recording(rows, facts=facts, speeds=speeds))
    # Two images cost 6 ms of 10: 1 in the layers, 5 in the rest of forward and backward. 2 ms come once a step, and 2
    # are the layers' own at a small batch.
    assert result.evidence["share_of_time"] == pytest.approx(0.4 * 49 / 50)
    each = 0.006 / 2 + 0.002 / 64
    saved = 49 / 50 * (1 - each * 2 / 0.01)
    assert result.evidence["predicted_speedup"] == pytest.approx(1 / (1 - saved), rel=0.01)


def test_what_a_step_costs_by_itself_cannot_be_told_while_others_take_cores() -> None:
    rows = [step(forward=0.1, backward=0.1, optimizer=0.2)] * 50
    busy = samples(60, cpu=0.9, job_cpu=1.0)
    result = TinyBatch().judge(recording(rows, busy, facts={"loaders": [loader(batch_size=2)]}))
    assert result.status == "NotApplicable"
    assert "others kept 2.6 cores busy" in result.reason
    alone = [step(optimizer=0.4)] * 50
    assert TinyBatch().judge(recording(alone, busy, facts={"loaders": [loader(batch_size=2)]})).fired


def test_a_leak_is_steady_and_says_when_memory_runs_out() -> None:
    times = np.arange(60)
    leaking = samples(60, job_main_rss_bytes=1e9 + 20e6 * times)
    result = MemoryLeak().judge(recording([step(forward=1.0)] * 30, leaking))
    assert result.evidence["bytes_per_second"] == pytest.approx(40e6)
    assert result.evidence["seconds_left"] == pytest.approx((16 * 2**30 - 2e9) / 40e6, rel=0.02)
    small = {"memory_total_bytes": 2e9}
    full = MemoryLeak().judge(recording([step(forward=1.0)] * 30, leaking, sampler=small))
    assert full.meaning.endswith("a minute; all of it is taken.")
    filling = samples(60, job_main_rss_bytes=1e9 + 5e8 * (1 - np.exp(-times / 8)))  # an allocator's cache fills up
    assert not MemoryLeak().judge(recording([step(forward=1.0)] * 30, filling)).fired
    sawtooth = samples(60, job_main_rss_bytes=1e9 + 3e8 * (times % 6))
    assert not MemoryLeak().judge(recording([step(forward=1.0)] * 30, sawtooth)).fired
    freed = samples(60, job_main_rss_bytes=1e9 + 20e6 * np.where(times < 50, times, 60 - times))
    assert MemoryLeak().judge(recording([step(forward=1.0)] * 30, freed)).fired
    rising = samples(60, job_main_rss_bytes=1e9 + 3e6 * times)
    assert not MemoryLeak().judge(recording([step(forward=1.0)] * 30, rising)).fired
    assert MemoryLeak().judge(recording([step(forward=0.25)] * 120, rising)).fired


def test_what_others_hold_and_a_groups_limit_bring_the_end_nearer() -> None:
    def left(memory_used: float, **sampler: float) -> float:
        rising = 1e9 + 20e6 * np.arange(60)
        columns = {"job_main_rss_bytes": rising, "job_pss_bytes": rising, "memory_used_bytes": memory_used}
        made = recording([step(forward=1.0)] * 30, samples(60, **columns), sampler=sampler)
        return float(MemoryLeak().judge(made).evidence["seconds_left"])

    assert left(14e9) == pytest.approx((16 * 2**30 - 14e9) / 40e6, rel=0.01)
    assert left(2e9, memory_limit_bytes=3e9) == pytest.approx((3e9 - 2.18e9) / 40e6, rel=0.05)


def leaking(growth: Any, *, last: int = 60, pids: Any = (7, 8), loads: bool = True, seconds: float = 30.0) -> Any:
    """Judge a job whose processes beside the first hold 300 MB and `growth` of the seconds since they began."""
    times = 1000.0 + 0.5 * np.arange(last)
    children = [
        {"time": at, "pid": float(pid), "worker": 1.0, "rss_bytes": 3e8 + growth(at - 1000)}
        for at in times
        for pid in pids
    ]
    seen = [{"time": 1000.0, "pid": float(pid), "fetches": 1.0, "seconds": 0.1} for pid in pids]
    made = recording(
        [step(forward=1.0)] * int(seconds),
        samples(int(2 * seconds)),
        processes=table(children),
        loading=table(seen) if loads else Table(),
        facts={"loaders": [loader(workers=2)]},
    )
    return MemoryLeak().judge(made)


def test_workers_that_leak_are_seen_though_the_main_process_does_not() -> None:
    result = leaking(lambda age: 20e6 * age)
    assert result.evidence["bytes_per_second"] == pytest.approx(40e6)
    assert result.meaning.startswith("The memory of 2 workers of the loader grows")
    assert leaking(lambda age: 20e6 * age, pids=[7]).meaning.startswith("The memory of a worker of the loader grows")
    assert not leaking(lambda age: 5e6 * age).fired  # pages of a file that is read through
    assert not leaking(lambda age: 20e6 * age, last=40).fired  # the pass is over, and its workers with it


def test_a_process_that_imports_at_its_start_does_not_leak() -> None:
    def imports(age: float) -> float:
        return 26e6 * min(age, 20.0)

    assert not leaking(imports, last=44, seconds=22.0, loads=False).fired
    assert not leaking(lambda age: 20e6 * age, loads=False).fired  # it may import still
    assert not leaking(imports, last=240, seconds=120.0, loads=False).fired


def test_a_process_that_is_not_known_to_load_leaks_where_it_grows_for_long() -> None:
    result = leaking(lambda age: 20e6 * age, last=240, seconds=120.0, loads=False, pids=[7])
    assert result.fired
    assert result.meaning.startswith("The memory of a child process grows by 1,144 MiB a minute")
    assert "dataset" not in result.remedy
    several = leaking(lambda age: 20e6 * age, last=240, seconds=120.0, loads=False)
    assert several.meaning.startswith("The memory of 2 child processes grows")


def test_a_worker_counts_from_when_it_is_known_to_load() -> None:
    # It imports for 27 s, and then loads without keeping anything.
    rows = [
        {"time": at, "pid": 7.0, "worker": 1.0, "rss_bytes": 3e8 + 26e6 * min(at - 1000, 27.0)}
        for at in 1000.0 + 0.5 * np.arange(60)
    ]
    seen = table([{"time": 1027.0, "pid": 7.0, "fetches": 1.0, "seconds": 0.1}])
    facts = {"loaders": [loader(workers=1)]}
    made = recording([step(forward=1.0)] * 30, samples(60), processes=table(rows), loading=seen, facts=facts)
    assert not MemoryLeak().judge(made).fired


def test_a_gpus_memory_leaks_too() -> None:
    rising = samples(60, **{"gpu/0/memory_bytes": 4e9 + 1e8 * np.arange(60)})
    made = recording([step(forward=1.0)] * 30, rising, sampler={"gpus": [{"name": "a", "memory_bytes": 24e9}]})
    result = MemoryLeak().judge(made)
    assert result.evidence["bytes_per_second"] == pytest.approx(2e8)
    assert result.evidence["seconds_left"] == pytest.approx((24e9 - 4e9 - 58e8) / 2e8, rel=0.02)


def test_an_unknown_use_of_the_gpu_is_not_idleness() -> None:
    silent = samples(60, job_cpu=0.2, **{"gpu/0/utilisation": np.nan})
    result = IdleInstance().judge(recording([step(data_wait=1.0)] * 30, silent, sampler={"gpus": [{"name": "a"}]}))
    assert result.status == "NotApplicable"
    assert result.reason == "a GPU does not say how much it is used"


def test_a_throttled_group_and_a_greedy_host() -> None:
    limited = {"cpu_limit_cores": 1.0}
    held = recording(HEALTHY, samples(60, throttled_seconds=0.5), sampler=limited)
    assert Throttled().judge(held).evidence["throttled_share"] == pytest.approx(0.25, rel=0.2)
    assert Throttled().judge(recording(HEALTHY, samples(60, cpu_steal=0.2))).evidence["stolen_share"] == pytest.approx(
        0.2
    )


def test_a_gpu_whose_clock_is_held_back_names_the_reasons() -> None:
    hot = samples(60, **{"gpu/0/throttle": 0x44})
    result = Throttled().judge(recording(HEALTHY, hot, sampler={"gpus": [{"name": "a"}]}))
    assert result.evidence["devices"]["gpu0"]["reasons"] == ["power cap", "thermal slowdown (hardware)"]


def test_swapping() -> None:
    assert SwapInUse().judge(recording(HEALTHY, samples(60, swap_in_bytes_per_second=5e6))).fired
    assert not SwapInUse().judge(recording(HEALTHY)).fired


def test_neighbours_count_only_on_a_saturated_machine() -> None:
    crowded = samples(60, cpu=1.0, job_cpu=2.0)
    result = BusyNeighbour().judge(recording(HEALTHY, crowded))
    assert result.evidence["neighbours_cores"] == pytest.approx(2.0)
    assert result.evidence["share_of_time"] == pytest.approx(0.5)
    assert not BusyNeighbour().judge(recording(HEALTHY, samples(60, cpu=0.8, job_cpu=2.0))).fired


def test_an_idle_machine_is_told_from_a_crowded_one() -> None:
    long = [step(data_wait=1.0)] * 30
    assert IdleInstance().judge(recording(long, samples(60, job_cpu=0.2))).fired
    assert not IdleInstance().judge(recording(long, samples(60, job_cpu=0.2, cpu=1.0))).fired
    many = {"usable_cores": 16}  # of which one thread keeps one busy
    assert not IdleInstance().judge(recording(long, samples(60, job_cpu=1.0), sampler=many)).fired


def test_saving_at_every_step_is_too_often() -> None:
    result = CheckpointTooOften().judge(recording([step(forward=0.3, checkpoint=0.1, saves=1.0)] * 20))
    assert result.evidence["share_of_time"] == pytest.approx(0.25)
    assert "every 25 steps" in result.remedy
    few = [step(forward=0.3, checkpoint=1.0 * (number == 19), saves=float(number == 19)) for number in range(20)]
    assert not CheckpointTooOften().judge(recording(few)).fired


def test_hooks_and_evaluation_have_their_share() -> None:
    assert HookTooHeavy().judge(recording([step(forward=0.1, hook=0.01, recorded=0.01)] * 20)).fired
    assert not HookTooHeavy().judge(recording([step(forward=0.1, hook=0.01)] * 20)).fired, "the profiler's own notes"
    rows = [step(forward=0.1)] * 20 + [step(Mode.EVALUATION, data_wait=0.05, forward=0.1)] * 20
    assert EvaluationShare().judge(recording(rows)).evidence["share_of_time"] == pytest.approx(0.6)


def test_the_most_promising_finding_stands_first_and_danger_before_it() -> None:
    rows = [step(data_wait=0.02, forward=0.1, other=0.3, checkpoint=0.1, saves=1.0)] * 60
    leaking = samples(60, job_cpu=2.0, job_main_rss_bytes=1e9 + 20e6 * np.arange(60))
    fired = [result.rule for result in judge_own(recording(rows, leaking)) if result.fired]
    assert fired == ["MemoryLeak", "SlowPython", "CheckpointTooOften"]
