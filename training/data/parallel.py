"""A function over many items in several processes, in order; an item that brings its process down costs only itself.

Decoders are written in C, and files come from anywhere: a crash at hour ten must not be the end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import get_context
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
CHUNK = 16  # items a process gets at once
AHEAD = 4  # chunks a process has waiting, so that an endless iterable is read only as fast as it is worked through


def each(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    processes: int,
    crashed: Callable[[Item], Result],
) -> Iterator[Result]:
    """`function` of every item, in the items' order; `crashed` of the items whose process died.

    With one process everything happens in this one, which a crash then ends. Exceptions of `function` are raised here.
    """
    if processes == 1:
        yield from map(function, items)
        return
    items = iter(items)
    waiting: deque[tuple[list[Item], Future[list[Result]]]] = deque()
    pool = _pool(processes)
    try:
        while True:
            while len(waiting) < processes * AHEAD and (chunk := list(islice(items, CHUNK))):
                try:
                    future = pool.submit(_all, function, chunk)
                except BrokenProcessPool:
                    pool = _pool(processes)
                    future = pool.submit(_all, function, chunk)
                waiting.append((chunk, future))
            if not waiting:
                return
            chunk, future = waiting.popleft()
            try:
                yield from future.result()
            except BrokenProcessPool:  # which item did it is not known, nor which of several chunks
                yield from _one_by_one(function, chunk, crashed)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _one_by_one(
    function: Callable[[Item], Result], items: list[Item], crashed: Callable[[Item], Result]
) -> Iterator[Result]:
    pool = _pool(1)
    try:
        for item in items:
            try:
                yield pool.submit(function, item).result()
            except BrokenProcessPool:
                yield crashed(item)
                pool = _pool(1)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _all(function: Callable[[Item], Result], items: list[Item]) -> list[Result]:
    return [function(item) for item in items]


def _pool(processes: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(processes, mp_context=get_context("spawn"))  # a fork copies the threads' locks
