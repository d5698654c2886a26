"""Order, results and survivors of work in several processes."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from itertools import count, islice

import pytest

from training.data.parallel import AHEAD, CHUNK, each


class Killer:
    """Ends the process that receives it, as a crash in a decoder would."""

    def __reduce__(self) -> tuple[object, tuple[int]]:
        return os._exit, (1,)


@pytest.mark.parametrize("processes", [1, 2])
def test_results_come_in_the_items_order(processes: int) -> None:
    squares = each(math.sqrt, (n * n for n in range(5 * CHUNK)), processes, crashed=math.sqrt)
    assert list(squares) == list(range(5 * CHUNK))


def test_item_that_kills_its_process_costs_only_itself() -> None:
    items: list[object] = list(range(2 * CHUNK + 3))
    items[5] = items[CHUNK + 1] = Killer()
    results = list(each(str, items, 2, crashed=lambda item: "crashed"))
    expected = [str(n) for n in range(2 * CHUNK + 3)]
    expected[5] = expected[CHUNK + 1] = "crashed"
    assert results == expected


def test_endless_items_are_read_only_as_fast_as_they_are_used() -> None:
    asked: list[int] = []
    numbers = (asked.append(n) or n for n in count())
    results = each(abs, numbers, 2, crashed=abs)
    assert list(islice(results, 3)) == [0, 1, 2]
    assert len(asked) <= 2 * AHEAD * CHUNK
    results.close()


def test_processes_end_with_the_one_that_began_them() -> None:
    """A parent that is killed while its worker sleeps: the worker does not outlive it."""
    program = (
        "import os, sys, time\n"
        "from training.data.parallel import process_pool\n"
        "if __name__ == '__main__':\n"
        "    pool = process_pool(1)\n"
        "    print(pool.submit(os.getpid).result(), flush=True)\n"
        "    pool.submit(time.sleep, 60).result()\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 20
    while _is_alive(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _is_alive(worker)


def _is_alive(process: int) -> bool:
    """Not a zombie either: who reaps orphans is the machine's business."""
    done = subprocess.run(["ps", "-o", "stat=", "-p", str(process)], capture_output=True, text=True)
    return done.stdout.strip() != "" and not done.stdout.startswith("Z")
