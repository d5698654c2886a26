"""What a bundle brings to be tried with: portraits and voices of people that its model never met, with the truth about them.

Layout: `samples/samples.json`, which names the other files of that folder; `python -m training.samples` writes it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from runtime.emotions import EMOTIONS
from runtime.errors import BundleError
from runtime.manifest import Manifest, read_checked

NOUN = {"female": "woman", "male": "man"}


@dataclass(frozen=True)
class Photo:
    """A portrait (a JPEG file's bytes) and whom it shows."""

    reference: bytes
    sex: str
    age: float

    def __post_init__(self) -> None:
        if self.sex not in NOUN:
            raise BundleError(f"samples: sex is {self.sex!r}, allowed {', '.join(NOUN)}")

    @property
    def label(self) -> str:
        return f"{self.sex}, {self.age:.0f}"


@dataclass(frozen=True)
class Voice:
    """A recording (a WAV or FLAC file's bytes) and who speaks in which mood."""

    audio: bytes
    sex: str
    age: float
    emotion: str

    def __post_init__(self) -> None:
        if self.emotion not in EMOTIONS:
            raise BundleError(f"samples: emotion is {self.emotion!r}, allowed {', '.join(EMOTIONS)}")

    @property
    def label(self) -> str:
        return f"{self.sex}, {self.age:.0f}, {self.emotion}"


@dataclass(frozen=True)
class Samples:
    """At least one of each; the first photo is a calm portrait, which a demonstration changes."""

    photos: tuple[Photo, ...]
    voices: tuple[Voice, ...]

    def __post_init__(self) -> None:
        if not self.photos or not self.voices:
            raise BundleError(f"samples: {len(self.photos)} photos and {len(self.voices)} voices, needed 1 of each")

    @classmethod
    def read(cls, folder: Path, manifest: Manifest) -> Samples:
        """From the bundle at `folder`, hashes checked. Raises BundleError if it has none."""

        def read(name: str) -> bytes:
            if name not in manifest.files:
                raise BundleError(f"bundle '{manifest.name}' holds no {name}; export it with --samples DIR")
            return read_checked(folder, name, manifest.files[name])

        described = json.loads(read("samples/samples.json"))
        try:
            return cls(
                tuple(
                    Photo(read(f"samples/{photo['file']}"), photo["sex"], photo["age"])
                    for photo in (described["photo"], *described.get("more_photos", ()))
                ),
                tuple(
                    Voice(read(f"samples/{voice['file']}"), voice["sex"], voice["age"], voice["emotion"])
                    for voice in described["voices"]
                ),
            )
        except (KeyError, TypeError) as error:
            raise BundleError(f"samples/samples.json: {error!r}; write it with `python -m training.samples`") from None

    @property
    def photo(self) -> Photo:
        """The portrait that a demonstration changes."""
        return self.photos[0]

    def voice(self, emotion: str) -> Voice:
        """A voice in that emotion, or any; if it can be, of the portrait's sex."""
        return max(self.voices, key=lambda voice: (voice.emotion == emotion, voice.sex == self.photo.sex))

    @property
    def one_voice_each(self) -> tuple[Voice, ...]:
        """The first voice of every emotion that there is, in the order of the voices."""
        firsts: dict[str, Voice] = {}
        for voice in self.voices:
            firsts.setdefault(voice.emotion, voice)
        return tuple(firsts.values())
