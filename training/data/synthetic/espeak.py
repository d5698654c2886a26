"""libespeak-ng through ctypes: a written sentence and a described voice in, raw speech out.

The library and its data come from the PyPI package `espeakng_loader`; nothing of the operating system is needed. espeak-ng is GPL-3
and is used at training time only. A voice is described by a small voice file that we write ourselves, with `flutter 0`: the built-in
voices wobble by a counter that survives from one sentence to the next, and then the same call would not give the same samples.

This file does not know what a sentence means or who speaks it. Layout: waveforms are (T,), float32 in [-1, 1], at `ESPEAK_RATE_HZ`.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import tempfile
import threading
from functools import lru_cache

import numpy as np

ESPEAK_RATE_HZ = 22050

# From speak_lib.h.
_AUDIO_OUTPUT_SYNCHRONOUS = 2
_PARAMETER_RATE = 1
_PARAMETER_VOLUME = 2
_PARAMETER_WORD_GAP = 7
_CHARS_UTF8 = 1
_POSITION_CHARACTER = 1
# At the default volume of 100 high voices clip inside the library.
_VOLUME = 60
_INT16_SCALE = np.float32(1 / 32768)

_SynthCallback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


class Espeak:
    """The library, which is one global state per process: use `espeak()` instead of making a second one."""

    def __init__(self) -> None:
        self._library, data_path = _load_library()
        rate = self._library.espeak_Initialize(_AUDIO_OUTPUT_SYNCHRONOUS, 0, data_path.encode(), 0)
        if rate != ESPEAK_RATE_HZ:
            raise RuntimeError(
                f"espeak_Initialize returned {rate} for the data in {data_path}; expected {ESPEAK_RATE_HZ}"
            )
        self._lock = threading.Lock()
        self._chunks: list[np.ndarray] = []
        # The library keeps only a pointer to the callback; this reference keeps it alive.
        self._callback = _SynthCallback(self._collect)
        self._library.espeak_SetSynthCallback(self._callback)
        self._library.espeak_SetParameter(_PARAMETER_VOLUME, _VOLUME, 0)

    def say(self, sentence: str, voice: str, words_per_minute: int, word_gap: int = 0) -> np.ndarray:
        """Speak `sentence` with the voice that the voice file text `voice` describes.

        words_per_minute: 80..450. word_gap: silence between words in units of 10 ms at the default rate, >= 0.
        Returns (T,) float32 at ESPEAK_RATE_HZ. The same arguments give the same samples. Raises RuntimeError when the library
        refuses the voice or says nothing.
        """
        with self._lock:
            self._load_voice(voice)
            self._library.espeak_SetParameter(_PARAMETER_RATE, words_per_minute, 0)
            self._library.espeak_SetParameter(_PARAMETER_WORD_GAP, word_gap, 0)
            # One bit survives from sentence to sentence: the sign of a harmonic, flipped by every period of the voice. Spoken
            # twice, a sentence flips it an even number of times, so that each starts from the same sign as all others.
            self._synthesise(sentence)
            return self._synthesise(sentence)

    def _synthesise(self, sentence: str) -> np.ndarray:
        self._chunks.clear()
        text = sentence.encode() + b"\0"
        status = self._library.espeak_Synth(text, len(text), 0, _POSITION_CHARACTER, 0, _CHARS_UTF8, None, None)
        if status != 0 or not self._chunks:
            raise RuntimeError(f"espeak-ng said nothing for {sentence!r} (status {status})")
        return np.concatenate(self._chunks).astype(np.float32) * _INT16_SCALE

    def _load_voice(self, voice: str) -> None:
        with tempfile.NamedTemporaryFile("w", suffix=".voice", encoding="utf-8") as file:
            file.write(voice)
            file.flush()
            status = self._library.espeak_ng_SetVoiceByFile(os.fsencode(file.name))
        if status != 0:
            raise RuntimeError(f"espeak-ng refused the voice (status {status}):\n{voice}")

    def _collect(self, samples: ctypes._Pointer, count: int, _events: int) -> int:
        if samples and count > 0:
            self._chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0


def espeak() -> Espeak:
    """The one instance of this process, made at first use; a forked child gets its own."""
    return _of_process(os.getpid())


@lru_cache(maxsize=1)
def _of_process(_process_id: int) -> Espeak:
    return Espeak()


def _load_library() -> tuple[ctypes.CDLL, str]:
    try:
        loader = importlib.import_module("espeakng_loader")
    except ImportError as error:
        raise RuntimeError(
            "synthetic voices need the package espeakng-loader, which is not installed; run `pip install .[train]`"
        ) from error
    library = ctypes.CDLL(loader.get_library_path())
    library.espeak_Synth.argtypes = [
        ctypes.c_char_p,
        ctypes.c_size_t,
        ctypes.c_uint,
        ctypes.c_int,
        ctypes.c_uint,
        ctypes.c_uint,
        ctypes.c_void_p,
        ctypes.c_void_p,
    ]
    return library, loader.get_data_path()
