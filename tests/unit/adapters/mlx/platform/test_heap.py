"""Freed memory leaves the process: seen from outside, in processes of their own."""

import os
import subprocess
import sys

import pytest

_GROW_AND_FREE = """
import gc, threading
import psutil
from semanticd.adapters.mlx.platform.heap import limit_buffer_cache, return_freed_memory
told = return_freed_memory(budget_bytes=64 << 20)
import mlx.core as mx
limit_buffer_cache(4 << 20)
def work():
    held = []
    for number in range(24):
        held.append(mx.zeros((2 << 20,), mx.uint8) + number)
        mx.eval(held)
    held.clear()
work()
before = psutil.Process().memory_info().rss
for _ in range(3):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
gc.collect()
print(told, mx.get_cache_memory(), psutil.Process().memory_info().rss - before)
"""


_RESERVE_AND_TAKE = """
import resource
from semanticd.adapters.mlx.platform.heap import reserve, return_freed_memory
return_freed_memory(budget_bytes=1 << 30)
def mapped():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [bytearray(4 << 20) for _ in range(7)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, blocks
without, held = mapped()
reserve(budget_bytes=1 << 30)
after, more = mapped()
print(without, after)
"""


_LEAVE_GAPS = """
import psutil
from semanticd.adapters.mlx.platform.heap import Gaps, return_freed_memory
return_freed_memory(budget_bytes=512 << 20)
import mlx.core as mx
mx.set_cache_limit(0)
def rss():
    return psutil.Process().memory_info().rss
def made(number):
    array = mx.zeros((100_000,), mx.uint8) + number % 250
    mx.eval(array)
    return array
gaps = Gaps(budget_bytes=512 << 20)
held = [made(number) for number in range(2000)]
held = held[::2]
before = rss()
print(gaps.trim(), before - rss())
print(Gaps(budget_bytes=64 << 30).trim())
print(gaps.trim())
# They are filled and left again, which glibc's own figures do not show.
for size in (130, 600):
    more = [made(number) for number in range(size)]
    more.clear()
    before = rss()
    print(gaps.trim(), before - rss())
"""


def run(program: str = _GROW_AND_FREE, /, **env: str) -> list[str]:
    """Return the words that the program prints."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("MALLOC_") and name != "GLIBC_TUNABLES"
    }
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**inherited, **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout.split()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's heap")
def test_what_other_threads_freed_does_not_stay_with_the_process() -> None:
    told, cached, grown = run()

    assert told == "True"
    assert int(cached) <= 4 << 20
    assert int(grown) < 16 << 20


def test_who_tunes_the_heap_by_hand_is_left_alone() -> None:
    assert run(MALLOC_ARENA_MAX="3")[0] == "False"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's heap")
def test_memory_in_reserve_is_mapped_already() -> None:
    without, after = map(int, run(_RESERVE_AND_TAKE))

    assert without > 1000  # pages of 4 KiB in 28 MiB, if the system gives no larger ones
    assert after < without / 10


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's heap")
def test_gaps_between_tensors_go_back_to_the_system_while_others_are_in_use() -> None:
    trimmed, num_bytes, large, again, few, _, filled, refilled_bytes = run(_LEAVE_GAPS)
    assert trimmed == "True"
    assert int(num_bytes) > 50_000_000
    assert large == "False", "so much may be kept"
    assert again == "False", "there is nothing new"
    assert few == "False", "13 MB may be kept"
    assert filled == "True"
    assert int(refilled_bytes) > 40_000_000
