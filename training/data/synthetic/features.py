"""Features of the face: eyes, brows, nose, mouth, each drawn from anatomy, expression and pose.

This is where an action unit gets its look. Symmetric features are drawn once per side; `side` is -1 (left of the
picture) or 1, and a turn of the head moves and narrows them as if they sat on a sphere.
"""

from __future__ import annotations

import math

import numpy as np

from training.data.synthetic.anatomy import Anatomy
from training.data.synthetic.expression import Expression
from training.data.synthetic.shapes import Canvas, bezier, ellipse, glow, stroke, taper
from training.data.synthetic.shot import Pose

SIDES = (-1, 1)
_WHITE = np.array((0.94, 0.92, 0.90))
_DARK = np.array((0.10, 0.07, 0.07))
_SHADE = np.array((0.66, 0.50, 0.44))  # what skin in shadow keeps of its colour
_FLUSH = np.array((1.03, 0.88, 0.86))
_LID = np.array((0.92, 0.83, 0.81))
_LID_SHADOW = np.array((0.48, 0.42, 0.44))
_HEAD_RADIUS = 0.66


def turn(u: float, yaw: float, depth: float = 1.0) -> tuple[float, float]:
    """(u, width factor) of a feature after the head turned by `yaw` radians; `depth` > 1 lies in front of the sphere."""
    rest = math.asin(min(max(u / _HEAD_RADIUS, -0.95), 0.95))
    factor = min(max(math.cos(rest + yaw) / math.cos(rest), 0.6), 1.25)
    return _HEAD_RADIUS * math.sin(rest + yaw * depth), factor


def draw_eye(canvas: Canvas, face: Anatomy, move: Expression, pose: Pose, side: int, light_side: float = -1.0) -> None:
    """Socket, white, iris, lids and lashes of one eye."""
    centre, factor = turn(side * face.eye_u, pose.yaw)
    half = face.eye_half_width * factor
    openness = 1.0 + 0.72 * move.lid_raise - 0.5 * move.lid_tighten - 0.82 * move.lid_droop - 0.22 * move.cheek_raise
    above = face.eye_above * max(openness, 0.12)
    below = face.eye_below * (1.0 + 0.35 * move.lid_raise - 0.35 * move.lid_tighten - 1.25 * move.cheek_raise)
    slant = face.eye_slant - 0.34 * move.brow_inner_raise * (1.0 - move.lid_raise) + 0.30 * move.brow_lower
    window = canvas.window(centre, face.eye_v, half * 1.9, 0.28)
    x = (window.u - np.float32(centre)) * np.float32(side / half)
    y = window.v - np.float32(face.eye_v) + np.float32(slant * half * 0.5) * x
    bow = np.float32(1.0) - x * x
    edge = np.minimum(y + np.float32(above) * bow, np.float32(below) * bow - y)
    flat = np.float32(0.75)  # the curves slope, so vertical distance overstates the true one

    canvas.tint(window, glow(x * 0.62, y + 0.03, 1.0, 0.17) * 0.25, _SHADE)
    opening = canvas.soft(edge * flat)
    canvas.paint(window, opening, _WHITE)
    iris_u = window.u - np.float32(centre + 0.045 * pose.gaze_x + 0.25 * pose.yaw * half)
    iris_v = window.v - np.float32(face.eye_v - 0.012 + 0.03 * pose.gaze_y)
    disc = ellipse(iris_u, iris_v, face.iris * (0.5 + 0.5 * factor), face.iris)
    canvas.paint(window, opening * canvas.soft(disc), face.iris_colour * 0.55)
    canvas.paint(window, opening * canvas.soft(disc - np.float32(0.012)), face.iris_colour)
    canvas.paint(window, opening * canvas.soft(disc - np.float32(face.iris * 0.5)), _DARK)
    canvas.tint(window, opening * np.maximum(1.0 - (y + np.float32(above) * bow) / 0.06, 0.0) * 0.5, _LID_SHADOW)
    canvas.tint(window, opening * x * x * 0.3, _LID_SHADOW)  # the ball curves away into the corners
    spark = ellipse(iris_u - np.float32(0.026 * light_side), iris_v + np.float32(0.026), 0.019, 0.019)
    canvas.paint(window, opening * canvas.soft(spark, 0.006) * 0.95, np.ones(3))

    inside = np.abs(x) < 1.12
    lash = 0.015 if face.male else 0.023
    upper = np.abs(y + np.float32(above) * bow + np.float32(lash * 0.5)) * flat
    canvas.paint(
        window, canvas.soft(np.float32(lash) * (0.8 + 0.35 * x) - upper) * inside * (0.7 if face.male else 0.9), _DARK
    )
    lower = np.abs(y - np.float32(below) * bow) * flat
    canvas.tint(window, canvas.soft(np.float32(0.008) - lower) * inside * 0.55, _SHADE)
    # The crease stays where the open eye has it, so that a lowered lid shows as skin between crease and lashes.
    crease_at = max(face.eye_above * (1.0 + 0.45 * move.lid_raise - 0.3 * move.lid_tighten), above) + 0.036
    crease_at -= 0.028 * face.lid_hood * (1.0 - move.lid_droop) + 0.03 * move.brow_lower * move.lid_tighten
    lid = np.minimum(y + np.float32(crease_at) * (1.0 - 0.55 * x * x), -y - np.float32(above) * bow)
    canvas.tint(window, canvas.soft(lid, 0.02) * inside * (0.25 + 0.3 * move.lid_droop), _LID)
    crease = np.abs(y + np.float32(crease_at) * (1.0 - 0.55 * x * x)) * flat
    strength = 0.5 + 0.45 * face.lid_hood
    canvas.tint(
        window, canvas.soft(np.float32(0.009 + 0.006 * face.lid_hood) - crease, 0.012) * inside * strength, _SHADE
    )
    if not face.male:
        lashes = bezier((0.8, -above * 0.35), (1.05, -above * 0.5), (1.28, -above * 0.5 - 0.05))
        along = stroke(
            x * np.float32(half), y, lashes * np.array((half, 1.0), dtype=np.float32), taper(0.011, 1.0, 0.2)
        )
        canvas.paint(window, canvas.soft(along) * 0.85, _DARK)


