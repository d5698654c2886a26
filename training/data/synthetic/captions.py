"""Captions: a portrait in varied English words, of which every one is true.

A caption mentions a random part of what there is to say: sex, age (in figures or words), emotion, hair, beard, glasses, skin, eyes,
background. `compose` returns the text with what it states, so that it can be held against other pictures (one caption fits many
faces; contrastive training needs to know which). Test templates are never used in training. Knows no pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from string import Formatter
from typing import TypeVar

import numpy as np

from training.data.synthetic.ages import AgeWords, age_phrase, age_words, numbered_adjective, with_article
from training.data.synthetic.feelings import Feeling, emotion_phrase, expression, feeling
from training.data.synthetic.looks import TOPICS, looks
from training.data.synthetic.shot import ADULT, Shot
from training.data.synthetic.traits import Person

__all__ = ["TEMPLATES", "Caption", "age_phrase", "caption", "compose", "emotion_phrase"]

T = TypeVar("T")

# A template is a row of pieces; a piece is left out when its slot has nothing to say. {who} is never empty.
# So a test template has words of its own beside {who}: with all else left out it would say what a training template says.
TEMPLATES = {
    "train": (
        ("a portrait of {who}", " {age}", " {looks}", ", {feeling}", ", {place}"),
        ("a photo of {who}", " {age}", ", {feeling}", ", {looks}", " {place}"),
        ("{who}", ", {age}", ", {feeling}", ", {looks}", ", {place}"),
        ("{who}", " {looks}", ", {age}", ", {feeling}", ", {place}"),
        ("{feeling}, ", "{who}", " {age}", " {looks}", " {place}"),
        ("{place}, ", "{who}", " {looks}", ", {age}", ", {feeling}"),
        ("this is {who}", " {age}", " {looks}", ". {they} {feels}", ". the background is {background}"),
        ("{who}", ". {they} {have} {things}", ". {they} {are} {age}", ". {they} {feels}", ". {background} background"),
        ("the face of {who}", " {age}", ", {feeling}", ", {place}", " and {looks}"),
        ("a picture showing {who}", " {looks}", " {place}", ", {age}", ", {feeling}"),
    ),
    "test": (
        ("here we see {who}", " {age}", ", {feeling}", ", {looks}", ". behind: {background}"),
        ("a close-up of {who}", ", {looks}", ", {age}", ", {feeling}", "; {background} background"),
        ("{age}, ", "{feeling}, ", "seen here: {who}", " {looks}", " {place}"),
        ("in this image there is {who}", " {looks}", " {place}", "; {they} {are} {age}", "; {they} {feels}"),
    ),
}
_MENTIONED = {"sex": 0.75, "age": 0.7, "emotion": 0.75}
_MENTIONED_LOOKS = {"hair": 0.35, "beard": 0.35, "glasses": 0.45, "skin": 0.2, "eyes": 0.2, "background": 0.25}
_PRONOUNS = {0: ("she", "her"), 1: ("he", "his"), None: ("they", "their")}
# Nouns that tell the sex tell something of the age too.
_BOYS_AND_GIRLS = tuple(
    (AgeWords(noun, "noun", 0, ADULT), AgeWords(f"little {noun}", "noun", 0, 9)) for noun in ("girl", "boy")
)
_MEN_AND_WOMEN = tuple(
    tuple(AgeWords(noun, "noun", ADULT, 200) for noun in nouns)
    for nouns in (("woman", "lady"), ("man", "gentleman", "guy"))
)


@dataclass(frozen=True)
class Caption:
    """A text and what it states; None or empty where it says nothing. age, emotion: what the words claim, with their ranges;
    `looks`: (topic, phrase) pairs of `looks.looks`."""

    text: str
    sex: int | None
    ages: tuple[AgeWords, ...]
    emotion: Feeling | None
    looks: frozenset[tuple[str, str]]

    def fits(self, person: Person, shot: Shot) -> bool:
        """Whether every statement of the caption is true of this picture, whoever it was written for."""
        if self.sex is not None and self.sex != person.sex:
            return False
        if not all(words.fits(shot.age) for words in self.ages):
            return False
        if self.emotion is not None and not self.emotion.fits(shot.emotion, shot.intensity):
            return False
        true = looks(person, shot) if self.looks else {}
        return all(phrase in true[topic] for topic, phrase in self.looks)


def caption(person: Person, shot: Shot, rng: np.random.Generator, split: str = "train") -> str:
    """An English caption, lower case, true of the picture. split: "train" or "test" (held-out templates)."""
    return compose(person, shot, rng, split).text


def compose(person: Person, shot: Shot, rng: np.random.Generator, split: str = "train") -> Caption:
    """A caption with its statements. Raises ValueError for an unknown split."""
    if split not in TEMPLATES:
        raise ValueError(f"split is {split!r}; use one of {sorted(TEMPLATES)}")
    sex = person.sex if rng.random() < _MENTIONED["sex"] else None
    age = _say_age(sex, shot.age, rng.random() < _MENTIONED["age"], rng)
    emotion = None
    if rng.random() < _MENTIONED["emotion"]:
        emotion = feeling(shot.emotion, shot.intensity, ("adjective", "predicate", "doing"), rng)
    said = _choose_looks(person, shot, rng)

    they, their = _PRONOUNS[sex]
    slots = {
        "age": age.clause.words.format(their=their) if age.clause else "",
        "they": they,
        "are": "are" if sex is None else "is",
        "have": "have" if sex is None else "has",
        **_who_and_feeling(age, emotion, sex is None, rng),
        **_looks_and_place(said, rng),
    }
    template = _pick(TEMPLATES[split], rng)
    text = "".join(piece.format(**slots) for piece in template if _is_filled(piece, slots))
    return Caption(text + _pick(("", "."), rng), sex, age.stated, emotion, frozenset(said.items()))


@dataclass(frozen=True)
class _SaidAge:
    """The noun for the person, and the age before it, in it (a "boy" is young) and after it."""

    noun: str
    adjective: AgeWords | None = None
    in_noun: AgeWords | None = None
    clause: AgeWords | None = None

    @property
    def stated(self) -> tuple[AgeWords, ...]:
        return tuple(words for words in (self.adjective, self.in_noun, self.clause) if words)


def _say_age(sex: int | None, age: float, tells: bool, rng: np.random.Generator) -> _SaidAge:
    way = rng.random() if tells else None
    if sex is None:
        in_noun = age_words(age, "noun", rng) if way is not None and way < 0.3 else None
        noun = in_noun.words if in_noun else _pick(("person", "face", "someone"), rng)
        if in_noun:
            return _SaidAge(noun, None, in_noun)
    else:
        in_noun = _pick([words for words in (*_BOYS_AND_GIRLS[sex], *_MEN_AND_WOMEN[sex]) if words.fits(age)], rng)
        noun = in_noun.words
    if way is None:
        return _SaidAge(noun, None, in_noun)
    adjective = None
    if noun != "someone":  # which takes no adjective
        if way < 0.5:
            adjective = age_words(age, "adjective", rng)
        elif way < 0.65:
            adjective = numbered_adjective(age, rng)
    # Where there is no adjective for the age, and sometimes beside one.
    clause = age_words(age, "clause", rng) if adjective is None or way < 0.08 else None
    return _SaidAge(noun, adjective, in_noun, clause)


def _choose_looks(person: Person, shot: Shot, rng: np.random.Generator) -> dict[str, str]:
    true = looks(person, shot)
    return {
        topic: _pick(true[topic], rng) for topic in TOPICS if true[topic] and rng.random() < _MENTIONED_LOOKS[topic]
    }


def _who_and_feeling(age: _SaidAge, emotion: Feeling | None, plural: bool, rng: np.random.Generator) -> dict[str, str]:
    """The slots {who}, {feeling} and {feels}; an emotion stands in one place only: before the noun or in the clause."""
    adjectives = [age.adjective.words] if age.adjective else []
    in_front = emotion is not None and _may_precede_noun(emotion) and age.noun != "someone" and rng.random() < 0.45
    if emotion is not None and in_front:
        adjectives.insert(0, emotion.words)
    who = "someone" if age.noun == "someone" else with_article(" ".join((*adjectives, age.noun)))
    if emotion is None or in_front:
        return {"who": who, "feeling": "", "feels": ""}
    words = emotion.words
    if emotion.form == "doing":
        return {"who": who, "feeling": words, "feels": f"{'are' if plural else 'is'} {words}"}
    feelings = [words, f"looking {words}", f"feeling {words}"]
    if _may_precede_noun(emotion):
        feelings.append(expression(emotion, rng))
    verb = _pick(("look", "feel", "seem", "are") if plural else ("looks", "feels", "seems", "is"), rng)
    return {"who": who, "feeling": _pick(feelings, rng), "feels": f"{verb} {words}"}


def _may_precede_noun(emotion: Feeling) -> bool:
    """Not "an afraid man", "a smiling broadly man" or "a a little sad man"."""
    if emotion.form == "doing":
        return " " not in emotion.words
    return emotion.form == "adjective" and not emotion.words.startswith("a ")


def _looks_and_place(said: dict[str, str], rng: np.random.Generator) -> dict[str, str]:
    """The slots {looks}, {things}, {place} and {background}."""
    things = [phrase for topic, phrase in said.items() if topic != "background"]
    listed = " and ".join(filter(None, (", ".join(things[:-1]), things[-1]))) if things else ""
    colour = said.get("background", "")
    place = _pick(("in front of {} background", "against {} wall", "before {} background"), rng)
    return {
        "looks": f"with {listed}" if listed else "",
        "things": listed,
        "background": colour,
        "place": place.format(with_article(colour)) if colour else "",
    }


def _is_filled(piece: str, slots: dict[str, str]) -> bool:
    return all(slots[name] for _, name, _, _ in Formatter().parse(piece) if name)


def _pick(options: Sequence[T], rng: np.random.Generator) -> T:
    return options[int(rng.integers(len(options)))]
