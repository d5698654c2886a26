"""A function over many items in several processes, in order; an item that brings its process down costs only itself.

Decoders are written in C, and files come from anywhere: a crash at hour ten must not be the end.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import get_context, parent_process
from threading import Thread
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
    pool = process_pool(processes)
    try:
        while True:
            while len(waiting) < processes * AHEAD and (chunk := list(islice(items, CHUNK))):
                try:
                    future = pool.submit(_all, function, chunk)
                except BrokenProcessPool:
                    pool = process_pool(processes)
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


def process_pool(processes: int) -> ProcessPoolExecutor:
    """A pool of fresh processes (a fork would copy the threads' locks) that end with this one, however it ends.

    Otherwise a worker whose parent was killed finishes its item and writes its result, perhaps while a second run is at it.
    """
    return ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=_end_with_parent)


def _one_by_one(
    function: Callable[[Item], Result], items: list[Item], crashed: Callable[[Item], Result]
) -> Iterator[Result]:
    pool = process_pool(1)
    try:
        for item in items:
            try:
                yield pool.submit(function, item).result()
            except BrokenProcessPool:
                yield crashed(item)
                pool = process_pool(1)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _all(function: Callable[[Item], Result], items: list[Item]) -> list[Result]:
    return [function(item) for item in items]


def _end_with_parent() -> None:
    Thread(target=_wait_and_end, daemon=True).start()


def _wait_and_end() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)
