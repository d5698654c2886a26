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
_WHITE_HAIR = np.array((0.80, 0.80, 0.79))
_VOLUME = {
    "shaved": 0.004,
    "short": 0.055,
    "side part": 0.085,
    "fringe": 0.08,
    "bob": 0.085,
    "long": 0.075,
    "curly": 0.10,
    "bun": 0.045,
}
# How far below the anatomical hairline the hair reaches, and how steeply its edge falls along the temples.
_LOW = {"fringe": 0.19, "shaved": -0.01, "short": 0.03, "curly": 0.06}
_FALL = {"bob": 1.5, "long": 1.3, "curly": 1.1, "side part": 0.6}
_END = {"bob": 0.40, "long": 0.50, "curly": 0.42}  # v where front hair has faded into what hangs behind


def hair_colour(shot: Shot, ageing: Ageing) -> np.ndarray:
    """(3,) sRGB: the natural colour, whitened by age unless dyed."""
    natural = np.array(HAIR_COLOURS[shot.hair_colour])
    return natural if shot.dyed else natural + ageing.greying * (_WHITE_HAIR - natural)


def draw_back_hair(canvas: Canvas, face: Anatomy, ageing: Ageing, shot: Shot) -> None:
    """What hangs behind the neck or stands above the crown; drawn before the body."""
    colour = hair_colour(shot, ageing)
    full = 1.0 - 0.45 * ageing.thinning
    u, v = canvas.full.u, canvas.full.v
    if shot.hair_style in COVERS_EARS:
        bottom = {"long": 1.10, "bob": 0.52, "curly": 0.60}[shot.hair_style]
        half = face.cheek + {"long": 0.10, "bob": 0.13, "curly": 0.12}[shot.hair_style] * full
        flare = 0.03 * np.sin(v * 12.0 + shot.grain % 7) if shot.hair_style == "curly" else 0.05 * v
        dome = np.sqrt(np.maximum(1.0 - (np.minimum(v - 0.1, 0.0) / (face.crown - 0.16)) ** 2, 0.0))
        across = np.abs(u)
        inside = np.minimum((half + flare) * dome - across, np.float32(bottom) - v - 0.35 * u * u)
        inside = np.minimum(inside, v - np.float32(face.crown - 0.05))
        behind = np.clip((across - np.float32(0.72 * half)) / np.float32(0.28 * half), 0.0, 1.0)
        tone = (0.55 + 0.35 * behind) * _strands(shot, u, v) * _side_light(shot, u)
        canvas.paint(canvas.full, canvas.soft(inside, 0.03), colour[:, None, None] * tone)
    elif shot.hair_style == "bun":
        window = canvas.window(0.0, face.crown - 0.05, 0.22, 0.15)
        y = window.v - np.float32(face.crown - 0.05)
        knot = ellipse(window.u, y, 0.19 * (0.6 + 0.4 * full), 0.12)
        tone = (0.86 - 1.2 * y) * _side_light(shot, 2.5 * window.u)
        canvas.paint(window, canvas.soft(knot, 0.02), colour[:, None, None] * tone)


def draw_front_hair(canvas: Canvas, face: Anatomy, ageing: Ageing, shot: Shot, head: np.ndarray) -> None:
    """The cap of hair over skull and forehead; `head` is the head's half outline."""
    style, thin = shot.hair_style, ageing.thinning
    colour = hair_colour(shot, ageing)
    if style == "shaved":  # skin shows between the stubs
        colour = 0.68 * colour + 0.2 * face.skin
    window = canvas.window(0.0, -0.42, face.cheek + 0.28, 0.62)
    u, v = window.u, window.v
    places, radius = polar(u, v)
    rise: np.ndarray = np.array(_VOLUME[style] * (1.0 - 0.5 * thin), dtype=np.float32)
    if style == "curly":
        rise = rise * np.clip(0.45 - v, 0.4, 1.0) + np.float32(0.02) * np.sin(
            places * np.float32(0.09) + shot.grain % 11
        )
    if style not in COVERS_EARS:  # short hair lies flat above the ears
        rise = rise * np.clip((0.0 - v) * 3.0, 0.0, 1.0)
    edge = head[places] + rise - radius
    line = _hairline(face, thin, shot, u)
    feather = {"shaved": 0.14, "short": 0.07, "side part": 0.07}.get(style, 0.045)
    below = canvas.soft(line - v, feather + 0.05 * thin)
    end = np.clip((np.float32(_END.get(style, 0.02)) - v) / (0.35 if style in COVERS_EARS else 0.06), 0.0, 1.0)
    cover = np.minimum(canvas.soft(edge, 0.016), below * end)

    reach = radius / head[places]
    crest = np.exp(-(((reach - 0.86) / 0.13) ** 2)) * np.maximum(
        -v, 0.0
    )  # where a round head mirrors the light above it
    roots = np.clip((line - v) / 0.16, 0.0, 1.0)  # hair rises out of its own shadow
    tone = (0.74 + 0.22 * roots) * _strands(shot, u, v) * _side_light(shot, u)
    tone *= 1.0 + (0.18 + 0.3 * shot.light.height) * crest - 0.22 * np.clip((reach - 0.98) / 0.14, 0.0, 1.0)
    shadow = canvas.soft(np.minimum(edge, line - v + 0.05), 0.1) * (1.0 - cover)
    canvas.tint(window, shadow * (0.1 if style == "shaved" else 0.3), np.array((0.72, 0.62, 0.58)))
    cover *= np.float32(0.68 - 0.4 * thin if style == "shaved" else 1.0 - 0.35 * thin * thin)
    canvas.paint(window, cover, colour[:, None, None] * tone + np.float32(0.05) * crest)