def draw_brow(canvas: Canvas, face: Anatomy, move: Expression, pose: Pose, side: int, colour: np.ndarray) -> None:
    """One eyebrow, thickest at its inner third."""
    grief = move.brow_inner_raise * (1.0 - move.brow_outer_raise)  # raised at the root alone the brow slants
    raised_in = 0.13 * move.brow_inner_raise - 0.125 * move.brow_lower - 0.04 * move.nose_wrinkle
    raised_out = 0.115 * move.brow_outer_raise + 0.05 * move.brow_lower - 0.065 * grief
    middle = 0.05 * move.brow_inner_raise + 0.06 * move.brow_outer_raise - 0.05 * move.brow_lower
    inner, _ = turn(side * (face.eye_u - 0.135 - 0.03 * move.brow_lower), pose.yaw)
    peak, _ = turn(side * (face.eye_u + 0.03), pose.yaw)
    outer, _ = turn(side * (face.eye_u + 0.175), pose.yaw)
    tail = face.brow_v + 0.035
    path = bezier(
        (inner, face.brow_v + 0.012 - raised_in),
        (peak, face.brow_v - 0.025 - 2.0 * face.brow_arch - 2.0 * middle + 0.5 * (raised_in + raised_out)),
        (outer, tail - raised_out),
    )
    window = canvas.window(float(path[:, 0].mean()), float(path[:, 1].mean()), 0.24, 0.16)
    distance = stroke(window.u, window.v, path, taper(face.brow_half_thickness, 0.85, 0.3))
    canvas.paint(window, canvas.soft(distance, 0.012) * 0.92, colour)


