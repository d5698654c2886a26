"""The contact sheet: its size, what lies where, and what a waveform and a card look like."""

from __future__ import annotations

import numpy as np

from runtime.sheet import CELL, Cell, Row, draw_sheet, draw_waveform, draw_words, sheet_size


def test_the_sheet_has_the_promised_size_and_shows_the_pictures_in_place():
    picture = np.full((8, 8, 3), (200, 10, 10), np.uint8)
    rows = [Row("a", "", [Cell(picture, "x")]), Row("b", "", [Cell(picture, "y"), Cell(picture, "z")])]
    sheet = draw_sheet("title", "note", rows)
    assert sheet.size == sheet_size(rows)
    red = (np.asarray(sheet) == (200, 10, 10)).all(axis=2)
    assert red.sum() == 3 * CELL * CELL


def test_a_waveform_is_as_loud_as_its_samples():
    quiet_then_loud = np.concatenate([np.full(800, 0.01), np.sin(np.arange(800))])
    ink = (draw_waveform(quiet_then_loud)[..., 0] < 200).sum(axis=0)
    assert ink[: CELL // 2 - 1].max() < 5 < ink[CELL // 2 + 1 :].min()


def test_silence_is_drawn_and_words_leave_ink():
    assert draw_waveform(np.zeros(400)).shape == (CELL, CELL, 3)
    assert len(np.unique(draw_words("sixty years"))) > 2
