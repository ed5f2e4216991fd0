"""The scheduler: each call is done once, whatever fails, with few files open at a time."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from functools import partial

import pytest

from colab_helpers.batch.report import FileReport
from colab_helpers.batch.scheduler import Call, FilePlan, Scheduler

Plan = partial(FilePlan, segments=3)


def all_done(schedule: Scheduler, plan_of: Callable[[int], FilePlan], workers: int) -> list[Call]:
    """Let workers do all calls in turn; return them in order."""
    done: list[Call] = []
    while not schedule.is_done:
        calls = [(w, call) for w in range(workers) if (call := schedule.next(w)) is not None]
        assert calls, "no worker has a call, but calls are left"
        for worker, call in calls:
            assert schedule.done(worker, plan_of(call.index) if call.kind == "prepare" else None) == call
            done.append(call)
    return done


def prepared(plan: FilePlan, worker: str, *, files: int = 1) -> Scheduler:
    """A schedule whose first file a worker has prepared."""
    schedule = Scheduler(range(files))
    assert schedule.next(worker) == Call("prepare", 0)
    schedule.done(worker, plan)
    return schedule


def test_one_worker_does_the_segments_of_each_file_in_order() -> None:
    order = [("prepare", -1), ("segment", 0), ("segment", 1), ("segment", 2), ("finish", -1)]
    done = all_done(Scheduler([1, 0]), lambda _: Plan(), 1)
    assert [(call.index, call.kind, call.number) for call in done] == [
        (n, *one) for n in (1, 0) for one in order
    ]


@pytest.mark.parametrize(
    ("plan", "then"),
    [
        (Plan(segments=0), [Call("whole", 0)]),
        (Plan(report=FileReport(target="/t.mp4", status="done")), []),
        (Plan(segments=2, finished=(0, 1)), [Call("finish", 0)]),
        (Plan(segments=3, finished=(1,)), [Call("segment", 0, 0), Call("segment", 0, 2), Call("finish", 0)]),
    ],
)
def test_only_missing_segments_are_done(plan: FilePlan, then: list[Call]) -> None:
    assert all_done(Scheduler([0]), lambda _: plan, 1) == [Call("prepare", 0), *then]


def test_batch_without_files_is_done() -> None:
    assert Scheduler([]).is_done


def test_worker_has_one_call_at_a_time() -> None:
    schedule = Scheduler([0, 1])
    schedule.next("a")
    with pytest.raises(ValueError, match="prepare"):
        schedule.next("a")


def test_workers_stay_with_their_video_until_it_has_no_free_segment() -> None:
    schedule = prepared(Plan(), "a", files=2)
    assert schedule.next("a") == Call("segment", 0, 0)
    assert schedule.next("b") == Call("segment", 0, 2), "a started video comes before another"
    assert schedule.next("c") == Call("segment", 0, 1)
    assert schedule.next("d") == Call("prepare", 1), "instead of idling"
    schedule.done("d", Plan())
    schedule.done("b")
    assert schedule.next("d") == Call("segment", 1, 0), "its own"
    assert schedule.next("b") == Call("segment", 1, 2), "its own has no free segment"
    schedule.done("a")
    schedule.done("c")
    assert schedule.next("c") == Call("finish", 0), "as soon as all segments are done"
    assert schedule.next("a") == Call("segment", 1, 1)
    assert schedule.next("e") is None
    assert not schedule.is_done


def test_call_of_a_dead_worker_is_reassigned_and_its_result_ignored() -> None:
    schedule = prepared(Plan(), "a")
    schedule.next("a")
    schedule.died("a")
    assert schedule.next("b") == Call("segment", 0, 0)
    assert schedule.done("a") is None, "it counts as dead: another worker does it"
    schedule.died("idle")
    assert schedule.done("b") == Call("segment", 0, 0)
    assert sorted(call.number for call in all_done(schedule, lambda _: Plan(), 1)) == [-1, 1, 2]


@pytest.mark.parametrize("kind", ["prepare", "segment", "finish", "whole"])
def test_call_of_a_dead_worker_is_repeated_with_its_death_count(kind: str) -> None:
    schedule, plan, deaths = Scheduler([0]), Plan(segments=0 if kind == "whole" else 1), []
    for n in range(100):
        call = schedule.next(n)
        if call is None:
            break
        if call.kind == kind and len(deaths) < 4:
            deaths.append(schedule.deaths(call))
            schedule.died(n)
        else:
            schedule.done(n, plan if call.kind == "prepare" else None)
    assert deaths == [0, 1, 2, 3]
    assert schedule.is_done


def test_deaths_are_counted_per_segment() -> None:
    schedule = prepared(Plan(), "a")
    for number in range(3):
        call = schedule.next("a")
        for _ in range(2):
            schedule.died("a")
            assert schedule.next("a") == call, "a segment on which a worker died comes first"
        assert call == Call("segment", 0, number)
        schedule.done("a")
    assert schedule.next("a") == Call("finish", 0)


def test_failed_file_drops_its_remaining_segments() -> None:
    schedule = prepared(Plan(), "a", files=2)
    schedule.next("a")
    schedule.next("b")
    assert schedule.failed("a") == Call("segment", 0, 0)
    assert schedule.next("a") == Call("prepare", 1)
    assert schedule.failed("b") is None
    assert schedule.failed("a") == Call("prepare", 1)
    assert schedule.is_done


def test_schedule_is_done_only_when_no_worker_is_busy() -> None:
    schedule = prepared(Plan(segments=2), "a")
    schedule.next("a")
    schedule.next("b")
    schedule.failed("a")
    assert not schedule.is_done, "b is still writing"
    assert schedule.done("b") is None
    assert schedule.is_done


def test_random_deaths_repeat_no_call_and_few_files_are_open() -> None:
    """A thousand files; one in ten calls kills its worker, and calls end in random order."""
    rng, files, workers = random.Random(4), 1000, 8
    schedule, done = Scheduler(range(files)), Counter[Call]()
    running: dict[int, Call] = {}
    names = iter(range(10**6))
    pool = [next(names) for _ in range(workers)]
    most = 0
    while not schedule.is_done:
        for worker in pool:
            if worker not in running and (call := schedule.next(worker)) is not None:
                running[worker] = call
        worker = rng.choice(list(running))
        call = running.pop(worker)
        if rng.random() < 0.1:
            schedule.died(worker)
            pool[pool.index(worker)] = next(names)
        else:
            done[call] += 1
            schedule.done(worker, Plan() if call.kind == "prepare" else None)
        most = max(most, len(schedule._open))
    assert set(done.values()) == {1}
    assert len(done) == files * 5
    assert most <= workers + 1
    left = (schedule._open, schedule._ready, schedule._running, schedule._deaths)
    assert not any(left), "no state of finished files is kept"
    assert len(schedule._last_call) <= workers


def test_worker_continues_its_segments_and_helper_starts_half_way() -> None:
    schedule, done = prepared(Plan(segments=9), "a"), dict[str, list[int]](a=[], b=[])
    for worker in "ab" * 5:
        if (call := schedule.next(worker)) is not None and call.kind == "segment":
            assert schedule.has_successor(call) == (call.number not in (4, 8))
            done[worker].append(call.number)
            schedule.done(worker)
    assert done == {"a": [0, 1, 2, 3, 4], "b": [5, 6, 7, 8]}


@pytest.mark.parametrize(
    ("sizes", "workers", "kinds"),
    [
        ([5, 4, 6, 7], "abcd", "whole whole prepare prepare"),
        ([5, 4, 6, 7], "ab", "whole whole whole prepare"),
        ([9, 1, 2], "ab", "prepare whole prepare"),  # no worker would be free to help with 9 and 2
        ([9, 1, 2], "a", "whole whole whole"),
    ],
)
def test_files_are_done_whole_if_waiting_files_keep_workers_busy(sizes, workers, kinds) -> None:
    schedule, found = Scheduler(range(len(sizes)), sizes=dict(enumerate(sizes))), list[str]()
    for worker in (workers * len(sizes))[: len(sizes)]:
        call = schedule.next(worker, worker_count=len(workers))
        assert call is not None
        found.append(call.kind)
        schedule.done(worker, Plan(report=FileReport(target="/t.mp4", status="done")))
    assert found == kinds.split()


def test_file_that_makes_progress_is_not_given_up() -> None:
    schedule = Scheduler([0])
    schedule.next("a", worker_count=1)
    for _ in range(4):
        schedule.died("a")
        call = schedule.next("a", worker_count=1)
        assert call == Call("whole", 0)
        schedule.note_progress("a")
        assert schedule.deaths(call) == 0


def test_files_of_equal_size_are_never_open_together() -> None:
    schedule, open_now = Scheduler(range(4), sizes={0: 5, 1: 6, 2: 5, 3: 6}), set[int]()
    together = set[frozenset[int]]()
    while not schedule.is_done:
        calls = [(w, call) for w in range(3) if (call := schedule.next(w)) is not None]
        open_now |= {call.index for _, call in calls}
        together.add(frozenset(open_now))
        for worker, call in calls:
            schedule.done(worker, Plan(segments=2) if call.kind == "prepare" else None)
            open_now -= {call.index} if call.kind in ("finish", "whole") else set()
    assert not [files for files in together if files >= {0, 2} or files >= {1, 3}]
    assert frozenset({0, 1}) in together


def test_pictures_of_equal_size_keep_all_workers_busy() -> None:
    schedule = Scheduler(range(4), sizes=dict.fromkeys(range(4), 0))
    assert [schedule.next(worker, worker_count=3) for worker in "abc"] == [Call("whole", n) for n in range(3)]
