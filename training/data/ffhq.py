"""FFHQ, Flickr-Faces-HQ (Karras, Laine & Aila 2019): 70,000 aligned portraits, one a person as far as is known.

Layout: `images1024x1024/{i//1000*1000:05d}/{i:05d}.png`, `thumbnails128x128/…` alike, or pictures `{i:05d}.png` in any folder;
the largest of a number counts. Labels, if any (ffhq-features-dataset): `json/{i:05d}.json`, a list of faces with
`faceAttributes{age, gender, emotion{…}}`, written by a recogniser and not by people.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from training.data.faults import Fault, Tell, tell_nobody
from training.data.record import FEMALE, MALE, Record
from training.data.tree import files, relative, tell_unknown

NAME = re.compile(r"(?:^|/)(\d{5})\.(png|jpg|jpeg|webp)$")
LABELS = re.compile(r"^(\d{5})\.json$")
LARGEST, SMALLEST = "images1024x1024", "thumbnails128x128"  # any other folder is in between
UNALIGNED = "in-the-wild-images"  # the photos that the portraits were cut from
FIRST_HELD_OUT = 60_000  # the authors' own division: the first 60,000 for training
SEX = {"female": FEMALE, "male": MALE}
# Contempt has no counterpart among our labels.
EMOTION = {
    "neutral": "neutral",
    "happiness": "happy",
    "sadness": "sad",
    "anger": "angry",
    "fear": "fearful",
    "disgust": "disgust",
    "surprise": "surprised",
    "contempt": None,
}
MIN_SCORE = 0.5  # below it the recogniser was torn between several


def read(root: Path, tell: Tell = tell_nobody) -> Iterator[Record]:
    """One record a number. Age, sex and emotion from the label file of that number; the scores are no intensities.

    A label file with an empty list means that the recogniser found no face: no labels, and no fault.
    """
    pictures: dict[str, Path] = {}
    labels: dict[str, Path] = {}
    for path in files(root, tell):
        name = relative(path, root)
        if (match := LABELS.match(path.name)) and path.parent.name == "json":
            labels[match[1]] = path
        elif f"{UNALIGNED}/" in name:
            continue
        elif match := NAME.search(name):
            known = pictures.get(match[1])
            if known is None or _rank(path) > _rank(known):
                pictures[match[1]] = path
            elif _rank(path) == _rank(known):
                tell(Fault(path, "same name", f"{relative(known, root)} has the number, too"))
        else:
            tell_unknown(path, "{5 digits}.png", tell)
    for number, path in sorted(pictures.items()):
        found: dict[str, Any] = {}
        if number in labels:
            found = _labels(labels[number], tell)
        elif labels:
            tell(Fault(path, "no label file", f"{number}.json"))
        yield Record(
            source="ffhq",
            key=number,
            image=path,
            split="train" if int(number) < FIRST_HELD_OUT else "test",
            **found,
        )


def _rank(path: Path) -> int:
    """The picture of the highest rank counts."""
    return (LARGEST in path.parts) - (SMALLEST in path.parts)


def _labels(path: Path, tell: Tell) -> dict[str, Any]:
    """`age`, `sex` and `emotion` of the largest face in a label file, as far as they can be read."""
    try:
        faces = json.loads(path.read_bytes())
        if not faces:
            return {}
        attributes = max(faces, key=_area)["faceAttributes"]
        values = {"age": attributes.get("age"), "sex": attributes.get("gender"), "emotion": attributes.get("emotion")}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        tell(Fault(path, "bad label", f"no list of faces with faceAttributes ({type(error).__name__})"))
        return {}
    found = {}
    for name, value in values.items():
        if value is None:
            continue
        try:
            found[name] = _PARSE[name](value)
            Record(source="ffhq", key="", image=path, **{name: found[name]})
        except (ValueError, TypeError, KeyError, AttributeError):
            found.pop(name, None)
            tell(Fault(path, "bad label", f"{name} {str(value)[:40]}"))
    return found


def _area(face: dict[str, Any]) -> float:
    """Of several faces the portrait's is the largest."""
    rectangle = face.get("faceRectangle") or {}
    return float(rectangle.get("width", 0)) * float(rectangle.get("height", 0))


def _emotion(scores: dict[str, Any]) -> str | None:
    name, score = max(scores.items(), key=lambda item: float(item[1]))
    return EMOTION[name] if float(score) >= MIN_SCORE else None


_PARSE: dict[str, Callable[[Any], Any]] = {"age": float, "sex": lambda value: SEX[value.lower()], "emotion": _emotion}
