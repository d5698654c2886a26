"""Remembers what encoders gave: the same photo with new words need not be read again.

A result is found by everything that determines it (the network's name and the SHA-256 of its inputs) and by whom it was made for:
how fast an answer comes must not tell one tenant what another one sends. One cache belongs to one opened bundle. Networks compute
a row from its inputs alone and give the same bits for the same call, so an answer with the cache equals the one without.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

DEFAULT_BYTES = 16 * 2**20  # some 7,000 photos or voices of the demo bundle
ENTRY_BYTES = 512  # beside the arrays: key, names, headers

Arrays = Mapping[str, np.ndarray]


class CacheObserver(Protocol):
    """Hears of every look-up, by the encoder's name."""

    def hit(self, encoder: str) -> None: ...

    def miss(self, encoder: str) -> None: ...


@dataclass(frozen=True)
class CacheStats:
    """Look-ups since the start, entries thrown out to make room, and what is held now."""

    hits: int = 0
    misses: int = 0
    evictions: int = 0
    entries: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class FeatureKey:
    """What one result is found by. `digest` is of the inputs' names, types, shapes and values."""

    tenant: str
    encoder: str
    digest: bytes

    @classmethod
    def of(cls, tenant: str, encoder: str, inputs: Arrays) -> FeatureKey:
        digest = hashlib.sha256()
        for name, array in sorted(inputs.items()):
            digest.update(f"{name} {array.dtype.str} {array.shape} ".encode())
            digest.update(np.ascontiguousarray(array).data)
        return cls(tenant, encoder, digest.digest())


class FeatureCache:
    """At most `max_bytes` of results, the least recently used thrown out first; 0 remembers nothing. Usable from many threads."""

    def __init__(self, max_bytes: int = DEFAULT_BYTES, observer: CacheObserver | None = None) -> None:
        if max_bytes < 0:
            raise ValueError(f"max_bytes is {max_bytes}; it must be 0 (off) or more")
        self.max_bytes = max_bytes
        self._observer = observer
        self._lock = threading.Lock()
        self._entries: OrderedDict[FeatureKey, Arrays] = OrderedDict()
        self._stats = CacheStats()

    @property
    def stats(self) -> CacheStats:
        with self._lock:
            return self._stats

    def recall(self, tenant: str, encoder: str, inputs: Arrays, compute: Callable[[], Arrays]) -> tuple[Arrays, bool]:
        """The encoder's outputs for these inputs, read-only, and whether they were remembered; `compute` makes them if not.

        What `compute` raises is raised, and nothing is remembered then.
        """
        if self.max_bytes == 0:
            return compute(), False
        key = FeatureKey.of(tenant, encoder, inputs)
        found = self._found(key)
        if self._observer is not None:
            (self._observer.miss if found is None else self._observer.hit)(encoder)
        if found is not None:
            return found, True
        outputs = {name: _kept(array) for name, array in compute().items()}
        self._keep(key, outputs)
        return outputs, False

    def _found(self, key: FeatureKey) -> Arrays | None:
        with self._lock:
            found = self._entries.get(key)
            if found is None:
                self._stats = replace(self._stats, misses=self._stats.misses + 1)
                return None
            self._entries.move_to_end(key)
            self._stats = replace(self._stats, hits=self._stats.hits + 1)
            return found

    def _keep(self, key: FeatureKey, outputs: Arrays) -> None:
        with self._lock:
            if key in self._entries or _size(outputs) > self.max_bytes:  # two threads met, or it would empty the cache
                return
            self._entries[key] = outputs
            held, evictions = self._stats.bytes + _size(outputs), self._stats.evictions
            while held > self.max_bytes:
                held -= _size(self._entries.popitem(last=False)[1])
                evictions += 1
            self._stats = replace(self._stats, bytes=held, evictions=evictions, entries=len(self._entries))


def _size(outputs: Arrays) -> int:
    return ENTRY_BYTES + sum(array.nbytes for array in outputs.values())


def _kept(array: np.ndarray) -> np.ndarray:
    """A copy that nobody can change: an engine may use its memory again."""
    copy = array.copy()
    copy.flags.writeable = False
    return copy