def _hairline(face: Anatomy, thin: float, shot: Shot, u: np.ndarray) -> np.ndarray:
    """v of the edge of the hair at `u`: level above the forehead, falling along the temples; age moves it back, a man's most."""
    share = np.abs(u - np.float32(0.14 * shot.pose.yaw)) / np.float32(face.temple)
    corners = np.exp(-(((share - 0.55) / 0.25) ** 2))
    recede = thin * ((0.10 + 0.19 * corners) if face.male else (0.05 + 0.08 * corners))
    fall = _FALL.get(shot.hair_style, 0.5)
    low = _LOW.get(shot.hair_style, 0.0)
    line = face.hairline + low + fall * np.maximum(share - 0.62, 0.0) ** 1.5 * 2.2 - recede
    if shot.hair_style == "side part":
        line = line + 0.14 * np.clip((u - _parting(shot)) * -np.sign(_parting(shot)) * 1.6, -0.35, 1.0) * (
            1.0 - 0.5 * thin
        )
    elif shot.hair_style == "fringe":
        line = line + 0.05 * np.minimum(share, 1.0) ** 2
    elif shot.hair_style == "curly":
        line = line + 0.025 * np.sin(u * 18.0 + shot.grain % 13)
    elif shot.hair_style in ("bob", "long"):  # parted in the middle
        line = line - 0.03 + 0.10 * np.minimum(share, 0.7)
    return line


def _parting(shot: Shot) -> float:
    return -0.30 if shot.grain % 2 else 0.30


def _strands(shot: Shot, u: np.ndarray, v: np.ndarray) -> np.ndarray | np.float32:
    """Factor around 1: a few broad bands along which the hair falls."""
    if shot.hair_style == "shaved":
        return np.float32(1.0)
    phase = np.float32(shot.grain % 17)
    if shot.hair_style == "curly":
        curls = np.sin(17.0 * u + 2.0 * np.sin(10.0 * v + phase)) * np.sin(15.0 * v + 2.0 * np.sin(9.0 * u))
        return 1.0 + np.float32(0.16) * curls
    if shot.hair_style == "side part":  # arching away from the parting
        flow = np.sqrt((u - np.float32(_parting(shot))) ** 2 + 2.0 * (v + np.float32(0.1)) ** 2)
    elif shot.hair_style in ("bob", "long"):  # over the crown to both sides, then straight down
        flow = np.sqrt(u * u + np.minimum(v - np.float32(0.1), 0.0) ** 2)
    elif shot.hair_style == "fringe":
        flow = u * (1.0 - 0.3 * v)
    elif shot.hair_style == "bun":  # drawn up to the knot
        flow = np.float32(0.6) * u / np.maximum(v + np.float32(1.1), 0.2)
    else:
        flow = u + np.float32(0.5) * v
    return 1.0 + np.float32(0.07) * np.sin(22.0 * flow + phase) + np.float32(0.05) * np.sin(51.0 * flow + 2.0 * phase)


def _side_light(shot: Shot, u: np.ndarray) -> np.ndarray:
    """Factor around 1: hair on the side of the light is brighter."""
    return 1.0 + np.float32(0.5 * shot.light.side * (0.3 + 0.7 * shot.light.contrast)) * np.clip(u, -0.7, 0.7)


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
    tone = _side_light(shot, window.u) * (1.0 + np.float32(0.06) * np.sin(24.0 * u) * np.sin(7.0 * v))
    colour = colour[:, None, None] * tone
    if shot.beard in ("stubble", "full"):
        places, radius = polar(window.u, v)
        stands = (
            0.03 * np.clip((v - np.float32(face.mouth_v - 0.12)) / 0.2, 0.0, 1.0) if shot.beard == "full" else -0.005
        )
        edge = head[places] + stands - radius
        line = face.nose_v + 0.04 + 0.17 * np.sin(np.minimum(np.abs(u) / face.cheek, 1.0) * 3.6) ** 2 - 0.5 * u * u
        hole = ellipse(u, v - np.float32(face.mouth_v + 0.015), face.half_mouth * 0.95, 0.062)
        area = np.minimum(canvas.soft(np.minimum(edge, -hole), 0.03), canvas.soft(v - line, 0.07))
        canvas.paint(window, area * opacity, colour)
    if shot.beard == "goatee":
        area = ellipse(u, v - np.float32(face.chin - 0.07), face.half_mouth * 0.75, 0.14)
        area = np.minimum(area, v - np.float32(face.mouth_v + 0.075))
        canvas.paint(window, canvas.soft(area, 0.045) * opacity, colour)
    if shot.beard in ("moustache", "goatee", "full"):
        for side in (-1, 1):
            path = bezier(
                (centre, face.nose_v + 0.05),
                (centre + side * face.half_mouth * 0.7, face.nose_v + 0.04),
                (centre + side * face.half_mouth * 1.15, face.mouth_v + 0.02),
            )
            canvas.paint(
                window, canvas.soft(stroke(window.u, window.v, path, taper(0.04, 1.0, 0.3)), 0.03) * opacity, colour
            )
