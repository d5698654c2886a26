"""The probe that hears: it finds what is there, on voices it has not met, and keeps what it has drawn."""

from __future__ import annotations

import numpy as np

from training.evaluation import hearing


def test_the_probe_names_what_it_can_hear_and_guesses_where_there_is_nothing():
    rng = np.random.default_rng(0)
    emotion = rng.integers(0, 8, 900)
    plain = rng.normal(size=(900, 12))
    plain[:, :8] += 3 * np.eye(8)[emotion]
    told = hearing.name(plain[:600], emotion[:600], plain[600:])
    assert (told == emotion[600:]).mean() > 0.8
    silent = rng.normal(size=(900, 12))
    assert (hearing.name(silent[:600], emotion[:600], silent[600:]) == emotion[600:]).mean() < 0.25


def test_voices_are_drawn_once(held_out, tmp_path, monkeypatch):
    file = tmp_path / "voices.npz"
    first = hearing.heard(held_out, file, 3, processes=1, voices=24)
    assert first.shape == (len(held_out.audio),) and set(first.tolist()) <= set(range(8))
    monkeypatch.setattr(hearing, "_draw", lambda *_: (_ for _ in ()).throw(AssertionError("drawn again")))
    assert np.array_equal(hearing.heard(held_out, file, 3, processes=1, voices=24), first)
