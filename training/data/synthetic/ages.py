"""Ages in words: what a speaker of English says of somebody who is 72, and for which ages it is true.

A phrase comes with the range of ages that it fits, so that a caption can be held against any picture. Ranges overlap, as in
speech: 61 may be called old or not. `age_phrase` makes the texts of the age-text input (eq. 5). Knows neither sex nor emotion.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from training.data.synthetic.ageing import OLDEST, YOUNGEST


@dataclass(frozen=True)
class AgeWords:
    """words, and the years low <= age < high for which they are true. form: "adjective" stands before a person noun, "noun" is
    one, "clause" follows ("72 years old", "in {their} forties"; `{their}` takes the possessive pronoun)."""

    words: str
    form: str
    low: float
    high: float

    def fits(self, age: float) -> bool:
        return self.low <= age < self.high


# No word for a baby or a toddler: the world starts at five years.
VOCABULARY = (
    AgeWords("young", "adjective", 15, 32),
    AgeWords("teenage", "adjective", 13, 20),
    AgeWords("adolescent", "adjective", 12, 19),
    AgeWords("middle-aged", "adjective", 42, 61),
    AgeWords("older", "adjective", 58, 200),
    AgeWords("old", "adjective", 63, 200),
    AgeWords("elderly", "adjective", 67, 200),
    AgeWords("very old", "adjective", 76, 200),
    AgeWords("aged", "adjective", 72, 200),
    AgeWords("small child", "noun", 0, 9),
    AgeWords("child", "noun", 0, 13),
    AgeWords("kid", "noun", 0, 13),
    AgeWords("teenager", "noun", 13, 20),
    AgeWords("teen", "noun", 13, 20),
    AgeWords("adolescent", "noun", 12, 19),
    AgeWords("young adult", "noun", 18, 32),
    AgeWords("adult", "noun", 20, 65),
    AgeWords("senior", "noun", 65, 200),
    AgeWords("pensioner", "noun", 66, 200),
    AgeWords("senior citizen", "noun", 66, 200),
)
# fmt: off
_BELOW_TWENTY = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen",
    "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_DECADES = ("twenties", "thirties", "forties", "fifties", "sixties", "seventies", "eighties")
# fmt: on


def age_words(age: float, form: str, rng: np.random.Generator) -> AgeWords | None:
    """Words of that form that are true at `age` (5..85 years); None where the language has none ("adjective" at 35)."""
    _check(age)
    if form == "clause":
        return _number(age, rng) if rng.random() < 0.7 or age < 20 else _decade(age, rng)
    fitting = [words for words in VOCABULARY if words.form == form and words.fits(age)]
    return fitting[int(rng.integers(len(fitting)))] if fitting else None


def numbered_adjective(age: float, rng: np.random.Generator) -> AgeWords:
    """ "72-year-old" or "seventy-two-year-old"."""
    _check(age)
    return AgeWords(f"{_figure(int(age), rng)}-year-old", "adjective", int(age), int(age) + 1)


def age_phrase(age: float, rng: np.random.Generator) -> str:
    """Words about an age and nothing else: "seventy-two years old", "an elderly person", "a teenager", "in their forties".

    age: 5..85 years; ValueError otherwise.
    """
    kind = rng.random()
    if kind < 0.55:
        words = age_words(age, "clause", rng)
        return words.words.format(their=("his", "her", "their")[int(rng.integers(3))]) if words else ""
    if kind < 0.7:
        return with_article(numbered_adjective(age, rng).words)
    noun = age_words(age, "noun", rng)
    adjective = age_words(age, "adjective", rng)
    if noun and (adjective is None or kind < 0.85):
        return with_article(noun.words)
    if adjective:
        person = ("person", "face")[int(rng.integers(2))]
        return with_article(f"{adjective.words} {person}")
    return age_phrase(age, rng)


def number_in_words(number: int) -> str:
    """0..99 in English words, "seventy-two"."""
    if not 0 <= number <= 99:
        raise ValueError(f"number is {number}; use 0..99")
    if number < 20:
        return _BELOW_TWENTY[number]
    tens, ones = divmod(number, 10)
    return _TENS[tens - 2] + (f"-{_BELOW_TWENTY[ones]}" if ones else "")


def with_article(words: str) -> str:
    """ "an elderly man", "an 82-year-old", "a teenager"."""
    sounds_like_vowel = words[0] in "aeiou" or words.startswith(("8", "11-", "18-"))
    return f"{'an' if sounds_like_vowel else 'a'} {words}"


def _number(age: float, rng: np.random.Generator) -> AgeWords:
    years = int(age)
    if rng.random() < 0.2:
        nearest = 5 * round(age / 5)
        about = ("about", "around", "roughly")[int(rng.integers(3))]
        return AgeWords(f"{about} {_figure(nearest, rng)} years old", "clause", nearest - 3, nearest + 3)
    figure = _figure(years, rng)
    said = (f"{figure} years old", f"{figure} years of age", f"aged {figure}", f"age {figure}", f"of {figure} years")
    weights = (0.5, 0.1, 0.2, 0.1, 0.1)
    return AgeWords(said[int(rng.choice(len(said), p=weights))], "clause", years, years + 1)


def _decade(age: float, rng: np.random.Generator) -> AgeWords:
    tens, ones = divmod(int(age), 10)
    name = _DECADES[tens - 2] if rng.random() < 0.75 else f"{tens}0s"
    start = 10 * tens
    if rng.random() < 0.6:
        return AgeWords(f"in {{their}} {name}", "clause", start, start + 10)
    part, low, high = (("early", 0, 4), ("mid", 4, 7), ("late", 7, 10))[(ones >= 4) + (ones >= 7)]
    return AgeWords(f"in {{their}} {part} {name}", "clause", start + low, start + high)


def _figure(number: int, rng: np.random.Generator) -> str:
    return str(number) if rng.random() < 0.6 else number_in_words(number)


def _check(age: float) -> None:
    if not YOUNGEST <= age <= OLDEST:
        raise ValueError(f"age is {age!r}; use {YOUNGEST:g}..{OLDEST:g} years")
