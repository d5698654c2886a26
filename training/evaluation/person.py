"""Is it the person of the reference, though age and mood are others? First of a hundred people, and the traits that make the face.

The hundred are the reference and 99 pictures of 99 other people: once those most like it in sex, age, skin and hair, once any.
Letters: N pictures, K impostors of each.
"""

from __future__ import annotations

import numpy as np

from training.evaluation import identity, traits
from training.evaluation.impostors import match_impostors
from training.evaluation.making import Made
from training.evaluation.panel import Reading
from training.evaluation.rating import Rating, Ratings, Skip, key_of
from training.evaluation.scene import Scene
from training.stages.identity import person_traits

CROWD = 99


def rate_person(scene: Scene, made: Made, reading: Reading) -> Ratings:
    """`id_rank1_matched`, `id_rank1_unmatched` and `trait_r2`; "real" are the target pictures themselves."""
    return _rate_ranks(scene, made, reading) | _rate_traits(scene, made, reading)


def _rate_ranks(scene: Scene, made: Made, reading: Reading) -> Ratings:
    asked, ratings = made.asked, Ratings()
    own = scene.readings.of(asked.reference).identity
    target = scene.readings.of(asked.rows).identity
    pool = one_each(scene.cache.person, np.union1d(scene.real, scene.targets))
    for name, alike in (("id_rank1_matched", True), ("id_rank1_unmatched", False)):
        key = key_of(name, asked.condition)
        if len(pool) <= CROWD:
            ratings[key] = Skip(f"{len(pool)} people in the pictures, {CROWD + 1} are needed; evaluate on more")
            continue
        crowd = (
            match_impostors(scene.cache, asked.reference, pool, CROWD).rows if alike else _anybody(scene, made, pool)
        )
        theirs = scene.readings.of(crowd.ravel()).identity.reshape(*crowd.shape, -1)
        found, real = (
            identity.rank1_among(identity.cosines(vectors, own), identity.cosines(vectors[:, None], theirs))
            for vectors in (reading.identity, target)
        )
        ratings[key] = Rating(found, len(asked.rows), {"real": real, "chance": 1 / (CROWD + 1)})
    return ratings


def _rate_traits(scene: Scene, made: Made, reading: Reading) -> Ratings:
    asked = made.asked
    key = key_of("trait_r2", asked.condition)
    seen, made_seen = scene.traits_of(scene.readings.of(asked.rows)), scene.traits_of(reading)
    if seen is None or made_seen is None:
        return {key: Skip("traits are known of the synthetic world's people alone")}
    truth = person_traits(scene.cache)[asked.rows]
    kept = np.isfinite(truth).all(1)
    real, found = (traits.explained(truth[kept], read[kept]) for read in (seen, made_seen))
    return {key: Rating(found, int(kept.sum()), {"real": real, "chance": 0.0})}


def one_each(person: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Of `rows` the first of each person; `person` (all rows,) says whom a row shows."""
    return rows[np.unique(person[rows], return_index=True)[1]]


def _anybody(scene: Scene, made: Made, pool: np.ndarray) -> np.ndarray:
    """(N, CROWD) rows of other people, drawn at random."""
    rng, person = np.random.default_rng(0), scene.cache.person
    return np.stack(
        [rng.choice(pool[person[pool] != person[row]], CROWD, replace=False) for row in made.asked.reference]
    )
