"""What the cache of encoder results promises: exact keys, a bound in bytes, nothing across tenants, and results that nobody changes."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from runtime.feature_cache import ENTRY_BYTES, CacheStats, FeatureCache, FeatureKey


class Encoder:
    """Counts its calls; its outputs say which call they came from."""

    def __init__(self, size: int = 4) -> None:
        self.size, self.calls = size, 0

    def __call__(self) -> dict[str, np.ndarray]:
        self.calls += 1
        return {"features": np.full(self.size, self.calls, np.float32)}


def photo(value: float = 0, shape: tuple[int, ...] = (1, 3)) -> dict[str, np.ndarray]:
    return {"pixel_values": np.full(shape, value, np.float32)}


def entry(floats: int) -> int:
    return ENTRY_BYTES + 4 * floats


def test_the_same_inputs_are_encoded_once_and_give_the_same_bits():
    cache, encoder = FeatureCache(10_000), Encoder()
    first, was_known = cache.recall("a", "image_encoder", photo(), encoder)
    again, is_known = cache.recall("a", "image_encoder", photo(), encoder)
    assert (encoder.calls, was_known, is_known) == (1, False, True)
    np.testing.assert_array_equal(first["features"], again["features"])
    assert cache.stats == CacheStats(hits=1, misses=1, entries=1, bytes=entry(4))


@pytest.mark.parametrize(
    "other",
    [
        ("b", "image_encoder", photo()),
        ("", "image_encoder", photo()),
        ("a", "identity_encoder", photo()),
        ("a", "image_encoder", photo(1e-7)),
        ("a", "image_encoder", photo(0, (3, 1))),
        ("a", "image_encoder", {"face": photo()["pixel_values"]}),
        ("a", "image_encoder", {"pixel_values": np.zeros((1, 3), np.int32)}),
        ("a", "image_encoder", {**photo(), "more": np.zeros(1, np.float32)}),
    ],
    ids=["tenant", "no tenant", "encoder", "value", "shape", "name", "type", "another input"],
)
def test_whatever_differs_is_encoded_anew(other):
    cache, encoder = FeatureCache(10_000), Encoder()
    cache.recall("a", "image_encoder", photo(), encoder)
    assert not cache.recall(*other, encoder)[1] and encoder.calls == 2


def test_keys_do_not_depend_on_memory_layout_or_the_order_of_inputs():
    rows = np.arange(6, dtype=np.float32).reshape(2, 3)
    ways = [{"a": rows, "b": rows}, {"b": rows.copy(), "a": np.asfortranarray(rows)}, {"a": rows[:, :], "b": rows}]
    assert len({FeatureKey.of("", "x", way) for way in ways}) == 1


def test_the_least_recently_used_is_thrown_out_when_the_bytes_are_full():
    cache, encoder = FeatureCache(2 * entry(4)), Encoder()
    for value in (1, 2, 1, 3):  # 2 was not used for longest when 3 comes
        cache.recall("", "x", photo(value), encoder)
    assert cache.stats == CacheStats(hits=1, misses=3, evictions=1, entries=2, bytes=2 * entry(4))
    assert [cache.recall("", "x", photo(value), encoder)[1] for value in (1, 3, 2)] == [True, True, False]


def test_the_bound_holds_for_results_of_every_size():
    cache, rng = FeatureCache(20_000), np.random.default_rng(0)
    for value in range(300):
        cache.recall("", "x", photo(value), Encoder(int(rng.integers(1, 3000))))
        assert cache.stats.bytes <= 20_000
    held = sum(entry(outputs["features"].size) for outputs in cache._entries.values())
    assert (held, len(cache._entries)) == (cache.stats.bytes, cache.stats.entries)


def test_a_result_larger_than_the_cache_is_given_and_not_kept():
    cache, encoder = FeatureCache(entry(4)), Encoder()
    cache.recall("", "x", photo(1), encoder)
    assert cache.recall("", "x", photo(2), Encoder(1000))[0]["features"].size == 1000
    assert cache.recall("", "x", photo(1), encoder)[1] and cache.stats.evictions == 0


def test_zero_bytes_remember_nothing_and_look_nothing_up():
    class Silent:
        def hit(self, encoder):
            pytest.fail("looked up")

        miss = hit

    cache, encoder = FeatureCache(0, Silent()), Encoder()
    assert [cache.recall("", "x", photo(), encoder)[1] for _ in range(2)] == [False, False]
    assert encoder.calls == 2 and cache.stats == CacheStats()
    with pytest.raises(ValueError, match=r"max_bytes is -1; it must be 0 \(off\) or more"):
        FeatureCache(-1)


def test_a_result_cannot_be_changed_by_its_receiver_or_its_maker():
    memory = np.zeros(4, np.float32)
    cache = FeatureCache(10_000)
    given, _ = cache.recall("", "x", photo(), lambda: {"features": memory})
    memory[:] = 7  # an engine that uses its buffer again
    with pytest.raises(ValueError, match="read-only"):
        given["features"][0] = 1
    assert not cache.recall("", "x", photo(), Encoder())[0]["features"].any()


def test_a_failure_is_raised_and_not_remembered():
    cache, encoder = FeatureCache(10_000), Encoder()
    with pytest.raises(ZeroDivisionError):
        cache.recall("", "x", photo(), lambda: {"features": np.ones(1) * (1 // 0)})
    assert not cache.recall("", "x", photo(), encoder)[1] and encoder.calls == 1


def test_the_observer_hears_of_every_look_up_by_encoder():
    class Observer:
        heard: list[tuple[str, str]]

        def __init__(self):
            self.heard = []

        def hit(self, encoder):
            self.heard.append(("hit", encoder))

        def miss(self, encoder):
            self.heard.append(("miss", encoder))

    observer = Observer()
    cache = FeatureCache(10_000, observer)
    for name in ("text_encoder", "image_encoder", "text_encoder"):
        cache.recall("", name, photo(), Encoder())
    assert observer.heard == [("miss", "text_encoder"), ("miss", "image_encoder"), ("hit", "text_encoder")]


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    """Threads take turns as often as they can."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


@pytest.mark.usefixtures("hasty_threads")
def test_threads_that_meet_get_right_results_and_the_books_agree():
    cache, together = FeatureCache(30 * entry(4)), threading.Barrier(8)

    def work(worker: int) -> None:
        together.wait()
        for value in np.random.default_rng(worker).integers(0, 60, 500):
            made = np.full(4, value, np.float32)
            outputs, _ = cache.recall("", "x", photo(value), lambda made=made: {"features": made})
            assert (outputs["features"] == value).all()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    stats = cache.stats
    assert stats.hits + stats.misses == 8 * 500
    assert stats.entries == len(cache._entries) and stats.bytes == stats.entries * entry(4) <= cache.max_bytes
