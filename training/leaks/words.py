"""What is held out is held out, and words tell no more than they say.

Held-out templates, sentences, voices, people and combinations of traits must not appear in training. A template with most of its
slots empty can say the same as another, so every template is compared in every state of its slots.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise, product
from string import Formatter

import numpy as np

from training.data.synthetic.captions import TEMPLATES, Caption, compose
from training.data.synthetic.sentences import sentence
from training.data.synthetic.shot import Shot
from training.data.synthetic.timbre import TIMBRES, timbre
from training.data.synthetic.traits import Person
from training.data.synthetic.world import HELD_OUT, TEST_EVERY, World, is_held_out
from training.leaks.claims import CHANCE, SIGNAL, Finding, ask
from training.leaks.sample import training_people, truths

SENTENCES = 3000
VOCABULARY = 400
_OPTIONAL = ({"age"}, {"feeling", "feels"}, {"looks", "things"}, {"place", "background"})


@dataclass(frozen=True)
class HeldOut:
    """Of `checked` things that only tests may meet, `found` are met in training too; `example` is one of them."""

    what: str
    checked: int
    found: int
    example: str = ""

    @property
    def holds(self) -> bool:
        return self.found == 0 and self.checked > 0


@dataclass(frozen=True)
class Told:
    """A picture's conditions and a caption for it."""

    person: Person
    shot: Shot
    caption: Caption


def tell(world: World, i: int) -> Told:
    """Picture 0 of person `i`, with a training caption."""
    drawn, shot = world.person(i), world.shot(i, 0)
    return Told(drawn, shot, compose(drawn, shot, np.random.default_rng((world.seed, i)), "train"))


def held_out(world: World, people: int) -> list[HeldOut]:
    """Templates, sentences, timbres, combinations and people of the test half, looked for in the training half."""
    rng = np.random.default_rng(0)
    trained = [world.person(i) for i in training_people(people)]
    tested = [world.person(i) for i in range(TEST_EVERY - 1, people * TEST_EVERY // (TEST_EVERY - 1), TEST_EVERY)]
    spoken = {split: {sentence(int(rng.integers(3, 12)), rng, split) for _ in range(SENTENCES)} for split in TEMPLATES}
    frames = {
        split: {frame for template in templates for frame in frames_of(template)}
        for split, templates in TEMPLATES.items()
    }
    voices = {split: {tuple(timbre(n).frequency) for n in numbers} for split, numbers in TIMBRES.items()}
    untested = [str(signs) for signs in HELD_OUT if not any(_has(person, signs) for person in tested)]
    return [
        _overlap("caption templates, in every state of their slots", frames["test"], frames["train"]),
        _overlap("spoken sentences", spoken["test"], spoken["train"]),
        _overlap("timbres of voices", voices["test"], voices["train"]),
        _overlap("people", {person.values for person in tested}, {person.values for person in trained}),
        HeldOut("training people with a held-out combination of traits", len(trained), sum(map(is_held_out, trained))),
        HeldOut("held-out combinations that no test person has", len(HELD_OUT), len(untested), "".join(untested[:1])),
    ]


def frames_of(template: tuple[str, ...]) -> set[str]:
    """Every text of a template with its slots' names for their contents, over all states of what there is to say."""
    frames = set()
    for state in product((False, True), repeat=len(_OPTIONAL)):
        empty = set().union(*(slots for slots, said in zip(_OPTIONAL, state, strict=True) if not said))
        pieces = [piece for piece in template if not empty & {name for _, name, _, _ in Formatter().parse(piece)}]
        frames.add("".join(pieces))
    return frames


def captions(told: list[Told], seed: int) -> list[Finding]:
    """Words without an age do not tell it, words without an emotion do not tell that; with them, they do.

    Hair turns white and beards grow, so captions that mention either are left out where age is asked.
    """
    truth = truths([(one.person, one.shot) for one in told])
    words = bag_of_words([one.caption.text for one in told])
    topics = [{topic for topic, _ in one.caption.looks} for one in told]
    ageless = [not one.caption.ages and not said & {"hair", "beard"} for one, said in zip(told, topics, strict=True)]
    unmoved = [one.caption.emotion is None for one in told]
    return [
        *ask("caption", words, truth, {"age": SIGNAL, "emotion": SIGNAL}, seed),
        *ask("caption without age", words, truth, {"age": CHANCE}, seed, np.flatnonzero(ageless)),
        *ask(
            "caption without emotion",
            words,
            truth,
            {"emotion": CHANCE, "intensity": CHANCE},
            seed,
            np.flatnonzero(unmoved),
        ),
    ]


def bag_of_words(texts: list[str]) -> np.ndarray:
    """(N, VOCABULARY) float32: which of the commonest words and pairs of neighbours occur."""
    split = [text.replace(",", " ,").replace(".", " .").split() for text in texts]
    grams = [{*words, *map(" ".join, pairwise(words))} for words in split]
    common = [
        gram
        for gram, _ in sorted(Counter(g for each in grams for g in sorted(each)).items(), key=lambda x: (-x[1], x[0]))
    ]
    places = {gram: place for place, gram in enumerate(common[:VOCABULARY])}
    bag = np.zeros((len(texts), len(places)), np.float32)
    for row, each in enumerate(grams):
        bag[row, [places[gram] for gram in each if gram in places]] = 1
    return bag


def _overlap(what: str, tested: set, trained: set) -> HeldOut:
    common = sorted(tested & trained)
    return HeldOut(what, len(tested), len(common), str(common[0]) if common else "")


def _has(person: Person, signs: dict[str, int]) -> bool:
    return all(person[trait] * sign > 0 for trait, sign in signs.items())
