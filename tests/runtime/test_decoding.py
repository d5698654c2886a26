"""Decoding in a process that may die: the same arrays as here, and whatever happens to it costs one file and nothing else."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from runtime.decoding import DecodeLimits, DecoderProcess
from runtime.errors import RequestError, UnavailableError
from runtime.preprocess.decode import DECODERS, decode
from tests.runtime.progressive_bomb import progressive_bomb

HOSTILE = (str(Path(__file__).with_name("hostile_worker.py")),)
TIGHT = DecodeLimits(memory_mb=128, cpu_s=1, wall_s=2)


def photo(kind: str = "PNG", size: tuple[int, int] = (70, 50)) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(5).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def voice() -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.sin(np.arange(20_000) / 9), 44_100, format="WAV")
    return file.getvalue()


GOOD = photo()


@pytest.fixture(scope="module")
def decoder() -> Iterator[DecoderProcess]:
    with DecoderProcess() as decoder:
        yield decoder


@pytest.fixture(scope="module")
def hostile() -> Iterator[DecoderProcess]:
    with DecoderProcess(TIGHT, worker=HOSTILE) as decoder:
        yield decoder


def pid(decoder: DecoderProcess) -> int:
    assert decoder._worker is not None
    return decoder._worker._process.pid


@pytest.mark.parametrize(
    ("field", "data"),
    [("reference", photo(kind)) for kind in ("JPEG", "PNG", "WEBP")] + [("mask", GOOD), ("audio", voice())],
    ids=["jpeg", "png", "webp", "mask", "voice"],
)
def test_the_array_is_the_one_that_decoding_here_gives(decoder, field, data):
    here, there = decode(field, data), decoder(field, data)
    assert (there.dtype, there.shape) == (here.dtype, here.shape)
    np.testing.assert_array_equal(there, here)


def test_the_array_is_the_caller_s_own(decoder):
    decoder("reference", GOOD)[:] = 0
    assert decoder("reference", GOOD).any()


@pytest.mark.parametrize("field", DECODERS)
def test_what_is_refused_here_is_refused_there_in_the_same_words_and_the_process_lives_on(decoder, field):
    before = pid(decoder) if decoder._worker else None
    with pytest.raises(RequestError) as there:
        decoder(field, b"hello")
    with pytest.raises(RequestError) as here:
        decode(field, b"hello")
    assert (there.value.field, str(there.value)) == (field, str(here.value))
    assert before in (None, pid(decoder))


def test_a_picture_as_large_as_allowed_fits_the_limits(decoder):
    failures = decoder.failures
    largest = Image.new("RGBA", (4000, 4000), (10, 20, 30, 200))
    file = io.BytesIO()
    largest.save(file, "WEBP", lossless=True, method=0)  # the format that takes most
    assert decoder("reference", file.getvalue()).shape == (4000, 4000, 3)
    assert decoder.failures == failures


def test_a_bomb_in_the_header_costs_nothing(decoder):
    file = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(file, "PNG")
    before = pid(decoder) if decoder._worker else None
    with pytest.raises(RequestError, match=r"^reference: got over \d+ px, allowed at most 4096 px per side"):
        decoder("reference", file.getvalue())
    assert before in (None, pid(decoder))


@pytest.mark.parametrize("limits", [DecodeLimits(cpu_s=1)], ids=["one second"])
def test_a_photo_that_asks_for_minutes_of_computing_is_refused(limits):
    bomb = progressive_bomb(3900, 5000)
    assert len(bomb) < 250_000
    with DecoderProcess(limits) as decoder, pytest.raises(RequestError) as caught:
        decoder("reference", bomb)
    assert str(caught.value) == "reference: cannot be decoded within 1 s of computing"


@pytest.mark.parametrize(
    ("file", "told"),
    [
        (b"die SIGKILL", "crashed the decoder; is the file damaged?"),
        (b"die SIGSEGV", "crashed the decoder; is the file damaged?"),
        (b"die SIGABRT", "crashed the decoder; is the file damaged?"),
        (b"allocate 500", "cannot be decoded within 128 MB of memory"),
        (b"die SIGSTOP", "cannot be decoded within 2 s"),
    ],
    ids=lambda value: value.decode() if isinstance(value, bytes) else "",
)
def test_a_file_that_costs_the_process_is_refused_and_the_next_one_decoded(hostile, file, told):
    hostile("reference", GOOD)
    before = pid(hostile)
    with pytest.raises(RequestError) as caught:
        hostile("reference", file)
    assert (caught.value.field, caught.value.message) == ("reference", told)
    np.testing.assert_array_equal(hostile("reference", GOOD), decode("reference", GOOD))
    assert pid(hostile) != before
    with pytest.raises(ProcessLookupError):
        os.kill(before, 0)


def test_a_file_is_not_blamed_for_what_befell_a_process_that_had_decoded_others(hostile, tmp_path):
    hostile("reference", GOOD)
    failures = hostile.failures
    assert hostile("reference", b"once " + str(tmp_path / "flag").encode()).shape == (1, 1, 3)
    assert hostile.failures == failures + 1


def test_a_lost_process_is_logged_without_a_word_of_the_file():
    lines: list[str] = []
    with DecoderProcess(TIGHT, lines.append, HOSTILE) as decoder, pytest.raises(RequestError):
        decoder("reference", b"die SIGKILL")
    assert lines == ["a decoding process was lost, 1 so far: reference: crashed the decoder; is the file damaged?"]


def test_a_process_that_died_between_two_files_is_replaced():
    with DecoderProcess() as decoder:
        decoder.start()
        os.kill(pid(decoder), signal.SIGKILL)
        assert decoder._worker is not None
        decoder._worker._process.wait()
        np.testing.assert_array_equal(decoder("reference", GOOD), decode("reference", GOOD))
        assert decoder.failures == 0


def test_what_a_library_prints_is_no_part_of_the_answer(hostile):
    assert hostile("reference", b"print").shape == (1, 1, 3)
    assert hostile("reference", GOOD).shape == (50, 70, 3)


def test_many_threads_share_the_process_and_a_crash_is_one_caller_s(hostile):
    files = [GOOD, b"die SIGSEGV", GOOD, b"allocate 500", GOOD, b"die SIGKILL"]

    def outcome(file: bytes) -> str | None:
        try:
            hostile("reference", file)
        except RequestError as error:
            return error.message
        return None

    with ThreadPoolExecutor(len(files)) as pool:
        outcomes = list(pool.map(outcome, files))
    assert [told is None for told in outcomes] == [file == GOOD for file in files]


def test_the_process_knows_nothing_of_this_one_s_environment(monkeypatch):
    monkeypatch.setenv("SECRET", "token")
    with DecoderProcess() as decoder:
        decoder.start()
        assert b"token" not in Path(f"/proc/{pid(decoder)}/environ").read_bytes()


def test_the_process_has_its_limits_and_leaves_no_core_file(decoder):
    decoder("reference", GOOD)
    limits = Path(f"/proc/{pid(decoder)}/limits").read_text()
    assert [line.split()[-3:-1] for line in limits.splitlines() if line.startswith("Max core")] == [["0", "0"]]
    (address_space,) = (int(line.split()[3]) for line in limits.splitlines() if line.startswith("Max address"))
    assert 512 * 2**20 < address_space < 1024 * 2**20


def test_the_process_ends_with_the_one_that_started_it():
    decoder = DecoderProcess()
    decoder.start()
    child = pid(decoder)
    assert decoder._worker is not None and decoder._worker._process.stdin is not None
    decoder._worker._process.stdin.close()  # what the kernel does for a process that is killed
    assert decoder._worker._process.wait(timeout=30) == 0
    decoder.close()
    decoder.close()
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def test_no_process_and_no_thread_stays_behind():
    threads = threading.active_count()
    with DecoderProcess() as decoder:
        decoder("reference", GOOD)
        child = pid(decoder)
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
    deadline = time.monotonic() + 10
    while threading.active_count() > threads and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == threads


def test_where_no_process_starts_the_caller_is_told_to_try_again(monkeypatch):
    with pytest.raises(UnavailableError, match="did not start; try again later"):
        DecoderProcess(worker=("-c", "raise SystemExit"))("reference", GOOD)
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(UnavailableError, match="can be started; try again later") as caught:
        DecoderProcess()("reference", GOOD)
    assert "nowhere" not in str(caught.value)


@pytest.mark.parametrize("name", ["memory_mb", "cpu_s", "wall_s"])
def test_a_limit_of_nothing_is_refused(name):
    with pytest.raises(ValueError, match=f"{name} is 0; it must be above 0"):
        DecodeLimits(**{name: 0})
