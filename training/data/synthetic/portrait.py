"""The portrait: `render(person, shot)` paints one head-and-shoulders picture, from the background forwards.

Light is part of the shot: it falls on the head's relief, on neck, ears, hair and eyes from one side, and colours the
whole picture. This module decides order and what is not a face (background, body, glasses); shapes of faces are in
`anatomy`, `relief`, `features`, `folds` and `hair`. It draws no random numbers: the same person and shot give the same
bytes.

Layout: result (H, W, 3) uint8 sRGB.
"""

from __future__ import annotations

import numpy as np

from training.data.synthetic.ageing import Ageing, age_face
from training.data.synthetic.anatomy import Anatomy, build_anatomy
from training.data.synthetic.expression import Expression, express
from training.data.synthetic.features import SIDES, draw_brow, draw_eye, draw_mouth, draw_nose, turn
from training.data.synthetic.folds import draw_folds
from training.data.synthetic.hair import COVERS_EARS, brow_colour, draw_back_hair, draw_beard, draw_front_hair
from training.data.synthetic.relief import face_height, light_skin
from training.data.synthetic.shapes import Canvas, ellipse, glow, half_outline, polar, stroke
from training.data.synthetic.shot import Shot
from training.data.synthetic.traits import Person

SMALLEST = 16
_FRAMING = 1.09  # brings the eyes of the mean face a quarter of the picture apart, as portraits are framed for FFHQ
_SHOULDER = np.float32(0.85)  # brighter than this, values approach 1 without reaching it
_SHADE = np.array((0.60, 0.44, 0.40))


def render(person: Person, shot: Shot, size: int = 128) -> np.ndarray:
    """The picture of `person` under `shot`: (size, size, 3) uint8 sRGB. Raises ValueError below 16 pixels."""
    if size < SMALLEST:
        raise ValueError(f"portrait: size is {size}; at least {SMALLEST} pixels are needed.")
    ageing, move, pose = age_face(shot.age), express(shot.emotion, shot.intensity), shot.pose
    face = build_anatomy(person, ageing)
    canvas = Canvas(size, _FRAMING * pose.scale, pose.roll, (pose.shift_x, pose.shift_y))
    head = _head_outline(face, move)

    _draw_background(canvas, shot)
    draw_back_hair(canvas, face, ageing, shot)
    _draw_body(canvas, face, shot)
    if shot.hair_style not in COVERS_EARS:
        for side in SIDES:
            _draw_ear(canvas, face, shot, side)
    places, radius = polar(canvas.full.u, canvas.full.v)
    skin = canvas.soft(head[places] - radius)
    with canvas.only_inside(skin):
        _draw_head(canvas, face, ageing, move, shot, head)
        draw_folds(canvas, face, ageing, move, pose)
    draw_beard(canvas, face, ageing, shot, head)
    draw_mouth(canvas, face, move, pose)
    for side in SIDES:
        draw_eye(canvas, face, move, pose, side, shot.light.side)
    draw_nose(canvas, face, move, pose, shot.light.side)
    draw_front_hair(canvas, face, ageing, shot, head)
    for side in SIDES:
        draw_brow(canvas, face, move, pose, side, brow_colour(shot, ageing, face))
    if shot.glasses != "none":
        _draw_glasses(canvas, face, shot)
    _light_picture(canvas, shot)
    return canvas.to_uint8()


def _head_outline(face: Anatomy, move: Expression) -> np.ndarray:
    """Half outline of the head; a dropped jaw lengthens it, a smile rounds the cheeks, age sags the jaw."""
    chin = face.chin + 0.075 * move.jaw_drop - 0.02 * move.chin_raise
    cheek = face.cheek * (1.0 + 0.02 * move.cheek_raise - 0.02 * move.jaw_drop)
    corner = 0.14 + (chin - 0.14) * 0.52 + face.jowl
    points = (
        (0.0, face.crown),
        (face.temple * 0.58, face.crown + 0.07),
        (face.temple * 0.92, face.crown + 0.24),
        (face.temple, -0.22),
        (cheek, 0.12),
        (face.jaw + 0.25 * face.jowl, corner),
        (face.chin_half_width, chin - 0.055 + 0.4 * face.jowl),
        (0.0, chin),
    )
    return half_outline(np.array(points))


