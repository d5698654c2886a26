"""Soft shapes on a pixel grid: signed distances, anti-aliased masks, and a canvas that blends colours through them.

Face units: the picture spans -1..1 both ways before the pose moves it, u to the right, v down, and the pose turns,
scales and shifts that plane. A shape is a function of (u, v) that returns a distance, positive inside; `soft` makes it
a mask in [0, 1]. Small features are drawn in windows, which is what makes a portrait cheap. Nothing here knows faces.

Layout: canvas (3, H, W) float32 sRGB 0..1, planes first because blending whole planes is several times faster.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import NamedTuple

import numpy as np

SAMPLES = 512  # of a polar outline over half a turn: finer than a pixel up to 256 pixels


class Window(NamedTuple):
    """A rectangle of the canvas: index into its planes, and the face coordinates (h, w) float32 of its pixels."""

    area: tuple[slice, slice]
    u: np.ndarray
    v: np.ndarray


class Canvas:
    """A square picture under a similarity transform of the face plane. Owns its pixels until `to_uint8` copies them."""

    def __init__(self, size: int, scale: float, roll: float, shift: tuple[float, float]) -> None:
        across, down = _grid(size)
        self.size, self.shift = size, shift
        self.cos, self.sin, self.scale = math.cos(roll), math.sin(roll), scale
        x, y = (across - np.float32(shift[0])) / np.float32(scale), (down - np.float32(shift[1])) / np.float32(scale)
        cos, sin = np.float32(self.cos), np.float32(self.sin)
        self.pixel = np.float32(2.0 / (size * scale))
        self.full = Window((slice(0, size), slice(0, size)), cos * x + sin * y, cos * y - sin * x)
        self.pixels = np.empty((3, size, size), dtype=np.float32)

    def window(self, u: float, v: float, half_width: float, half_height: float) -> Window:
        """The smallest window that covers a rectangle around (u, v) in face units, plus a pixel; may be empty."""
        x = self.scale * (self.cos * u - self.sin * v) + self.shift[0]
        y = self.scale * (self.sin * u + self.cos * v) + self.shift[1]
        reach_x = self.scale * (abs(self.cos) * half_width + abs(self.sin) * half_height)
        reach_y = self.scale * (abs(self.sin) * half_width + abs(self.cos) * half_height)
        columns, rows = self._pixels_between(x, reach_x), self._pixels_between(y, reach_y)
        return Window((rows, columns), self.full.u[rows, columns], self.full.v[rows, columns])

    def paint(self, window: Window, mask: np.ndarray, colour: np.ndarray) -> None:
        """Blends `colour`, (3,) or (3, h, w), over the window with opacity `mask` (h, w)."""
        target = self.pixels[:, window.area[0], window.area[1]]
        target += mask * (_planes(colour) - target)

    def tint(self, window: Window, mask: np.ndarray, factor: np.ndarray) -> None:
        """Multiplies the window by `factor`, (3,), where `mask` (h, w) is 1, and leaves it where it is 0."""
        self.pixels[:, window.area[0], window.area[1]] *= 1.0 + mask * (_planes(factor) - 1.0)

    @contextmanager
    def only_inside(self, mask: np.ndarray) -> Iterator[None]:
        """Whatever is drawn in this block shows only where `mask` (H, W), of the whole canvas, is 1."""
        before = self.pixels.copy()
        yield
        self.pixels -= before
        self.pixels *= mask
        self.pixels += before

    def soft(self, distance: np.ndarray, blur: float = 0.0) -> np.ndarray:
        """Mask in [0, 1] of a signed distance in face units, one pixel of anti-aliasing plus `blur` face units wide."""
        return np.minimum(np.maximum(distance / (self.pixel + np.float32(blur)) + np.float32(0.5), _ZERO), _ONE)

    def to_uint8(self) -> np.ndarray:
        """(H, W, 3) uint8 sRGB."""
        levels = np.clip(self.pixels * np.float32(255.0) + np.float32(0.5), 0.0, 255.0).astype(np.uint8)
        return np.ascontiguousarray(levels.transpose(1, 2, 0))

    def _pixels_between(self, centre: float, reach: float) -> slice:
        first = math.floor((centre - reach + 1.0) * 0.5 * self.size) - 1
        last = math.ceil((centre + reach + 1.0) * 0.5 * self.size) + 1
        return slice(min(max(first, 0), self.size), min(max(last, 0), self.size))


def ellipse(u: np.ndarray, v: np.ndarray, half_width: float, half_height: float) -> np.ndarray:
    """Approximate signed distance to an ellipse at the origin, exact on a circle."""
    reach = np.sqrt((u / np.float32(half_width)) ** 2 + (v / np.float32(half_height)) ** 2)
    return (np.float32(1.0) - reach) * np.float32(min(half_width, half_height))


def glow(u: np.ndarray, v: np.ndarray, half_width: float, half_height: float) -> np.ndarray:
    """A smooth bump, 1 at the origin, 0 with zero slope on the ellipse and outside: a cheap Gaussian of finite reach."""
    rest = np.maximum(np.float32(1.0) - (u / np.float32(half_width)) ** 2 - (v / np.float32(half_height)) ** 2, 0.0)
    return rest * rest


def stroke(u: np.ndarray, v: np.ndarray, points: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """Signed distance to a brush stroke of half `widths` (N,) along the straight pieces between `points` (N, 2)."""
    steps = points[1:] - points[:-1]
    lengths = np.maximum((steps * steps).sum(axis=1), np.float32(1e-8))
    across = u[None] - points[:-1, 0, None, None]
    down = v[None] - points[:-1, 1, None, None]
    along = across * (steps[:, 0] / lengths)[:, None, None] + down * (steps[:, 1] / lengths)[:, None, None]
    along = np.minimum(np.maximum(along, _ZERO), _ONE)
    across -= along * steps[:, 0, None, None]
    down -= along * steps[:, 1, None, None]
    half = widths[:-1, None, None] + along * (widths[1:] - widths[:-1])[:, None, None]
    return (half - np.sqrt(across * across + down * down)).max(axis=0)


def bezier(start: tuple[float, float], control: tuple[float, float], end: tuple[float, float]) -> np.ndarray:
    """(7, 2) float32 points along a quadratic Bézier curve."""
    return _BERNSTEIN @ np.array((start, control, end), dtype=np.float32)


def taper(width: float, start: float = 0.3, end: float = 0.3) -> np.ndarray:
    """(7,) float32 half widths for `bezier`: `width` in the middle, the given shares of it at the ends."""
    return np.float32(width) * np.interp(_ALONG, (0.0, 0.35, 0.65, 1.0), (start, 1.0, 1.0, end)).astype(np.float32)


def half_outline(points: np.ndarray) -> np.ndarray:
    """Radius by angle of a closed mirror-symmetric outline around the origin.

    `points` (K, 2): from straight above the origin (u = 0), down the right side, to straight below (u = 0), joined by a
    Catmull-Rom spline. Returns (SAMPLES,) float32, the angle running from 0 (up) to pi (down).
    """
    mirror = np.array((-1.0, 1.0))
    path = np.concatenate((points[1:2] * mirror, points, points[-2:-1] * mirror))
    quads = np.stack((path[:-3], path[1:-2], path[2:-1], path[3:]), axis=1)
    curve = np.concatenate((np.einsum("tk,skd->std", _CATMULL_ROM, quads).reshape(-1, 2), points[-1:]))
    angles = np.maximum.accumulate(np.arctan2(np.abs(curve[:, 0]), -curve[:, 1]))
    return np.interp(np.linspace(0.0, np.pi, SAMPLES), angles, np.hypot(curve[:, 0], curve[:, 1])).astype(np.float32)


def polar(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(places in a half outline, integers; radius) of every pixel."""
    angle = np.arctan2(np.abs(u), -v)
    return (angle * np.float32((SAMPLES - 1) / np.pi) + np.float32(0.5)).astype(np.int32), np.sqrt(u * u + v * v)


@lru_cache(maxsize=8)
def _grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixel centres, across and down, -1..1, each (size, size) float32."""
    line = ((np.arange(size, dtype=np.float32) + 0.5) * 2.0 / size - 1.0).astype(np.float32)
    return np.broadcast_to(line[None, :], (size, size)), np.broadcast_to(line[:, None], (size, size))


def _planes(colour: np.ndarray) -> np.ndarray:
    colour = np.asarray(colour, dtype=np.float32)
    return colour[:, None, None] if colour.ndim == 1 else colour


_ZERO, _ONE = np.float32(0.0), np.float32(1.0)  # np.clip is several times slower on small arrays
_ALONG = np.linspace(0.0, 1.0, 7, dtype=np.float32)
_BERNSTEIN = np.stack(((1.0 - _ALONG) ** 2, 2.0 * _ALONG * (1.0 - _ALONG), _ALONG**2), axis=1).astype(np.float32)
_T = np.arange(8) / 8.0
_CATMULL_ROM = 0.5 * np.stack(
    (-(_T**3) + 2 * _T**2 - _T, 3 * _T**3 - 5 * _T**2 + 2, -3 * _T**3 + 4 * _T**2 + _T, _T**3 - _T**2), axis=1
)
