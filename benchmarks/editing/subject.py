"""A held-out person of the synthetic world in one picture, and what only the renderer knows: the same picture at another age or mood.

A photograph has no true counterfactual; a render has: person, pose, light, hair, clothes and background stay, one number changes.
Nothing here knows models. Layout: pictures (S, S, 3) uint8, masks (S, S) bool.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import soundfile
from PIL import Image
from scipy.ndimage import binary_dilation

from runtime.preprocess.image import decode_image
from training.data.synthetic.captions import Caption, compose
from training.data.synthetic.portrait import render
from training.data.synthetic.shot import ADULT, Shot
from training.data.synthetic.traits import Person
from training.data.synthetic.voice import SAMPLE_RATE_HZ, speak
from training.data.synthetic.world import SPLITS, World, people

HELD_OUT = SPLITS[1]
SAME_PICTURE, OWN_PICTURES = "same picture", "own pictures"  # of impostors
IMPOSTORS = 8  # of each person
POOL = 400  # people among whom impostors are looked for
JPEG_QUALITY = 95
DILATION_PX = 3  # what a mask is wider than the person: an older jaw is lower
_PURPOSES = ("voice", "words")
_BLACK, _WHITE = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
_BRIGHT = 200  # levels that white paper keeps under any light


@dataclass(frozen=True)
class Subject:
    """Person `number` of the world of `seed` in their first picture, `size` pixels a side."""

    number: int
    person: Person
    shot: Shot
    size: int
    seed: int = 0

    @cached_property
    def file(self) -> bytes:
        """The JPEG file that an edit is given."""
        return _jpeg(self.truth(self.shot))

    @cached_property
    def photo(self) -> np.ndarray:
        """What that file shows, (S, S, 3) uint8."""
        return decode_image(self.file)

    def truth(self, shot: Shot) -> np.ndarray:
        """This person in another shot, (S, S, 3) uint8."""
        return render(self.person, shot, self.size)

    def aged(self, age: float) -> Shot:
        """The same shot at another age, 5 to 85 years; children have no beard."""
        return replace(self.shot, age=age, beard=self.shot.beard if age >= ADULT else "none")

    def feeling(self, emotion: str) -> Shot:
        """The same shot with an emotion at full strength."""
        return replace(self.shot, emotion=emotion, intensity=1.0)

    def background(self, shot: Shot) -> np.ndarray:
        """(S, S) bool: pixels in which neither the photo nor `shot` shows anything but background."""
        return self._paper & _background(self.person, shot, self.size)

    def mask(self) -> bytes:
        """A PNG file, white where the person is and a little around, black elsewhere."""
        person = binary_dilation(~self._paper, iterations=DILATION_PX)
        return _png(np.where(person, 255, 0).astype(np.uint8))

    def voice(self, emotion: str) -> bytes:
        """A WAV file: a speaker whom no training has heard, of this person's sex and age, in that emotion at full strength."""
        rng = self._rng("voice", emotion)
        samples = speak(self.person.sex, self.shot.age, emotion, 1.0, rng, HELD_OUT)
        file = io.BytesIO()
        soundfile.write(file, samples, SAMPLE_RATE_HZ, "PCM_16", format="WAV")
        return file.getvalue()

    def words(self, shot: Shot, tell: str) -> str:
        """A sentence from held-out templates that is true of `shot` and tells its "age", in years, or its "emotion", not both."""
        rng = self._rng("words", tell)
        while True:
            said = compose(self.person, shot, rng, HELD_OUT)
            if (_tells_years(said), said.emotion is not None) == (tell == "age", tell == "emotion"):
                return said.text

    @cached_property
    def _paper(self) -> np.ndarray:
        return _background(self.person, self.shot, self.size)

    def _rng(self, purpose: str, detail: str) -> np.random.Generator:
        seeds = (self.seed, self.number, _PURPOSES.index(purpose), *detail.encode())
        return np.random.Generator(np.random.Philox(np.random.SeedSequence(seeds)))


def subjects(count: int, size: int, seed: int = 0) -> list[Subject]:
    """The first `count` held-out people of the world of `seed`."""
    world = World(seed)
    return [
        Subject(number, world.person(number), world.shot(number, 0), size, seed) for number in people(HELD_OUT, count)
    ]


def alike(subject: Subject) -> list[int]:
    """The IMPOSTORS held-out people of the subject's sex whose skin is nearest to theirs."""
    world, person = World(subject.seed), subject.person
    others = {number: world.person(number) for number in people(HELD_OUT, POOL) if number != subject.number}
    rivals = [number for number, other in others.items() if other.sex == person.sex]
    return sorted(rivals, key=lambda number: abs(others[number]["skin_tone"] - person["skin_tone"]))[:IMPOSTORS]


def impostors(subject: Subject) -> dict[str, np.ndarray]:
    """Pictures (IMPOSTORS, S, S, 3) of those who are `alike`, at the photo's age and with its hair: SAME_PICTURE, who stand in the photo's very
    place, and OWN_PICTURES, with their own pose, light, mood, clothes and background.
    """
    world, shot, others = World(subject.seed), subject.shot, alike(subject)
    same = [render(world.person(number), shot, subject.size) for number in others]
    own = [render(world.person(number), _like(shot, world.shot(number, 0)), subject.size) for number in others]
    return {SAME_PICTURE: np.stack(same), OWN_PICTURES: np.stack(own)}


def _like(shot: Shot, own: Shot) -> Shot:
    """Another's `own` shot with the age and hair of `shot`."""
    return replace(
        own,
        age=shot.age,
        hair_style=shot.hair_style,
        hair_colour=shot.hair_colour,
        dyed=shot.dyed,
        beard=shot.beard,
    )


def _background(person: Person, shot: Shot, size: int) -> np.ndarray:
    """Where paper shows through whole: black on black paper, white on white."""
    black, white = (
        render(person, replace(shot, background="plain", background_colours=(paper, paper)), size)
        for paper in (_BLACK, _WHITE)
    )
    return (black == 0).all(-1) & (white >= _BRIGHT).all(-1)


def _tells_years(said: Caption) -> bool:
    return any(words.high - words.low <= 1 for words in said.ages)


def _jpeg(picture: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return file.getvalue()


def _png(picture: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()
