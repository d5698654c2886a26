"""Relief: the height of a face above a smooth egg, and the light that falls on it.

Ridges and hollows are smooth bumps placed by anatomy, expression and age; one light shades them all, so that brow, nose,
lips, cheeks and folds agree on where it comes from. Knows no colours but how shadow reddens skin.

Layout: planes (h, w) float32 over a window of the canvas, light (3, h, w).
"""

from __future__ import annotations

import numpy as np

from training.data.synthetic.ageing import Ageing
from training.data.synthetic.anatomy import Anatomy
from training.data.synthetic.expression import Expression
from training.data.synthetic.features import SIDES, turn
from training.data.synthetic.shapes import Canvas, Window, glow, polar
from training.data.synthetic.shot import Light, Pose

_WRAP = 0.45  # light reaches so far round the edge of shadow: skin scatters
_BRIGHTEST = 1.04
# What a shade below 1 does to red, green and blue: shadow on skin is warm.
_REDDENING = np.array((0.78, 1.06, 1.2), dtype=np.float32)


def face_height(
    canvas: Canvas, face: Anatomy, ageing: Ageing, move: Expression, pose: Pose, window: Window
) -> np.ndarray:
    """(h, w) height of the features over `window`, in face units."""
    height = np.zeros((canvas.size, canvas.size), dtype=np.float32)

    def bump(u: float, v: float, half_width: float, half_height: float, rise: float, depth: float = 1.0) -> None:
        at, factor = turn(u, pose.yaw, depth)
        spot = canvas.window(at, v, half_width * factor, half_height)
        height[spot.area] += np.float32(rise) * glow(
            spot.u - np.float32(at), spot.v - np.float32(v), half_width * factor, half_height
        )

    sag, male = ageing.sagging, 0.018 * face.male * (1.0 - ageing.childhood)
    full, hollow = max(face.cheek_fullness, 0.0), max(-face.cheek_fullness, 0.0)
    for side in SIDES:
        bump(side * face.eye_u, face.brow_v + 0.04 + 0.05 * move.brow_lower, 0.25, 0.12, 0.028 + male)
        bump(side * face.eye_u * 0.92, face.eye_v, 0.23, 0.15, -0.055)
        bump(side * face.eye_u, face.eye_v + 0.115, 0.17, 0.06, 0.035 * sag + 0.03 * move.cheek_raise)
        lift = face.nose_v - 0.05 - 0.07 * move.cheek_raise
        bump(side * face.cheek * 0.6, lift, 0.25, 0.22, 0.035 + 0.035 * full + 0.06 * move.cheek_raise)
        bump(side * face.cheek * 0.62, face.mouth_v - 0.04, 0.2, 0.24, -0.035 * hollow - 0.035 * sag)
        bump(side * face.jaw * 0.74, face.chin - 0.17, 0.17, 0.14, 0.055 * sag)
        bump(side * face.half_nose * 1.0, face.nose_v - 0.035, 0.075, 0.06, 0.022, 1.3)
        bump(side * (face.half_nose + 0.085), face.nose_v + 0.02, 0.11, 0.14, -0.022 - 0.025 * ageing.folding)
    bump(0.0, face.mouth_v, 0.27, 0.2, 0.035, 1.1)
    bump(0.0, face.mouth_v + face.lower_lip + 0.065, 0.17, 0.065, -0.024, 1.1)
    bump(0.0, face.chin - 0.09 + 0.07 * move.jaw_drop, 0.21, 0.13, 0.026 + 0.03 * move.chin_raise, 1.1)
    height[window.area] += _nose(face, move, pose, window)
    return height[window.area] * np.float32(1.0 - 0.4 * ageing.childhood)  # a child's face is smooth


def _nose(face: Anatomy, move: Expression, pose: Pose, window: Window) -> np.ndarray:
    base = face.nose_v - 0.035 * move.nose_wrinkle - 0.01 * move.upper_lip_raise
    top = face.eye_v - 0.06
    tip_v = base - 0.055 - 0.04 * face.nose_round
    root, _ = turn(0.0, pose.yaw, 1.05)
    tip, _ = turn(0.0, pose.yaw, 1.45)
    along = np.clip((window.v - np.float32(top)) / np.float32(tip_v - top), 0.0, 1.0)
    middle = np.float32(root) + np.float32(tip - root) * along
    half = np.float32(0.075) + np.float32(0.95 * face.half_nose - 0.075) * along * along
    across = np.maximum(1.0 - ((window.u - middle) / half) ** 2, 0.0)
    ends = np.clip((np.float32(base + 0.04) - window.v) / 0.09, 0.0, 1.0) * np.clip(
        (window.v - np.float32(top - 0.08)) / 0.08, 0.0, 1.0
    )
    ridge = (np.float32(0.012) + np.float32(0.066) * along) * across * across * ends
    ball = face.half_nose * (0.72 + 0.15 * face.nose_round)
    return ridge + np.float32(0.03 + 0.02 * face.nose_round) * glow(
        window.u - np.float32(tip), window.v - np.float32(tip_v + 0.005), ball, 0.075
    )


def light_skin(
    canvas: Canvas, window: Window, height: np.ndarray, head: np.ndarray, light: Light, gloss: float
) -> tuple[np.ndarray, np.ndarray]:
    """(factor (3, h, w) on the skin's colour, highlight (h, w) to add). `gloss` 0..1 is how oily the skin is."""
    across, down = np.gradient(height, float(canvas.pixel))[::-1]
    cos, sin = np.float32(canvas.cos), np.float32(canvas.sin)
    u, v = window.u, window.v
    places, radius = polar(u, v)
    reach = radius / head[places]
    # A head as an egg: the normal leans outwards towards the outline.
    lean = reach * reach * np.float32(0.85) / np.maximum(radius, 1e-3)
    x = u * lean - (cos * across + sin * down)
    y = v * lean - (cos * down - sin * across)
    z = np.sqrt(np.maximum(1.0 - 0.72 * reach**4, 0.05))
    length = np.float32(1.0) / np.sqrt(x * x + y * y + z * z)
    towards = np.array((light.side, -0.35 - 0.65 * light.height, 1.15), dtype=np.float32)
    towards /= np.linalg.norm(towards)
    bright = (x * towards[0] + y * towards[1] + z * towards[2]) * length
    ambient = np.float32(0.64 - 0.38 * light.contrast)
    lit = ambient * (1.0 - 0.14 * y * length) + (1.0 - ambient) * np.maximum(bright + _WRAP, 0.0) / (1.0 + _WRAP)
    shade = lit / (ambient + (1.0 - ambient) * (towards[2] + _WRAP) / (1.0 + _WRAP))
    dark = np.minimum(shade - 1.0, 0.0)
    shade = np.minimum(shade, 1.0 + (1.0 - np.exp(-np.maximum(shade - 1.0, 0.0) / 0.1)) * (_BRIGHTEST - 1.0))
    half_way = towards + np.array((0.0, 0.0, 1.0), dtype=np.float32)
    half_way /= np.linalg.norm(half_way)
    mirror = np.maximum((x * half_way[0] + y * half_way[1] + z * half_way[2]) * length, 0.0)
    for _ in range(3):
        mirror = mirror * mirror
    factor = shade[None] + (_REDDENING - 1.0)[:, None, None] * dark
    return factor, np.float32(0.055 * gloss) * mirror
