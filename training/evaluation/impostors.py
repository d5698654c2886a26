"""Impostors who look alike: for each picture, pictures of other people that agree in what is easily seen.

Against strangers of another sex or skin anybody tells people apart; what a picture has of a *person* shows only against somebody
of the same sex, skin, hair and age. In the synthetic world all four are known; in other data sex and age, where they are labelled.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from training.data.cache import WORLD, DataCache
from training.data.synthetic.shot import HAIR_COLOURS, HAIR_STYLES
from training.data.synthetic.world import World

IMPOSTORS = 4  # of each picture
# How much counts as one clear difference: years of age, a share of the range of skin, of a colour channel.
YEARS, SKIN, COLOUR = 8.0, 0.25, 0.2
UNLIKE_SEX = 1e3  # larger than all other differences together: only where nobody else is left


@dataclass(frozen=True)
class Matches:
    """`rows` (N, K) pictures of impostors, and how alike they are: `matched_on` names what could be compared, `same_sex` is the
    share of impostors of the same sex, `years` the mean difference in age; NaN where not known."""

    rows: np.ndarray
    matched_on: tuple[str, ...]
    same_sex: float
    years: float


def match_impostors(cache: DataCache, rows: np.ndarray, pool: np.ndarray, count: int = IMPOSTORS) -> Matches:
    """For each of `rows` the `count` most alike of the rows `pool` that show somebody else.

    Raises ValueError if the pool has fewer than `count` pictures of other people for a row.
    """
    wanted = np.union1d(rows, pool)
    looks, names = _appearance(cache, wanted)
    matches = np.empty((len(rows), count), np.int64)
    for n, row in enumerate(rows):
        others = pool[cache.person[pool] != cache.person[row]]
        if len(others) < count:
            raise ValueError(f"{len(others)} pictures of other people for {count} impostors; evaluate on more people")
        # An unknown label is no difference: whoever lacks it may still be the most alike in the rest.
        compared = looks[np.searchsorted(wanted, others)] - looks[np.searchsorted(wanted, row)]
        difference = np.nan_to_num(np.abs(compared)).sum(1)
        is_known = (cache.sex[others] >= 0) & (cache.sex[row] >= 0)
        difference += UNLIKE_SEX * (is_known & (cache.sex[others] != cache.sex[row]))
        matches[n] = others[np.argsort(difference, kind="stable")[:count]]
    first = np.repeat(rows, count).reshape(len(rows), count)
    known = (cache.sex[first] >= 0) & (cache.sex[matches] >= 0)
    years = np.abs(cache.age[matches] - cache.age[first])
    return Matches(
        matches,
        names,
        float((cache.sex[matches] == cache.sex[first])[known].mean()) if known.any() else float("nan"),
        float(np.nanmean(years)) if np.isfinite(years).any() else float("nan"),
    )


def _appearance(cache: DataCache, rows: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """(rows, columns) in units of one clear difference, NaN where unknown, and what can be compared at all."""
    sex, age = cache.sex[rows], cache.age[rows]
    columns = [age / YEARS]
    names = [name for name, known in (("sex", (sex >= 0).any()), ("age", np.isfinite(age).any())) if known]
    if WORLD in cache.sources:
        columns += list(_world_appearance(cache, rows).T)
        names += ["skin", "hair"]
    return np.stack(columns, 1), tuple(names)


def _world_appearance(cache: DataCache, rows: np.ndarray) -> np.ndarray:
    """Skin, hair colour and one column per hair style, half a difference each, so that two styles make a whole one."""
    world, is_world = World(cache.seed), cache.source == cache.sources.index(WORLD)
    table = np.full((len(rows), 4 + len(HAIR_STYLES)), np.nan)
    for place in np.flatnonzero(is_world[rows]):
        row = rows[place]
        person = int(cache.person[row])
        shot = world.shot(person, int(row - cache.first_picture[row]))
        style = 0.5 * (np.array(HAIR_STYLES) == shot.hair_style)
        colour = np.array(HAIR_COLOURS[shot.hair_colour]) / (3 * COLOUR)
        table[place] = [world.person(person)["skin_tone"] / (2 * SKIN), *colour, *style]
    return table
