"""Ageing: one age in years becomes the amounts by which a face departs from a young adult's.

Growth changes proportions until about 20 (a child has a small lower face, large eyes, a small nose); from 30 on tissue
thins, sags and folds, while nose and ears keep growing. The amounts are continuous in age and the same for every
identity, so that a person's traits stay visible at every age. How the amounts look is the business of `anatomy`
(shape), `folds` (skin) and `hair`.
"""

from __future__ import annotations

from dataclasses import dataclass

YOUNGEST, OLDEST = 5.0, 85.0


@dataclass(frozen=True)
class Ageing:
    """Amounts in [0, 1]; a 25-year-old has all but the earliest near 0."""

    childhood: float  # 1 at 5 years, 0 from 20: child proportions
    maturity: float  # 0 at 12 years, 1 from 45: a longer, more angular face
    sagging: float  # jowls, hooded lids, drooping corners, longer nose and ears
    folding: float  # folds beside the mouth, forehead lines, crow's feet
    creasing: float  # the deep creases and spots of late age
    greying: float  # share of white hair
    thinning: float  # receding hairline, less volume


def age_face(age: float) -> Ageing:
    """Amounts at `age` years. Raises ValueError outside 5 to 85."""
    if not YOUNGEST <= age <= OLDEST:
        raise ValueError(f"ageing: age is {age!r} years; allowed are {YOUNGEST:g} to {OLDEST:g}.")
    return Ageing(
        childhood=1.0 - _ramp(age, 4.0, 20.0),
        maturity=_ramp(age, 10.0, 48.0),
        sagging=_ramp(age, 36.0, 88.0),
        folding=_ramp(age, 26.0, 74.0),
        creasing=_ramp(age, 48.0, 84.0),
        greying=_ramp(age, 36.0, 70.0),
        thinning=_ramp(age, 38.0, 86.0),
    )


def _ramp(age: float, start: float, end: float) -> float:
    """0 up to `start`, 1 from `end`, in between halfway from a line to a smooth step: no age without change, no corner."""
    x = min(max((age - start) / (end - start), 0.0), 1.0)
    return 0.5 * x + 0.5 * x * x * (3.0 - 2.0 * x)
