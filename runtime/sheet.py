"""A labelled contact sheet of pictures: rows of cells under a header. It knows pictures and words, not where they come from.

Pillow alone, with the scalable font inside it, so that a sheet looks the same on every machine. Sizes in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

CELL = 144  # a picture, upright and across, unless the sheet is told otherwise
LABEL = 40  # two lines under a picture; longer words take more, up to LINES
LEFT = 216  # the column that says what a row shows
GAP = 10
MARGIN = 24
HEADER = 88
PAPER, INK, FAINT, BLUE = "#ffffff", "#1c2024", "#667079", "#3b6ea5"
TITLE_SIZE, TEXT_SIZE, LABEL_SIZE, LINE = 28, 17, 14, 1.25  # font sizes, and the distance of lines in them
LINES = 4  # what a person wrote is cut after so many


@dataclass(frozen=True, eq=False)
class Cell:
    """One picture, (H, W, 3) uint8 of any size, the words under it, and fainter ones under these."""

    picture: np.ndarray
    label: str
    note: str = ""


@dataclass(frozen=True, eq=False)
class Row:
    """Cells from left to right, None where a place stays empty; `title` and `note` stand to their left."""

    title: str
    note: str
    cells: Sequence[Cell | None]


def draw_sheet(title: str, subtitle: str, rows: Sequence[Row], side: int = CELL) -> Image.Image:
    """The sheet as an RGB picture of `sheet_size(rows, side)`; each picture fills its square of `side` as far as its shape allows."""
    sheet = Image.new("RGB", sheet_size(rows, side), PAPER)
    draw, row_height = ImageDraw.Draw(sheet), side + _label_height(rows, side) + GAP
    draw.text((MARGIN, MARGIN), title, INK, _font(TITLE_SIZE))
    _write(draw, (MARGIN, MARGIN + TITLE_SIZE * LINE), subtitle, sheet.width - 2 * MARGIN, TEXT_SIZE, FAINT)
    for n, row in enumerate(rows):
        y = HEADER + MARGIN + n * row_height
        below = _write(draw, (MARGIN, y), row.title, LEFT - GAP, TEXT_SIZE, INK)
        _write(draw, (MARGIN, below + 4), row.note, LEFT - GAP, LABEL_SIZE, FAINT)
        for k, cell in enumerate(row.cells):
            if cell is None:
                continue
            x = MARGIN + LEFT + k * (side + GAP)
            picture = ImageOps.contain(Image.fromarray(cell.picture), (side, side), Image.Resampling.LANCZOS)
            sheet.paste(picture, (x + (side - picture.width) // 2, y + (side - picture.height) // 2))
            under = _write(draw, (x, y + side + 3), cell.label, side, LABEL_SIZE, INK)
            _write(draw, (x, under), cell.note, side, LABEL_SIZE, FAINT)
    return sheet


def sheet_size(rows: Sequence[Row], side: int = CELL) -> tuple[int, int]:
    """(width, height) of the sheet of these rows."""
    columns = max(len(row.cells) for row in rows)
    width = 2 * MARGIN + LEFT + columns * (side + GAP) - GAP
    return width, HEADER + 2 * MARGIN + len(rows) * (side + _label_height(rows, side) + GAP) - GAP


def captioned(picture: np.ndarray, label: str, side: int = 2 * CELL) -> np.ndarray:
    """(side + LABEL, side, 3) uint8: one picture with a line of words under it, as a frame of an animation."""
    frame = Image.new("RGB", (side, side + LABEL), PAPER)
    fitted = ImageOps.contain(Image.fromarray(picture), (side, side), Image.Resampling.LANCZOS)
    frame.paste(fitted, ((side - fitted.width) // 2, (side - fitted.height) // 2))
    (line, *_) = [*_lines(label, side - 2 * GAP, TEXT_SIZE), ""]
    ImageDraw.Draw(frame).text((side / 2, side + LABEL / 2), line, INK, _font(TEXT_SIZE), anchor="mm")
    return np.asarray(frame)


def draw_waveform(samples: np.ndarray) -> np.ndarray:
    """(CELL, CELL, 3) uint8: the loudest and the lowest sample of each column of time. samples: (T,) float, T >= CELL."""
    picture = Image.new("RGB", (CELL, CELL), "#eef2f6")
    draw = ImageDraw.Draw(picture)
    peak = max(float(np.abs(samples).max()), 1e-6)  # silence stays a line
    for x, column in enumerate(np.array_split(samples / peak, CELL)):
        low, high = (CELL / 2 * (1 - 0.9 * float(edge)) for edge in (column.min(), column.max()))
        draw.line((x, high, x, low), fill=BLUE)
    return np.asarray(picture)


def draw_words(text: str) -> np.ndarray:
    """(CELL, CELL, 3) uint8: a card with a few words on it."""
    picture = Image.new("RGB", (CELL, CELL), "#eef2f6")
    _write(ImageDraw.Draw(picture), (GAP, GAP), text, CELL - 2 * GAP, TEXT_SIZE, BLUE)
    return np.asarray(picture)


def _label_height(rows: Sequence[Row], side: int) -> int:
    """Pixels under each picture: enough for the longest label."""
    lines = max(
        sum(len(_lines(words, side, LABEL_SIZE)) for words in (cell.label, cell.note))
        for row in rows
        for cell in row.cells
        if cell is not None
    )
    return max(LABEL, math.ceil(lines * LABEL_SIZE * LINE) + 5)


def _write(
    draw: ImageDraw.ImageDraw, place: tuple[float, float], text: str, width: int, size: int, colour: str
) -> float:
    """Write text broken to `width`; y of the next line."""
    x, y = place
    for line in _lines(text, width, size):
        draw.text((x, y), line, colour, _font(size))
        y += size * LINE
    return y


def _lines(text: str, width: int, size: int) -> list[str]:
    """The text broken at plain spaces to `width`, at most LINES lines; what is cut off is an ellipsis."""
    font = _font(size)
    lines: list[str] = []
    for word in filter(None, text.replace("\n", " ").split(" ")):
        word = word.replace("\u00a0", " ")  # holds words together, and has no glyph of its own
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines if len(lines) <= LINES else [*lines[: LINES - 1], lines[LINES - 1] + " …"]


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