def draw_nose(canvas: Canvas, face: Anatomy, move: Expression, pose: Pose, light_side: float) -> None:
    """Bridge by light and shadow, tip, wings and nostrils."""
    base = face.nose_v - 0.035 * move.nose_wrinkle - 0.01 * move.upper_lip_raise
    tip_v = base - 0.055 - 0.04 * face.nose_round
    root, _ = turn(0.0, pose.yaw, 1.05)
    tip, _ = turn(0.0, pose.yaw, 1.45)
    half = face.half_nose * (1.0 + 0.12 * move.nose_wrinkle + 0.06 * move.lip_corner_pull)
    shadow = 1.0 if light_side <= 0.0 else -1.0
    window = canvas.window(tip, (face.eye_v + base) * 0.5, half * 2.0 + 0.06, (base - face.eye_v) * 0.5 + 0.16)

    u, v = window.u - np.float32(tip), window.v - np.float32(base)
    flank = np.array((shadow * half * 0.75, 0.0), dtype=np.float32)
    bridge = bezier((root, face.eye_v - 0.03), (root, face.eye_v + 0.12), (tip, tip_v)) + flank
    cast = stroke(window.u, window.v, bridge, taper(0.012, 1.0, 1.0))
    canvas.tint(window, canvas.soft(cast, 0.10) * 0.25, _SHADE)
    canvas.tint(window, glow(u - shadow * half * 0.25, v - 0.04, half * 1.3, 0.08) * 0.45, _SHADE)  # cast below
    ball = half * (0.7 + 0.22 * face.nose_round)
    canvas.tint(window, glow(u, window.v - np.float32(tip_v + 0.012), ball * 1.4, 0.1) * 0.6, _FLUSH)
    shine = glow(u + shadow * half * 0.2, window.v - np.float32(tip_v - 0.012), ball * 0.6, 0.04)
    canvas.tint(window, shine * 0.5, np.full(3, 1.16))
    droop = 0.02 * max(-face.nose_round, 0.0)
    under = bezier(
        (tip - half * 0.5, base - 0.005),
        (tip, base + 0.03 + 2.0 * droop - 0.02 * face.nose_round),
        (tip + half * 0.5, base - 0.005),
    )
    canvas.tint(window, canvas.soft(stroke(window.u, window.v, under, taper(0.011)), 0.012) * 0.75, _SHADE)
    nostril = 0.014 + 0.010 * face.nose_round
    for side in SIDES:
        wing = bezier(
            (tip + side * half * 0.8, base - 0.085),
            (tip + side * half * 1.28, base - 0.03),
            (tip + side * half * 0.72, base + 0.006),
        )
        canvas.tint(window, canvas.soft(stroke(window.u, window.v, wing, taper(0.010)), 0.016) * 0.75, _SHADE)
        hole = ellipse(
            u - np.float32(side * half * 0.46),
            v + np.float32(0.008 + 0.006 * face.nose_round),
            half * (0.24 + 0.07 * face.nose_round),
            nostril,
        )
        canvas.tint(window, canvas.soft(hole, 0.008) * 0.8, np.array((0.40, 0.24, 0.22)))


