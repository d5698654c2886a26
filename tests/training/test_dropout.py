"""How often which modalities are seen in training."""

from __future__ import annotations

import numpy as np

from training.dropout import MODALITIES, sample_modalities

COUNT = 40_000


def drawn() -> np.ndarray:
    given = sample_modalities(np.random.default_rng(0), COUNT)
    return np.stack([given[name] for name in MODALITIES], axis=1)


def test_a_tenth_sees_nothing() -> None:
    # 10 % by design, and 0.4^5 = 1 % of the remaining 60 % by chance
    assert abs((drawn().sum(1) == 0).mean() - (0.1 + 0.6 * 0.4**5)) < 0.01


def test_exactly_one_is_common_and_each_of_them_alike() -> None:
    given = drawn()
    single = given[given.sum(1) == 1]
    assert abs(len(single) / COUNT - (0.3 + 0.6 * 5 * 0.6 * 0.4**4)) < 0.01
    assert np.ptp(single.mean(0)) < 0.03


def test_every_subset_occurs() -> None:
    assert len({tuple(row) for row in drawn().tolist()}) == 2 ** len(MODALITIES)
