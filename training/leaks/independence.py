"""Everything that a picture is drawn from, against everything else: correlations of the world's variables, and what luck reaches.

Two dependences are meant. Only men from 18 years wear beards. Training never meets the held-out combinations of traits, which makes the traits
of one combination depend on each other a little; a test would be no test otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from training.data.synthetic.world import HELD_OUT

SHUFFLES = 200


@dataclass(frozen=True)
class Independence:
    """The largest absolute correlation between columns of two variables, `floor` the largest over as many shuffled worlds, and the same
    among the pairs that depend on each other on purpose."""

    people: int
    pairs: int
    largest: float
    largest_pair: tuple[str, str]
    floor: float
    meant: float
    meant_pair: tuple[str, str]
    table: dict[str, dict[str, float]]

    @property
    def holds(self) -> bool:
        return self.largest <= self.floor


def independence(truth: dict[str, np.ndarray], seed: int) -> Independence:
    """Of truths (N, K) by name. `table` has one entry for each pair of variables: the largest over their columns."""
    names = list(truth)
    columns = {name: _standardised(truth[name]) for name in names}
    pairs = list(combinations(names, 2))
    free = [pair for pair in pairs if not is_meant(*pair)]
    found = _correlations(columns)
    rng = np.random.default_rng(seed)
    people = len(columns[names[0]])
    lucky = 0.0
    for _ in range(SHUFFLES):
        shuffled = _correlations({name: column[rng.permutation(people)] for name, column in columns.items()})
        lucky = max(lucky, max(shuffled[pair] for pair in free))
    largest = max(free, key=lambda pair: found[pair])
    meant = max((pair for pair in pairs if is_meant(*pair)), key=lambda pair: found[pair])
    table: dict[str, dict[str, float]] = {name: {} for name in names}
    for (first, second), value in found.items():
        table[first][second] = table[second][first] = round(value, 4)
    return Independence(people, len(free), found[largest], largest, lucky, found[meant], meant, table)


def is_meant(first: str, second: str) -> bool:
    """Whether two variables depend on each other on purpose."""
    pair = {first, second}
    if "beard" in pair and pair & {"sex", "age"}:
        return True
    return any(pair <= set(signs) for signs in HELD_OUT)


def _standardised(values: np.ndarray) -> np.ndarray:
    values = values[:, values.std(axis=0) > 1e-9].astype(np.float32)
    return (values - values.mean(axis=0)) / values.std(axis=0)


def _correlations(columns: dict[str, np.ndarray]) -> dict[tuple[str, str], float]:
    """The largest absolute correlation of each pair of variables."""
    stacked = np.concatenate(list(columns.values()), axis=1)
    matrix = np.abs(stacked.T @ stacked) / len(stacked)
    ends = np.cumsum([column.shape[1] for column in columns.values()])
    places = {
        name: slice(end - column.shape[1], end) for (name, column), end in zip(columns.items(), ends, strict=True)
    }
    return {(a, b): float(matrix[places[a], places[b]].max()) for a, b in combinations(columns, 2)}