def draw_mouth(canvas: Canvas, face: Anatomy, move: Expression, pose: Pose) -> None:
    """Lips as areas between curves; when they part: teeth, tongue and the dark behind them."""
    centre, factor = turn(0.0, pose.yaw, 1.15)
    pull, press, snarl = move.lip_corner_pull, move.lip_press, move.upper_lip_raise
    grin = min(max((pull - 0.35) / 0.45, 0.0), 1.0)  # a slight smile keeps the lips closed
    rounded = move.jaw_drop**0.7 * (1.0 - pull) * (1.0 - 0.8 * move.lip_stretch)
    half = face.half_mouth * factor * (1.0 + 0.36 * pull + 0.32 * move.lip_stretch - 0.5 * rounded)
    half *= 1.0 - 0.04 * press - 0.16 * move.chin_raise + 0.06 * snarl
    corner = (
        -0.135 * pull * (1.4 - 0.4 * pull) + 0.13 * move.lip_corner_depress + 0.02 * move.lip_stretch + face.mouth_droop
    )
    middle = face.mouth_v + 0.055 * pull - 0.03 * move.chin_raise - 0.4 * corner * (corner > 0)
    middle += 0.02 * move.jaw_drop + 0.035 * rounded - 0.01 * snarl
    part_up = 0.026 * grin + 0.03 * move.lip_stretch + 0.02 * move.jaw_drop + 0.085 * rounded + 0.085 * snarl
    part_down = 0.15 * move.jaw_drop - 0.02 * rounded + 0.06 * grin + 0.055 * move.lip_stretch
    thin = 1.0 - 0.6 * press - 0.15 * pull - 0.25 * move.lip_stretch
    upper, lower = face.upper_lip * (thin - 0.2 * snarl), face.lower_lip * (thin + 0.25 * move.chin_raise)

    window = canvas.window(centre, middle + 0.04, half * 1.35, 0.34)
    x = (window.u - np.float32(centre)) / np.float32(half)
    square = x * x
    bow = np.maximum(1.0 - square, 0.0)
    # Stretched and snarling lips part along their whole width, others in an arc.
    boxy = min(1.0, move.lip_stretch + 0.9 * snarl)
    arc = (1.0 - rounded) * bow + rounded * np.sqrt(bow)
    gape = (1.0 - boxy) * arc + boxy * np.minimum(2.6 * bow, 1.0)
    y = window.v - np.float32(middle) - np.float32(corner) * square
    cupid = np.float32(1.0) - np.float32(0.42) * np.maximum(1.0 - np.abs(x) * 5.0, 0.0) * (1.0 - move.jaw_drop)
    roof, floor = -np.float32(part_up) * gape, np.float32(part_down) * gape
    lip_top = roof - np.float32(upper * 1.25) * np.sqrt(bow) * cupid
    lip_bottom = floor + np.float32(lower) * np.sqrt(bow)

    canvas.tint(window, glow(x, y - np.float32(part_down + lower + 0.05), 0.75, 0.055) * 0.5, _SHADE)
    flat = np.float32(0.85)
    lips = canvas.soft(np.minimum(y - lip_top, lip_bottom - y) * flat) * (bow > 0)
    canvas.paint(window, lips, face.lips)
    canvas.tint(window, lips * (y < 0) * 0.35, np.array((0.78, 0.70, 0.70)))
    canvas.tint(
        window,
        glow(x, y - np.float32(part_down + 0.45 * lower), 0.6, 0.45 * lower + 0.012) * lips * 0.55,
        np.array((1.22, 1.24, 1.24)),
    )

    gap = part_up + part_down
    if gap > 0.012:
        inside = canvas.soft(np.minimum(y - roof, floor - y) * flat) * (bow > 0)
        canvas.paint(window, inside, np.array((0.27, 0.08, 0.09)))
        if move.jaw_drop > 0.45:
            tongue = ellipse(window.u - np.float32(centre), y - np.float32(part_down), half * 0.55, part_down * 0.45)
            canvas.paint(window, inside * canvas.soft(tongue, 0.02), np.array((0.74, 0.33, 0.33)))
        teeth_to = -part_up + min(0.062, 0.25 * gap + 0.6 * gap * max(pull, boxy))
        canvas.paint(window, inside * canvas.soft(np.float32(teeth_to) - y + 0.0 * x) * (np.abs(x) < 0.86), _WHITE)
        if boxy > 0.3:
            bared = canvas.soft(y - np.float32(teeth_to + 0.012)) * (np.abs(x) < 0.8) * min(1.0, boxy)
            canvas.paint(window, inside * bared * (move.jaw_drop < 0.5), _WHITE * 0.95)
        canvas.tint(window, inside * square * 0.4, _LID_SHADOW)  # the rows of teeth curve away
    else:
        seam = (
            np.float32(0.0095 + 0.006 * press + 0.004 * move.lip_corner_depress)
            - np.abs(y - np.float32(0.5 * (part_down - part_up))) * flat
        )
        canvas.tint(window, canvas.soft(seam) * (np.abs(x) < 1.04) * 0.85, np.array((0.42, 0.28, 0.28)))
    for side in SIDES:
        end = window.u - np.float32(centre + side * half)
        canvas.tint(window, glow(end, window.v - np.float32(middle + corner), 0.04, 0.035) * 0.6, _SHADE)