def _draw_background(canvas: Canvas, shot: Shot) -> None:
    first, second = (np.array(colour)[:, None, None] for colour in shot.background_colours)
    u, v = canvas.full.u, canvas.full.v
    if shot.background == "plain":
        mix: np.ndarray = np.zeros((1, 1), dtype=np.float32)
    elif shot.background == "gradient":
        mix = np.clip(0.5 + 0.5 * v, 0.0, 1.0)
    elif shot.background == "halo":
        mix = _smooth(np.clip(0.8 * np.sqrt(u * u + v * v) - 0.25, 0.0, 1.0))
    elif shot.background == "two-tone":
        mix = _smooth(canvas.soft(v - 0.25 * u - 0.1 * np.sin(float(shot.grain)), 0.7))
    else:
        mix = np.full_like(u, 0.1)
        for spot in range(5):
            x, y, r = np.sin(shot.grain + spot * np.array((2.4, 3.7, 5.1)))
            mix += np.float32(0.9) * glow(u - np.float32(x), v - np.float32(y), 0.55 + 0.15 * r, 0.55 + 0.15 * r)
        mix = np.clip(mix, 0.0, 1.0)
    canvas.pixels[:] = first + mix * (second - first)


def _smooth(ramp: np.ndarray) -> np.ndarray:
    """A ramp from 0 to 1 without corners."""
    return ramp * ramp * (3.0 - 2.0 * ramp)


def _draw_body(canvas: Canvas, face: Anatomy, shot: Shot) -> None:
    """Neck, shoulders and clothes at the lower edge."""
    top = face.chin - 0.25
    window = canvas.window(0.0, 0.9, 1.6, 0.9 - top)
    u, v = window.u, window.v
    flare = np.float32(0.0 if shot.clothes == "turtleneck" else 0.5) * np.maximum(
        v - np.float32(face.shoulder - 0.08), 0.0
    )
    neck = canvas.soft(np.float32(face.half_neck) + flare - np.abs(u)) * (v > top)
    # A cylinder, lit from the side that lights the head, in the shadow of the chin.
    round_ = 1.0 - 0.14 * (u / np.float32(face.half_neck)) ** 2 + 0.9 * shot.light.side * shot.light.contrast * u
    canvas.paint(window, neck, (face.skin * np.array((0.88, 0.82, 0.80)))[:, None, None] * np.clip(round_, 0.6, 1.1))
    shadow = _smooth(np.clip(1.0 - (v - np.float32(face.chin) + 0.6 * u * u) / 0.26, 0.0, 1.0))
    canvas.tint(window, neck * shadow * 0.85, _SHADE)
    width = face.half_neck * 3.9
    shoulders = np.minimum(
        v - np.float32(face.shoulder) - 0.32 * (u / np.float32(width)) ** 4 - 0.10 * np.abs(u),
        np.float32(width) - np.abs(u),
    )
    if shot.clothes == "v-neck":
        shoulders = np.minimum(shoulders, np.abs(u) - 0.9 * (np.float32(face.shoulder + 0.26) - v))
    elif shot.clothes == "crew neck":
        shoulders = np.minimum(
            shoulders, -ellipse(u, v - np.float32(face.shoulder - 0.02), face.half_neck * 1.15, 0.13)
        )
    elif shot.clothes == "turtleneck":
        collar = np.minimum(np.float32(face.half_neck * 1.12) - np.abs(u), v - np.float32(face.shoulder - 0.12))
        shoulders = np.maximum(shoulders, collar)
    cloth = canvas.soft(shoulders)
    colour = np.array(shot.clothes_colour)
    canvas.paint(window, cloth, colour)
    if shot.clothes == "collar":
        for side in SIDES:
            flap = np.minimum(
                v - np.float32(face.shoulder - 0.07),
                0.16 - np.abs(side * u - np.float32(face.half_neck) + 0.7 * (v - face.shoulder)),
            )
            canvas.paint(window, canvas.soft(np.minimum(flap, 0.24 - np.abs(v - face.shoulder))), 0.75 * colour + 0.25)
    canvas.tint(window, cloth * np.clip(1.0 - np.abs(shoulders) / 0.1, 0.0, 1.0) * 0.5, np.full(3, 0.75))


def _draw_ear(canvas: Canvas, face: Anatomy, shot: Shot, side: int) -> None:
    out = face.ear_out * (1.0 - 1.6 * side * shot.pose.yaw)
    u, v = side * (face.cheek - 0.045 + out * 0.5), face.eye_v + 0.07 + 0.25 * (face.half_ear - 0.12)
    window = canvas.window(u, v, 0.16, face.half_ear + 0.04)
    x, y = window.u - np.float32(u), window.v - np.float32(v)
    lean = x - np.float32(0.18 * side) * -y
    shape = ellipse(lean, y, 0.045 + max(out, 0.01) * 0.6, face.half_ear)
    lit = 0.95 + 0.22 * side * shot.light.side * shot.light.contrast
    canvas.paint(window, canvas.soft(shape), face.skin * np.array((0.97, 0.87, 0.85)) * lit)
    canvas.tint(
        window,
        canvas.soft(ellipse(lean - side * 0.008, y + 0.01, 0.02 + max(out, 0.01) * 0.35, face.half_ear * 0.62), 0.02)
        * 0.55,
        _SHADE,
    )


