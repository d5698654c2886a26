"""Folds, creases and spots of the skin: what age leaves for good and what an expression makes for a moment.

A fold's strength is the larger of the two causes. Drawn as soft strokes that multiply the skin, so they show on every
skin tone and under every light.
"""

from __future__ import annotations

import numpy as np

from training.data.synthetic.ageing import Ageing
from training.data.synthetic.anatomy import Anatomy
from training.data.synthetic.expression import Expression
from training.data.synthetic.features import SIDES, turn
from training.data.synthetic.shapes import Canvas, Window, bezier, glow, stroke, taper
from training.data.synthetic.shot import Pose

_FOLD = np.array((0.58, 0.42, 0.37))
_SPOT = np.array((0.74, 0.60, 0.50))
_RIDGE = np.array((1.09, 1.08, 1.07))
# (u as a share of the cheek half width, v, radius) of age spots, and the age amount at which each appears.
_SPOTS = (
    (0.66, -0.24, 0.045, 0.15),
    (-0.70, 0.14, 0.045, 0.4),
    (-0.78, -0.30, 0.040, 0.6),
)


def draw_folds(canvas: Canvas, face: Anatomy, ageing: Ageing, move: Expression, pose: Pose) -> None:
    """All folds of the bare face; eyes, brows, nose and mouth are drawn over them."""
    _forehead(canvas, face, ageing, move, pose)
    for side in SIDES:
        _beside_mouth(canvas, face, ageing, move, pose, side)
        _around_eye(canvas, face, ageing, move, pose, side)
    _nose_root(canvas, face, ageing, move, pose)
    if ageing.creasing > 0.15:
        _spots(canvas, face, ageing, pose)


def _forehead(canvas: Canvas, face: Anatomy, ageing: Ageing, move: Expression, pose: Pose) -> None:
    raised = max(move.brow_inner_raise, move.brow_outer_raise) * (0.55 - 0.4 * ageing.childhood)
    strength = max(0.95 * ageing.folding * (0.35 + 0.65 * ageing.folding), raised)
    if strength < 0.06:
        return
    middle, _ = turn(0.0, pose.yaw)
    lowest = face.brow_v - 0.085 - 0.05 * move.brow_inner_raise
    half = face.temple * 0.58
    window = canvas.window(middle, lowest - 0.09, half + 0.05, 0.15)
    for line in range(2):
        v = lowest - 0.01 - 0.1 * line
        reach = half * (1.0 - 0.14 * line)
        path = bezier((middle - reach, v + 0.02), (middle, v - 0.035), (middle + reach, v + 0.02))
        _crease(canvas, window, path, 0.012 + 0.008 * ageing.creasing, strength)


def _beside_mouth(canvas: Canvas, face: Anatomy, ageing: Ageing, move: Expression, pose: Pose, side: int) -> None:
    moved = max(0.8 * move.lip_corner_pull, 0.95 * move.upper_lip_raise, 0.35 * move.lip_stretch) * (
        1.0 - 0.45 * ageing.childhood
    )
    strength = max(ageing.folding, moved)
    if strength > 0.06:
        wide = 0.06 * move.lip_corner_pull + 0.02 * move.upper_lip_raise
        start, _ = turn(side * (face.half_nose * 1.2), pose.yaw, 1.2)
        bulge, _ = turn(side * (face.half_mouth * 1.25 + 0.07 + wide), pose.yaw)
        end, _ = turn(side * (face.half_mouth * 1.12 + 0.045 + wide), pose.yaw)
        foot = face.mouth_v + 0.02 + 0.05 * ageing.sagging - 0.05 * move.lip_corner_pull
        path = bezier((start, face.nose_v - 0.075), (bulge, face.nose_v + 0.03), (end, foot))
        window = canvas.window((start + end) * 0.5, (face.nose_v + face.mouth_v) * 0.5, 0.17, 0.21)
        _crease(canvas, window, path, 0.011 + 0.010 * ageing.creasing, strength)
    if ageing.sagging > 0.25:  # from the corner of the mouth down to the jowl
        start, _ = turn(side * (face.half_mouth + 0.02), pose.yaw)
        end, _ = turn(side * (face.half_mouth + 0.045), pose.yaw)
        path = bezier((start, face.mouth_v + 0.05), (end, face.mouth_v + 0.09), (end, face.mouth_v + 0.17))
        window = canvas.window(end, face.mouth_v + 0.11, 0.08, 0.12)
        _crease(canvas, window, path, 0.014, 0.8 * ageing.sagging)
        cheek, _ = turn(side * face.cheek * 0.66, pose.yaw)  # the hollow under the cheekbone
        hollow = canvas.window(cheek, face.mouth_v - 0.05, 0.15, 0.22)
        u, v = hollow.u - np.float32(cheek), hollow.v - np.float32(face.mouth_v - 0.05)
        canvas.tint(hollow, glow(u - side * 0.3 * v, v, 0.10, 0.2) * 0.25 * ageing.sagging, _FOLD)


