"""pool.c by Python callbacks, and by a stress program with sanitizers."""

import contextlib
import ctypes
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from ane_build import ANE, SANITIZE, program, shared_object

PART = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int)
STRESS = [
    Path(__file__).with_name("threads_stress.c"),
    *(ANE / f"{name}.c" for name in ("base", "pool", "gemm", "blas")),
]
Function = Callable[[int | None, int], object]  # of where the context is, and the part
SECONDS = 20  # after which a test that hangs gives up


class Pool:
    """A pool of threads, and parts that are Python functions."""

    def __init__(self, threads: int) -> None:
        self.lib = shared_object("base.c", "pool.c")
        self.lib.pool_new.restype = ctypes.c_void_p
        self.pool = ctypes.c_void_p(self.lib.pool_new(threads))
        self.parts: list[object] = []  # ctypes does not keep them alive

    def part(self, function: Function) -> object:
        def call(context: int | None, part: int) -> None:
            function(context, part)

        self.parts.append(PART(call))
        return self.parts[-1]

    def run(self, parts: int, function: Function) -> None:
        self.lib.pool_run(self.pool, parts, self.part(function), None)

    def behind(self, parts: int, function: Function, target: int, group: int = 0, context: bytes = b"") -> None:
        size = ctypes.c_size_t(len(context))
        self.lib.pool_behind(self.pool, parts, self.part(function), context, size, ctypes.c_void_p(target), group)

    def wait(self, group: int = -1) -> None:
        self.lib.pool_wait(self.pool, group)

    def free(self) -> None:
        self.lib.pool_free(self.pool)


@pytest.fixture(params=[1, 2, 4], ids=["1", "2", "4"])
def pool(request: pytest.FixtureRequest):
    pool = Pool(request.param)
    assert pool.lib.pool_threads(pool.pool) == request.param
    yield pool
    pool.free()


def test_each_part_of_a_loop_runs_once(pool: Pool) -> None:
    for parts in [0, 1, 2, 3, 50, 7, 1, 500, 2]:
        ran: list[int] = []
        pool.run(parts, lambda _, part, ran=ran: ran.append(part))
        assert sorted(ran) == list(range(parts))


def test_a_job_has_a_copy_of_its_context(pool: Pool) -> None:
    seen = []
    for number in range(20):
        pool.behind(2, lambda context, _: seen.append(ctypes.string_at(context, 3)), 1, context=b"a%02d" % number)
    pool.wait()
    assert seen == [b"a%02d" % (i // 2) for i in range(40)]


def test_jobs_with_one_target_run_in_order(pool: Pool) -> None:
    ran: list[tuple[int, int]] = []
    for job in range(60):
        pool.behind(1 + job % 3, lambda _, part, job=job: ran.append((job % 4, job)), 8 + job % 4, group=job % 2)
        if job % 10 == 0:
            pool.run(3, lambda _, part: None)
    pool.wait()
    assert len(ran) == sum(1 + job % 3 for job in range(60))
    for target in range(4):
        jobs = [job for t, job in ran if t == target]
        assert jobs == sorted(jobs)


def test_waiting_for_a_group_is_for_what_comes_before_it_too(pool: Pool) -> None:
    ran = []
    pool.behind(2, lambda _, part: ran.append("before"), 1, group=0)
    pool.behind(2, lambda _, part: ran.append("after"), 1, group=1)
    pool.wait(1)
    assert ran == ["before"] * 2 + ["after"] * 2
    pool.wait(5)  # a group without jobs


def test_with_one_thread_a_wait_does_its_group_first() -> None:
    pool = Pool(1)
    ran = []
    pool.behind(1, lambda _, part: ran.append("other"), 1, group=0)
    pool.behind(1, lambda _, part: ran.append("this"), 2, group=1)
    assert ran == []
    pool.wait(1)
    assert ran == ["this"]
    pool.free()
    assert ran == ["this", "other"]


def test_the_queue_is_bounded() -> None:
    pool = Pool(1)
    ran: list[int] = []
    for job in range(1000):
        pool.behind(1, lambda _, part, job=job: ran.append(job), job)
        assert len(ran) >= job + 1 - 128
    pool.free()
    assert ran == list(range(1000))


def test_a_loop_does_not_wait_for_a_job_behind() -> None:
    pool = Pool(2)
    begun, go_on, found = threading.Event(), threading.Event(), []

    def job(context: int | None, part: int) -> None:
        begun.set()
        found.append(go_on.wait(SECONDS))

    pool.behind(1, job, 1)
    assert begun.wait(SECONDS)  # by the other thread
    ran = []
    for _ in range(5):
        pool.run(4, lambda _, part: ran.append(part))
    go_on.set()
    pool.wait()
    pool.free()
    assert (ran, found) == ([0, 1, 2, 3] * 5, [True])


def test_threads_that_sleep_are_woken() -> None:
    pool = Pool(3)
    for _ in range(20):
        threading.Event().wait(0.01)  # longer than a thread looks for work
        together, met = threading.Barrier(3), []

        def meet(context: int | None, part: int, together: threading.Barrier = together, met: list = met) -> None:
            with contextlib.suppress(threading.BrokenBarrierError):
                met.append(together.wait(SECONDS))  # until all three threads are there

        pool.run(3, meet)
        assert sorted(met) == [0, 1, 2]
        threading.Event().wait(0.01)
        begun = threading.Event()
        pool.behind(1, lambda _, part, begun=begun: begun.set(), 1)
        assert begun.wait(SECONDS)
    pool.free()


REFUSED = """
import ctypes, resource, sys
pool = ctypes.CDLL(sys.argv[1])
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
pool.pool_new(int(sys.argv[2]))
"""


@pytest.mark.parametrize(
    ("threads", "words"), [("0", "a pool needs at least one thread, not 0"), ("1000", "the system gives no more than")]
)
def test_threads_that_are_not_to_be_had_are_a_sentence(threads: str, words: str) -> None:
    command = [sys.executable, "-c", REFUSED, shared_object("base.c", "pool.c")._name, threads]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith(words) and done.stderr.count("\n") == 1


def stress(made: Path, threads: int, rounds: int) -> None:
    done = subprocess.run(
        [str(made), str(threads), str(rounds), str(threads)], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2, 3, 5])
def test_random_loops_jobs_and_products(threads: int) -> None:
    stress(program(*STRESS), threads, 5000)


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2, 4])
def test_the_same_with_checks_of_memory_and_arithmetic(threads: int) -> None:
    stress(program(*STRESS, sanitize=True), threads, 2000)


@pytest.mark.slow
@pytest.mark.parametrize("threads", [2, 4])
def test_the_same_with_checks_for_races(threads: int) -> None:
    flags = [flag for flag in SANITIZE if not flag.startswith("-fsanitize")] + ["-fsanitize=thread"]
    stress(program(*STRESS, flags=flags), threads, 2000)