def _draw_head(canvas: Canvas, face: Anatomy, ageing: Ageing, move: Expression, shot: Shot, head: np.ndarray) -> None:
    """Skin: the outline filled, rounded by light, with cheeks and the shade of brow and chin."""
    window = canvas.window(0.0, 0.06, face.cheek + 0.12, 0.95)
    height = face_height(canvas, face, ageing, move, shot.pose, window)
    factor, highlight = light_skin(canvas, window, height, head, shot.light, 1.0 - 0.4 * ageing.creasing)
    canvas.paint(window, np.ones_like(window.u), face.skin[:, None, None] * factor + highlight)
    if face.male:  # where a beard would grow, skin is cooler and darker
        jaw = canvas.window(0.0, face.mouth_v + 0.07, face.jaw, 0.32)
        shadow = glow(jaw.u, jaw.v - np.float32(face.mouth_v + 0.07), face.jaw, 0.32) * (1.0 - ageing.childhood)
        canvas.tint(jaw, shadow * 0.45, np.array((0.80, 0.81, 0.85)))
    blush = (
        0.26 + 0.2 * move.cheek_raise + 0.12 * max(face.cheek_fullness, 0.0) + 0.35 * move.brow_lower * move.lip_press
    )
    for side in SIDES:
        cheek, _ = turn(side * face.cheek * 0.62, shot.pose.yaw)
        lift = face.nose_v - 0.04 - 0.05 * move.cheek_raise
        spot = canvas.window(cheek, lift, 0.24, 0.2)
        x, y = spot.u - np.float32(cheek), spot.v - np.float32(lift)
        canvas.tint(spot, glow(x, y, 0.23, 0.18) * blush, np.array((1.03, 0.80, 0.78)))


def _draw_glasses(canvas: Canvas, face: Anatomy, shot: Shot) -> None:
    colour, half = np.array(shot.glasses_colour), 0.175
    centres = [turn(side * (face.eye_u + 0.005), shot.pose.yaw) for side in SIDES]
    window = canvas.window(0.0, face.eye_v, 0.75, 0.25)
    frame = np.full(window.u.shape, -1.0, dtype=np.float32)
    for centre, factor in centres:
        x, y = window.u - np.float32(centre), window.v - np.float32(face.eye_v + 0.015)
        if shot.glasses == "round":
            lens = ellipse(x, y, half * factor, half)
        else:
            lens = np.minimum(half * factor * 1.05 - np.abs(x), 0.135 - np.abs(y))
        canvas.paint(window, canvas.soft(lens) * 0.10, np.ones(3))
        frame = np.maximum(frame, np.float32(0.013) - np.abs(lens))
    (left, narrow), (right, wide) = centres
    inner, outer = left + half * narrow, right - half * wide
    bridge = np.array(
        ((inner, face.eye_v - 0.02), ((inner + outer) / 2, face.eye_v - 0.035), (outer, face.eye_v - 0.02))
    )
    dense = np.stack([np.interp(np.linspace(0, 2, 9), range(3), bridge[:, axis]) for axis in (0, 1)], axis=1).astype(
        np.float32
    )
    frame = np.maximum(frame, stroke(window.u, window.v, dense, np.full(9, 0.013, dtype=np.float32)))
    for side, (centre, factor) in zip(SIDES, centres, strict=True):
        arm = np.minimum(
            0.012 - np.abs(window.v - np.float32(face.eye_v - 0.03)),
            side * (window.u - np.float32(centre + side * half * factor)),
        )
        frame = np.maximum(frame, np.minimum(arm, np.float32(face.cheek) - np.abs(window.u)))
    canvas.paint(window, canvas.soft(frame), colour)


def _light_picture(canvas: Canvas, shot: Shot) -> None:
    """Colour of the light, a slight fall-off away from it, and a film's soft shoulder: nothing is ever clipped."""
    warmth, side = shot.light.warmth, shot.light.side
    canvas.pixels *= np.array((1.0 + 0.05 * warmth, 1.0, 1.0 - 0.08 * warmth), dtype=np.float32)[:, None, None]
    canvas.pixels *= 1.0 + np.float32(0.10 * shot.light.contrast * side) * canvas.full.u
    over = np.maximum(canvas.pixels - _SHOULDER, 0.0)
    canvas.pixels -= over * over / (over + (1.0 - _SHOULDER))
