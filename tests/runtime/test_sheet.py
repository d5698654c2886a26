"""The contact sheet: its size, what lies where, and what a waveform and a card look like."""

from __future__ import annotations

import numpy as np

from runtime.sheet import CELL, Cell, Row, captioned, draw_sheet, draw_waveform, draw_words, sheet_size


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


def test_a_cell_s_size_can_be_chosen_and_an_empty_place_stays_empty():
    picture = np.full((8, 8, 3), (200, 10, 10), np.uint8)
    rows = [Row("a", "", [Cell(picture, "x"), Cell(picture, "y")]), Row("b", "", [None, Cell(picture, "z")])]
    sheet = draw_sheet("title", "note", rows, side=60)
    assert sheet.size == sheet_size(rows, 60)
    red = (np.asarray(sheet) == (200, 10, 10)).all(axis=2)
    assert red.sum() == 3 * 60 * 60
    left, right = (red[:, red.any(axis=0).nonzero()[0][k]].sum() for k in (0, -1))
    assert (left, right) == (60, 120)


def test_a_picture_that_is_no_square_keeps_its_shape():
    wide = np.full((10, 40, 3), (200, 10, 10), np.uint8)
    sheet = draw_sheet("title", "note", [Row("a", "", [Cell(wide, "x")])], side=80)
    assert (np.asarray(sheet) == (200, 10, 10)).all(axis=2).sum() == 80 * 20


def test_long_labels_make_room_for_themselves_and_end_in_an_ellipsis():
    picture = np.zeros((8, 8, 3), np.uint8)
    heights = []
    for words in ("short", "three lines " * 5, "more than anybody wants to read " * 9):
        rows = [Row("a", "", [Cell(picture, words)])] * 2
        heights.append(sheet_size(rows)[1])
        inks = np.asarray(draw_sheet("t", "n", rows))[:, 24 + 216 :].min(axis=2) < 128
        assert inks.sum() > 2 * CELL * CELL
        assert not inks[-24:].any(), "no word runs out of the sheet"
    assert heights[0] < heights[1] <= heights[2] and heights[2] - heights[0] < 2 * 60


def test_a_frame_of_an_animation_has_its_words_below():
    frame = captioned(np.full((20, 20, 3), 90, np.uint8), "seventy years", side=100)
    assert (frame[:100] == 90).all() and (frame[100:] < 90).any() and frame.shape == (140, 100, 3)


def test_a_hard_space_holds_words_together_and_looks_like_a_space():
    narrow = [
        [Row("a", "", [Cell(np.zeros((8, 8, 3), np.uint8), f"arousal{space}+0.85")])] for space in ("\u00a0", " ")
    ]
    wide = [np.asarray(draw_sheet("t", "n", rows, side=CELL)) for rows in narrow]
    np.testing.assert_array_equal(*wide)
    hard, soft = (np.asarray(draw_sheet("t", "n", rows, side=70)) for rows in narrow)
    assert (hard != soft).any(), "where it is narrow, only the plain space breaks"
