"""Masked means and labelled draws, by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from runtime.errors import BundleError
from training.labels import LabelledRows, Labels, known_rows

CPU = torch.device("cpu")
NAN = float("nan")


def test_minus_one_and_nan_are_unknown_and_a_half_known_pair_is_too() -> None:
    assert known_rows(np.array([-1, 0, 7])).tolist() == [False, True, True]
    assert known_rows(np.array([NAN, 0.0], np.float32)).tolist() == [False, True]
    assert known_rows(np.array([[0.1, 0.2], [0.1, NAN]], np.float32)).tolist() == [True, False]


def test_the_mean_is_over_known_rows_only() -> None:
    labels = Labels.of(np.array([30.0, NAN, 50.0], np.float32), CPU)
    assert labels.values.tolist() == [30.0, 0.0, 50.0]
    assert labels.mean(torch.tensor([1.0, 100.0, 4.0])).item() == 2.5


def test_weights_count_where_the_label_is_known() -> None:
    labels = Labels.of(np.array([2, -1, 3]), CPU)
    mean = labels.mean(torch.tensor([1.0, 100.0, 4.0]), torch.tensor([0.5, 9.0, 1.0]))
    assert mean.item() == pytest.approx((0.5 * 1 + 4) / 1.5)


def test_an_unknown_label_gives_a_gradient_of_zero_and_never_nan() -> None:
    guess = torch.tensor([20.0, 20.0], requires_grad=True)
    labels = Labels.of(np.array([30.0, NAN], np.float32), CPU)
    labels.mean((guess - labels.values).abs()).backward()
    assert guess.grad is not None and guess.grad.tolist() == [-1.0, 0.0]


def test_a_batch_without_labels_costs_nothing_and_is_reported_as_not_measured() -> None:
    guess = torch.tensor([20.0, 20.0], requires_grad=True)
    labels = Labels.of(np.array([NAN, NAN], np.float32), CPU)
    error = (guess - labels.values).square()
    loss = labels.mean(error)
    loss.backward()
    assert loss.item() == 0 and guess.grad is not None and guess.grad.tolist() == [0.0, 0.0]
    assert labels.measured(error).isnan()


def test_rows_are_drawn_in_equal_parts_for_every_kind_of_label() -> None:
    """One picture of known age in a thousand is still half of the batch."""
    age, emotion = np.zeros(1000, bool), np.ones(1000, bool)
    age[7], emotion[7] = True, False
    rows = LabelledRows("estimators", age=age, emotion=emotion).draw(np.random.default_rng(0), 10)
    assert (rows == 7).sum() == 5


@pytest.mark.parametrize("count", [1, 3, 5])
def test_no_kind_is_always_the_one_that_gets_a_row_more(count: int) -> None:
    """Parts of one row too show every kind in the end; what is over goes around."""
    rows = LabelledRows("voice", a=np.arange(3) == 0, b=np.arange(3) == 1, c=np.arange(3) == 2)
    rng = np.random.default_rng(0)
    drawn = np.stack([np.bincount(rows.draw(rng, count), minlength=3) for _ in range(600)])
    assert (drawn.sum(1) == count).all() and np.ptp(drawn, axis=1).max() <= 1
    assert drawn.mean(0) == pytest.approx(count / 3, abs=0.1)


def test_a_kind_without_rows_leaves_its_place_to_the_others() -> None:
    emotion = np.array([False, True, True])
    rows = LabelledRows("estimators", age=np.zeros(3, bool), emotion=emotion).draw(np.random.default_rng(0), 9)
    assert len(rows) == 9 and set(rows) == {1, 2}


def test_data_without_any_label_is_refused_with_a_way_out() -> None:
    with pytest.raises(BundleError, match="voice: no row of the data has a label of emotion or sex; add data"):
        LabelledRows("voice", emotion=np.zeros(3, bool), sex=np.zeros(3, bool))


def test_of_no_rows_none_is_known() -> None:
    """A cache without any voice."""
    for array in (np.zeros(0, np.int64), np.zeros(0, np.float32), np.zeros((0, 2), np.float32)):
        assert known_rows(array).shape == (0,)