def _around_eye(canvas: Canvas, face: Anatomy, ageing: Ageing, move: Expression, pose: Pose, side: int) -> None:
    centre, _ = turn(side * face.eye_u, pose.yaw)
    bag = max(0.95 * ageing.folding, 0.6 * move.cheek_raise, 0.5 * move.lid_tighten) - 0.1
    if bag > 0.05:
        v = face.eye_v + face.eye_below + 0.05 + 0.02 * ageing.sagging - 0.02 * move.cheek_raise
        half = face.eye_half_width
        path = bezier((centre - half, v - 0.03), (centre, v + 0.05 + 0.02 * ageing.sagging), (centre + half, v - 0.03))
        window = canvas.window(centre, v, half + 0.05, 0.09)
        _crease(canvas, window, path, 0.009 + 0.007 * ageing.creasing, bag)
    feet = max(ageing.folding * (0.3 + 0.7 * ageing.folding), 0.6 * move.cheek_raise * (1.0 - 0.7 * ageing.childhood))
    if feet > 0.06:
        start, _ = turn(side * (face.eye_u + face.eye_half_width + 0.03), pose.yaw)
        end, _ = turn(side * (face.eye_u + face.eye_half_width + 0.115), pose.yaw)
        window = canvas.window((start + end) * 0.5, face.eye_v + 0.02, 0.09, 0.12)
        for spread in (-0.055, 0.07):
            v = face.eye_v + 0.01
            path = bezier((start, v + 0.25 * spread), ((start + end) * 0.5, v + 0.5 * spread), (end, v + spread))
            _crease(canvas, window, path, 0.010, 0.8 * feet)


def _nose_root(canvas: Canvas, face: Anatomy, ageing: Ageing, move: Expression, pose: Pose) -> None:
    middle, _ = turn(0.0, pose.yaw, 1.1)
    frown = max(0.5 * ageing.creasing, 0.95 * move.brow_lower)
    if frown > 0.06:
        window = canvas.window(middle, face.brow_v, 0.09, 0.12)
        for side in SIDES:
            u = middle + side * 0.035
            path = bezier(
                (u - side * 0.005, face.brow_v - 0.07), (u, face.brow_v), (u + side * 0.012, face.brow_v + 0.06)
            )
            _crease(canvas, window, path, 0.012, frown)
    if move.nose_wrinkle > 0.1:
        top = face.eye_v - 0.02
        window = canvas.window(middle, top + 0.06, 0.13, 0.13)
        for line in range(2):
            v = top + 0.01 + 0.075 * line
            path = bezier((middle - 0.075, v + 0.03), (middle, v - 0.03), (middle + 0.075, v + 0.03))
            _crease(canvas, window, path, 0.013, move.nose_wrinkle)


def _spots(canvas: Canvas, face: Anatomy, ageing: Ageing, pose: Pose) -> None:
    for share, v, radius, appears in _SPOTS:
        strength = min(1.0, 3.0 * max(ageing.creasing - appears, 0.0))
        if strength > 0.0:
            u, _ = turn(share * face.cheek, pose.yaw)
            window = canvas.window(u, v, radius, radius)
            spot = glow(window.u - np.float32(u), window.v - np.float32(v), radius * 1.2, radius)
            canvas.tint(window, spot * 0.65 * strength, _SPOT)


def _crease(canvas: Canvas, window: Window, path: np.ndarray, width: float, strength: float) -> None:
    """A soft dark line with a lighter fold of skin on both sides of it."""
    line = stroke(window.u, window.v, path, taper(width, 0.2, 0.2))
    strength = min(strength, 1.0)
    canvas.tint(window, canvas.soft(line + np.float32(0.022), 0.03) * np.float32(0.6 * strength), _RIDGE)
    canvas.tint(window, canvas.soft(line, 0.028) * np.float32(0.95 * strength), _FOLD)
