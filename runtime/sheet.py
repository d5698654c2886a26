"""A labelled contact sheet of pictures: rows of cells under a header. It knows pictures and words, not where they come from.

Pillow alone, with the scalable font inside it, so that a sheet looks the same on every machine. Sizes in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

CELL = 144  # a picture, upright and across
LABEL = 40  # two lines under a picture
LEFT = 216  # the column that says what a row shows
GAP = 10
MARGIN = 24
HEADER = 88
PAPER, INK, FAINT, BLUE = "#ffffff", "#1c2024", "#667079", "#3b6ea5"
TITLE_SIZE, TEXT_SIZE, LABEL_SIZE, LINE = 28, 17, 14, 1.25  # font sizes, and the distance of lines in them


@dataclass(frozen=True, eq=False)
class Cell:
    """One picture, (H, W, 3) uint8 of any size, and the words under it."""

    picture: np.ndarray
    label: str


@dataclass(frozen=True, eq=False)
class Row:
    """Cells from left to right; `title` and `note` stand to their left."""

    title: str
    note: str
    cells: Sequence[Cell]


def draw_sheet(title: str, subtitle: str, rows: Sequence[Row]) -> Image.Image:
    """The sheet as an RGB picture; its size is `sheet_size(rows)`."""
    sheet = Image.new("RGB", sheet_size(rows), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN), title, INK, _font(TITLE_SIZE))
    draw.text((MARGIN, MARGIN + TITLE_SIZE * LINE), subtitle, FAINT, _font(TEXT_SIZE))
    for n, row in enumerate(rows):
        y = HEADER + MARGIN + n * (CELL + LABEL + GAP)
        below = _write(draw, (MARGIN, y), row.title, LEFT - GAP, TEXT_SIZE, INK)
        _write(draw, (MARGIN, below + 4), row.note, LEFT - GAP, LABEL_SIZE, FAINT)
        for k, cell in enumerate(row.cells):
            x = MARGIN + LEFT + k * (CELL + GAP)
            sheet.paste(Image.fromarray(cell.picture).resize((CELL, CELL), Image.Resampling.LANCZOS), (x, y))
            _write(draw, (x, y + CELL + 3), cell.label, CELL, LABEL_SIZE, INK)
    return sheet


def sheet_size(rows: Sequence[Row]) -> tuple[int, int]:
    """(width, height) of the sheet of these rows."""
    columns = max(len(row.cells) for row in rows)
    width = 2 * MARGIN + LEFT + columns * (CELL + GAP) - GAP
    return width, HEADER + 2 * MARGIN + len(rows) * (CELL + LABEL + GAP) - GAP


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


def _write(
    draw: ImageDraw.ImageDraw, place: tuple[float, float], text: str, width: int, size: int, colour: str
) -> float:
    """Write text broken at spaces to `width`; y of the next line."""
    x, y = place
    font = _font(size)
    line = ""
    for word in [*text.split(), None]:
        longer = f"{line} {word}".strip()
        if word is not None and (not line or draw.textlength(longer, font) <= width):
            line = longer
            continue
        draw.text((x, y), line, colour, font)
        y += size * LINE
        line = word or ""
    return y


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
