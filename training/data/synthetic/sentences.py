"""What the synthetic voices say: short English sentences that mean nothing about a face, an age or a feeling.

A grammar: subject, predicate, then places and times until the sentence is long enough. Predicates belong to one split, so no test
sentence is ever spoken in training. Knows nothing about voices.
"""

from __future__ import annotations

import numpy as np

SUBJECTS = (
    "the bus",
    "a letter",
    "the blue box",
    "this road",
    "the morning train",
    "our table",
    "the second door",
    "a small boat",
    "the wooden bridge",
    "one of the lamps",
    "the paper bag",
    "their garden",
    "the number nine",
    "a yellow bicycle",
    "the kitchen clock",
    "the other window",
)
PREDICATES = {
    "train": (
        "is here",
        "comes at noon",
        "was moved",
        "stands at the corner",
        "goes left",
        "is made of wood",
        "opens at eight",
        "turns right",
        "was painted",
        "goes past the market",
        "takes an hour",
        "belongs to the school",
        "has a number",
        "is next to the stairs",
        "weighs four pounds",
        "can be seen from the hill",
        "was on the list",
        "will stay",
    ),
    "test": (
        "needs a label",
        "was sold in April",
        "lies under the shelf",
        "points to the station",
        "is wider",
        "leads to the harbour",
    ),
}
PLACES = (
    "in the old town",
    "behind the library",
    "by the water",
    "across the street",
    "in front of the house",
    "on the third floor",
)
TIMES = (
    "every week",
    "in the afternoon",
    "after the break",
    "most of the time",
    "before ten o'clock",
    "at the end of the month",
)


def sentence(words: int, rng: np.random.Generator, split: str = "train") -> str:
    """One sentence of the split ("train" or "test") with at least `words` words, or the longest that the grammar has."""
    if split not in PREDICATES:
        raise ValueError(f"split is {split!r}; use one of {sorted(PREDICATES)}")
    parts = [_pick(SUBJECTS, rng), _pick(PREDICATES[split], rng)]
    for more in (PLACES, TIMES):
        if _count(parts) < words:
            parts.append(_pick(more, rng))
    if _count(parts) < words:
        parts += [", and", _pick(SUBJECTS, rng), _pick(PREDICATES[split], rng)]
    text = " ".join(parts).replace(" ,", ",")
    return text[0].upper() + text[1:] + "."


def _count(parts: list[str]) -> int:
    return sum(len(part.split()) for part in parts)


def _pick(options: tuple[str, ...], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]
