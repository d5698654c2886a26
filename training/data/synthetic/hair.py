"""Hair: on the head (behind and in front of the face), brows' colour, beards.

Style and natural colour belong to the picture. Of age, hair shows what age does to it: white strands unless dyed, a
receding hairline and less volume, for every style alike.
"""

from __future__ import annotations

import numpy as np

from training.data.synthetic.ageing import Ageing
from training.data.synthetic.anatomy import Anatomy
from training.data.synthetic.features import turn
from training.data.synthetic.shapes import Canvas, bezier, ellipse, polar, stroke, taper
from training.data.synthetic.shot import HAIR_COLOURS, Shot

COVERS_EARS = ("bob", "long", "curly")
_WHITE_HAIR = np.array((0.86, 0.86, 0.86))


def hair_colour(shot: Shot, ageing: Ageing) -> np.ndarray:
    """(3,) sRGB: the natural colour, whitened by age unless dyed."""
    natural = np.array(HAIR_COLOURS[shot.hair_colour])
    return natural if shot.dyed else natural + ageing.greying * (_WHITE_HAIR - natural)


def draw_back_hair(canvas: Canvas, face: Anatomy, ageing: Ageing, shot: Shot) -> None:
    """What hangs behind the neck or stands above the crown; drawn before the body."""
    colour = hair_colour(shot, ageing) * 0.78
    full = 1.0 - 0.45 * ageing.thinning
    u, v = canvas.full.u, canvas.full.v
    if shot.hair_style in ("long", "bob", "curly"):
        bottom = {"long": 1.10, "bob": 0.52, "curly": 0.62}[shot.hair_style]
        half = face.cheek + {"long": 0.10, "bob": 0.14, "curly": 0.20}[shot.hair_style] * full
        flare = 0.03 * np.sin(v * 20.0 + shot.grain % 7) if shot.hair_style == "curly" else 0.06 * v
        dome = np.sqrt(np.maximum(1.0 - (np.minimum(v - 0.1, 0.0) / (face.crown - 0.16)) ** 2, 0.0))
        inside = np.minimum((half + flare) * dome - np.abs(u), np.float32(bottom) - v - 0.25 * u * u)
        inside = np.minimum(inside, v - np.float32(face.crown - 0.05))
        canvas.paint(canvas.full, canvas.soft(inside, 0.02), colour)
    elif shot.hair_style == "bun":
        window = canvas.window(0.0, face.crown - 0.10, 0.24, 0.2)
        knot = ellipse(window.u, window.v - np.float32(face.crown - 0.10), 0.2 * (0.6 + 0.4 * full), 0.15)
        canvas.paint(window, canvas.soft(knot, 0.015), colour * 1.1)


