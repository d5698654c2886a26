"""One sample of a real data set as its reader found it: where picture and sound lie, and what is known. Nothing is decoded.

None means unknown, everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from runtime.emotions import EMOTIONS

FEMALE, MALE = 0, 1
SPLITS = ("train", "test")
MIN_AGE, MAX_AGE = 0, 120


@dataclass(frozen=True)
class VideoFrame:
    """The picture that a video shows at `position` of its duration: 0 the first frame, 1 the last."""

    path: Path
    position: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.position <= 1:
            raise ValueError(f"video frame: position {self.position} must be in 0..1")


@dataclass(frozen=True)
class Record:
    """One sample. Raises ValueError for a value out of range: readers turn what a file says into a record or a fault.

    source             the reader's name (`training.data.readers.READERS`)
    key                stable and unique within the source; the source's folder may move
    identity           who; unique within the source. None: nobody else's, its own identity
    image              a picture file, a frame of a video, or pixels (H, W) or (H, W, 3) uint8
    audio              a sound file; of a video file its sound
    age                years, MIN_AGE..MAX_AGE
    sex                FEMALE or MALE
    emotion            one of EMOTIONS; intensity 0..1
    valence_arousal    each -1..1
    text               captions of the picture
    split              one of SPLITS, only where the data set itself prescribes one
    """

    source: str
    key: str
    identity: str | None = None
    image: Path | VideoFrame | np.ndarray | None = field(default=None, compare=False)
    audio: Path | None = None
    age: float | None = None
    sex: int | None = None
    emotion: str | None = None
    intensity: float | None = None
    valence_arousal: tuple[float, float] | None = None
    text: tuple[str, ...] = ()
    split: str | None = None

    def __post_init__(self) -> None:
        if self.image is None and self.audio is None:
            raise ValueError(f"{self.source} {self.key}: has neither picture nor sound")
        if self.age is not None and not MIN_AGE <= self.age <= MAX_AGE:
            raise ValueError(f"age {self.age:g}, allowed {MIN_AGE}..{MAX_AGE}")
        if self.sex not in (None, FEMALE, MALE):
            raise ValueError(f"sex {self.sex}, allowed {FEMALE} female, {MALE} male")
        if self.emotion is not None and self.emotion not in EMOTIONS:
            raise ValueError(f"emotion {self.emotion!r}, allowed {', '.join(EMOTIONS)}")
        if self.intensity is not None and not 0 <= self.intensity <= 1:
            raise ValueError(f"intensity {self.intensity:g}, allowed 0..1")
        if self.valence_arousal is not None and not all(-1 <= value <= 1 for value in self.valence_arousal):
            raise ValueError(f"valence and arousal {self.valence_arousal}, allowed -1..1")
        if self.split not in (None, *SPLITS):
            raise ValueError(f"split {self.split!r}, allowed {', '.join(SPLITS)}")
