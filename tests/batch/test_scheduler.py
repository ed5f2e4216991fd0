"""The scheduler alone: every call once, whatever dies or fails, and few files open at a time."""

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
    """Let workers do everything, in turn; return what was done, in order."""
    done: list[Call] = []
    while not schedule.is_done:
        given = [(w, call) for w in range(workers) if (call := schedule.next(w)) is not None]
        assert given, "nobody has anything to do, and it is not over"
        for worker, call in given:
            assert schedule.done(worker, plan_of(call.index) if call.kind == "prepare" else None) == call
            done.append(call)
    return done


def begun(plan: FilePlan, worker: str, *, files: int = 1) -> Scheduler:
    """A schedule whose first file is prepared, by a worker."""
    schedule = Scheduler(range(files))
    assert schedule.next(worker) == Call("prepare", 0)
    schedule.done(worker, plan)
    return schedule


def test_one_worker_does_each_file_from_first_to_last_segment() -> None:
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
def test_only_what_is_missing_is_done(plan: FilePlan, then: list[Call]) -> None:
    assert all_done(Scheduler([0]), lambda _: plan, 1) == [Call("prepare", 0), *then]


def test_a_batch_without_files_is_over() -> None:
    assert Scheduler([]).is_done


def test_a_worker_has_one_call_at_a_time() -> None:
    schedule = Scheduler([0, 1])
    schedule.next("a")
    with pytest.raises(ValueError, match="prepare"):
        schedule.next("a")


def test_workers_keep_to_their_videos_and_help_only_before_idling() -> None:
    schedule = begun(Plan(), "a", files=2)
    assert schedule.next("a") == Call("segment", 0, 0)
    assert schedule.next("b") == Call("segment", 0, 2), "a begun video comes before another"
    assert schedule.next("c") == Call("segment", 0, 1)
    assert schedule.next("d") == Call("prepare", 1), "before it would idle"
    schedule.done("d", Plan())
    schedule.done("b")
    assert schedule.next("d") == Call("segment", 1, 0), "its own"
    assert schedule.next("b") == Call("segment", 1, 2), "its own has none left"
    schedule.done("a")
    schedule.done("c")
    assert schedule.next("c") == Call("finish", 0), "as soon as all segments are there"
    assert schedule.next("a") == Call("segment", 1, 1)
    assert schedule.next("e") is None
    assert not schedule.is_done


def test_the_call_of_a_dead_worker_is_done_by_the_next_and_its_own_news_counts_no_longer() -> None:
    schedule = begun(Plan(), "a")
    schedule.next("a")
    schedule.died("a")
    assert schedule.next("b") == Call("segment", 0, 0)
    assert schedule.done("a") is None, "taken for dead: another does it"
    schedule.died("idle")
    assert schedule.done("b") == Call("segment", 0, 0)
    assert sorted(call.number for call in all_done(schedule, lambda _: Plan(), 1)) == [-1, 1, 2]


@pytest.mark.parametrize("kind", ["prepare", "segment", "finish", "whole"])
def test_what_a_worker_died_of_is_given_out_again_and_its_deaths_are_told(kind: str) -> None:
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


def test_deaths_are_counted_for_each_segment_by_itself() -> None:
    schedule = begun(Plan(), "a")
    for number in range(3):
        call = schedule.next("a")
        for _ in range(2):
            schedule.died("a")
            assert schedule.next("a") == call, "the segment of which somebody died comes first"
        assert call == Call("segment", 0, number)
        schedule.done("a")
    assert schedule.next("a") == Call("finish", 0)


def test_a_file_fails_once_and_takes_the_rest_of_its_segments_with_it() -> None:
    schedule = begun(Plan(), "a", files=2)
    schedule.next("a")
    schedule.next("b")
    assert schedule.failed("a") == Call("segment", 0, 0)
    assert schedule.next("a") == Call("prepare", 1)
    assert schedule.failed("b") is None
    assert schedule.failed("a") == Call("prepare", 1)
    assert schedule.is_done


def test_nobody_is_at_anything_when_it_is_over() -> None:
    schedule = begun(Plan(segments=2), "a")
    schedule.next("a")
    schedule.next("b")
    schedule.failed("a")
    assert not schedule.is_done, "b still writes"
    assert schedule.done("b") is None
    assert schedule.is_done


def test_whatever_dies_everything_is_done_once_and_few_files_are_open() -> None:
    """A thousand files on workers of which one in ten calls dies, in any order of their news."""
    dice, files, workers = random.Random(4), 1000, 8
    schedule, done = Scheduler(range(files)), Counter[Call]()
    flying: dict[int, Call] = {}
    names = iter(range(10**6))
    pool = [next(names) for _ in range(workers)]
    most = 0
    while not schedule.is_done:
        for worker in pool:
            if worker not in flying and (call := schedule.next(worker)) is not None:
                flying[worker] = call
        worker = dice.choice(list(flying))
        call = flying.pop(worker)
        if dice.random() < 0.1:
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
    assert not any(left), "nothing is kept of what is over"
    assert len(schedule._last_call) <= workers


def test_each_worker_goes_on_behind_its_own_segment_and_helpers_begin_half_way() -> None:
    schedule, done = begun(Plan(segments=9), "a"), dict[str, list[int]](a=[], b=[])
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
        ([9, 1, 2], "ab", "prepare whole prepare"),  # nobody would help with 9, and with 2
        ([9, 1, 2], "a", "whole whole whole"),
    ],
)
def test_files_go_whole_where_those_that_wait_keep_the_others_at_work(
    sizes: list[int], workers: str, kinds: str
) -> None:
    schedule, found = Scheduler(range(len(sizes)), sizes=dict(enumerate(sizes))), list[str]()
    for worker in (workers * len(sizes))[: len(sizes)]:
        call = schedule.next(worker, worker_count=len(workers))
        assert call is not None
        found.append(call.kind)
        schedule.done(worker, Plan(report=FileReport(target="/t.mp4", status="done")))
    assert found == kinds.split()


def test_one_that_gets_on_is_not_given_up() -> None:
    schedule = Scheduler([0])
    schedule.next("a", worker_count=1)
    for _ in range(4):
        schedule.died("a")
        call = schedule.next("a", worker_count=1)
        assert call == Call("whole", 0)
        schedule.note_progress("a")
        assert schedule.deaths(call) == 0


def test_files_of_one_size_are_never_open_together() -> None:
    schedule, open_now = Scheduler(range(4), sizes={0: 5, 1: 6, 2: 5, 3: 6}), set[int]()
    together = set[frozenset[int]]()
    while not schedule.is_done:
        given = [(w, call) for w in range(3) if (call := schedule.next(w)) is not None]
        open_now |= {call.index for _, call in given}
        together.add(frozenset(open_now))
        for worker, call in given:
            schedule.done(worker, Plan(segments=2) if call.kind == "prepare" else None)
            open_now -= {call.index} if call.kind in ("finish", "whole") else set()
    assert not [files for files in together if files >= {0, 2} or files >= {1, 3}]
    assert frozenset({0, 1}) in together


def test_pictures_of_one_size_keep_all_at_work() -> None:
    schedule = Scheduler(range(4), sizes=dict.fromkeys(range(4), 0))
    assert [schedule.next(worker, worker_count=3) for worker in "abc"] == [Call("whole", n) for n in range(3)]