def draw_front_hair(canvas: Canvas, face: Anatomy, ageing: Ageing, shot: Shot, head: np.ndarray) -> None:
    """The cap of hair over skull and forehead; `head` is the head's half outline."""
    style, thin = shot.hair_style, ageing.thinning
    colour = hair_colour(shot, ageing)
    volume = {
        "shaved": 0.004,
        "short": 0.055,
        "side part": 0.085,
        "fringe": 0.08,
        "bob": 0.085,
        "long": 0.075,
        "curly": 0.16,
        "bun": 0.045,
    }
    rise: np.ndarray = np.array(volume[style] * (1.0 - 0.5 * thin), dtype=np.float32)
    window = canvas.window(0.0, -0.42, face.cheek + 0.28, 0.62)
    u, v = window.u, window.v
    places, radius = polar(u, v)
    if style == "curly":
        rise = rise + np.float32(0.028) * np.sin(places * np.float32(0.11) + shot.grain % 11) * np.sin(u * 31.0)
    if style not in COVERS_EARS:  # short hair lies flat above the ears
        rise = rise * np.clip((0.0 - v) * 3.0, 0.0, 1.0)
    edge = head[places] + rise - radius

    # The hairline is a height over |u|: level above the forehead, falling along the temples to the sideburns.
    share = np.abs(u - np.float32(0.14 * shot.pose.yaw)) / np.float32(face.temple)
    recede = thin * (0.07 + 0.15 * np.exp(-(((share - 0.55) / 0.25) ** 2)))
    low = {"fringe": 0.20, "shaved": -0.01, "short": 0.03, "curly": 0.06}.get(style, 0.0)
    fall = {"bob": 1.5, "long": 1.3, "curly": 1.1, "side part": 0.6}.get(style, 0.5)
    line = face.hairline + low + fall * np.maximum(share - 0.62, 0.0) ** 1.5 * 2.2 - recede
    if style == "side part":
        parting = -0.30 if shot.grain % 2 else 0.30
        line = line + 0.14 * np.clip((u - parting) * (-np.sign(parting)) * 1.6, -0.35, 1.0) * (1.0 - 0.5 * thin)
    elif style == "fringe":
        line = line + 0.02 * np.sin(u * 42.0 + shot.grain % 13)
    elif style == "curly":
        line = line + 0.03 * np.sin(u * 30.0 + shot.grain % 13)
    end = {"bob": 0.46, "long": 0.62, "curly": 0.5}.get(style, 0.02)
    cover = canvas.soft(np.minimum(edge, np.minimum(line - v, np.float32(end) - v)), 0.016)
    strands = np.sin(places * np.float32(0.31) + 2.0 * np.sin(radius * 7.0 + shot.grain % 5) + shot.grain % 17)
    shine = np.exp(-(((radius / head[places] - 0.93) / 0.10) ** 2))
    shade = 1.0 + 0.045 * strands + 0.28 * shine * (0.6 - 0.4 * shot.light.side * np.sign(u))
    cover = cover * np.float32(0.42 - 0.2 * thin if style == "shaved" else 1.0 - 0.25 * thin * thin)
    canvas.tint(
        window, canvas.soft(np.minimum(edge, line - v + 0.045), 0.08) * (cover < 0.9) * 0.25, np.array((0.7, 0.6, 0.55))
    )
    canvas.paint(window, cover, colour[:, None, None] * shade + 0.03 * shine)


def brow_colour(shot: Shot, ageing: Ageing, face: Anatomy) -> np.ndarray:
    """(3,) sRGB: a darker tone of the hair, always apart from the skin."""
    colour = hair_colour(shot, ageing) * 0.72
    if abs(float(colour.mean() - face.skin.mean())) < 0.16:
        colour = face.skin * 0.55
    return colour


def draw_beard(canvas: Canvas, face: Anatomy, ageing: Ageing, shot: Shot, head: np.ndarray) -> None:
    """Stubble, moustache, goatee or full beard, drawn before the mouth."""
    if shot.beard == "none":
        return
    colour = hair_colour(shot, ageing) * 0.85
    centre, _ = turn(0.0, shot.pose.yaw, 1.1)
    reach = face.chin - face.nose_v
    window = canvas.window(centre, (face.chin + face.nose_v) * 0.5, face.cheek + 0.1, reach * 0.5 + 0.2)
    u, v = window.u - np.float32(centre), window.v
    opacity = 0.38 if shot.beard == "stubble" else 0.95
    if shot.beard in ("stubble", "full"):
        places, radius = polar(window.u, v)
        edge = head[places] + np.float32(0.03 if shot.beard == "full" else -0.005) - radius
        line = face.nose_v + 0.04 + 0.17 * np.sin(np.minimum(np.abs(u) / face.cheek, 1.0) * 3.6) ** 2 - 0.5 * u * u
        area = np.minimum(edge, v - line)
        hole = ellipse(u, v - np.float32(face.mouth_v + 0.015), face.half_mouth * 0.95, 0.062)
        canvas.paint(window, canvas.soft(np.minimum(area, -hole), 0.03) * opacity, colour)
    if shot.beard == "goatee":
        area = ellipse(u, v - np.float32(face.chin - 0.09), face.half_mouth * 0.62, 0.14)
        canvas.paint(
            window, canvas.soft(np.minimum(area, v - np.float32(face.mouth_v + 0.075)), 0.03) * opacity, colour
        )
    if shot.beard in ("moustache", "goatee", "full"):
        for side in (-1, 1):
            path = bezier(
                (centre, face.nose_v + 0.05),
                (centre + side * face.half_mouth * 0.7, face.nose_v + 0.04),
                (centre + side * face.half_mouth * 1.15, face.mouth_v + 0.02),
            )
            canvas.paint(
                window, canvas.soft(stroke(window.u, window.v, path, taper(0.04, 1.0, 0.3)), 0.02) * opacity, colour
            )
