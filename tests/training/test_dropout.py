"""How often which modalities are seen in training."""

from __future__ import annotations

import numpy as np

from training.dropout import MODALITIES, sample_modalities

COUNT = 40_000


def drawn() -> np.ndarray:
    given = sample_modalities(np.random.default_rng(0), COUNT)
    return np.stack([given[name] for name in MODALITIES], axis=1)


def test_a_tenth_sees_nothing() -> None:
    # 10 % by design, and 0.4^5 = 1 % of the remaining four tenths by chance
    assert abs((drawn().sum(1) == 0).mean() - (0.1 + 0.4 * 0.4**5)) < 0.01


def test_exactly_one_is_common_and_words_most() -> None:
    given = drawn()
    single = given[given.sum(1) == 1]
    by_chance = 0.4 * 0.6 * 0.4**4  # for each of the five
    assert abs(len(single) / COUNT - (0.5 + 5 * by_chance)) < 0.01
    for name, share in zip(MODALITIES, single.sum(0) / COUNT, strict=True):
        wanted = {"text": 0.18, "audio": 0.11, "reference": 0.09, "age": 0.05, "emotion": 0.07}[name]
        assert abs(share - wanted - by_chance) < 0.01


def test_every_subset_occurs() -> None:
    assert len({tuple(row) for row in drawn().tolist()}) == 2 ** len(MODALITIES)


def test_what_a_sample_does_not_have_is_never_given_and_the_single_one_is_of_the_rest() -> None:
    has = {name: np.full(COUNT, name in ("text", "age")) for name in MODALITIES}
    given = sample_modalities(np.random.default_rng(0), COUNT, has)
    assert not any(given[name].any() for name in MODALITIES if name not in ("text", "age"))
    text, age = given["text"], given["age"]
    # Half one of the two by design, words 36 times for 10 times an age; and 0.6 · 0.4 of the remaining four tenths by chance, each
    for only, share in ((text & ~age, 36 / 46), (age & ~text, 10 / 46)):
        assert abs(only.mean() - (0.5 * share + 0.4 * 0.6 * 0.4)) < 0.01
    assert abs((~text & ~age).mean() - (0.1 + 0.4 * 0.4**2)) < 0.01


def test_a_sample_that_has_nothing_sees_nothing() -> None:
    nothing = {name: np.zeros(50, bool) for name in MODALITIES}
    assert not any(given.any() for given in sample_modalities(np.random.default_rng(0), 50, nothing).values())
