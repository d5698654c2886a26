"""ArcFace's margin by hand: angles in, angles out."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from training.angular_margin import AngularMargin, ClassWeights, pair_loss

OWN = torch.tensor([[True, False]])


def test_the_margin_is_added_to_the_angle_of_the_own_person_only() -> None:
    cosine = torch.tensor([[math.cos(1.0), math.cos(0.7)]])
    logits = AngularMargin(0.5, 64.0).logits(cosine, OWN)
    torch.testing.assert_close(logits, torch.tensor([[64 * math.cos(1.5), 64 * math.cos(0.7)]]))


def test_a_margin_of_zero_is_a_plain_scaled_cosine() -> None:
    cosine = torch.tensor([[0.3, -0.4]])
    torch.testing.assert_close(AngularMargin(0.0, 10.0).logits(cosine, OWN), torch.tensor([[3.0, -4.0]]))


@pytest.mark.parametrize("radians", [0.2, 0.5, 1.0])
def test_more_alike_is_always_better_and_the_margin_always_costs(radians: float) -> None:
    """cos(θ + m) alone would rise again beyond θ = π - m."""
    cosine = torch.linspace(-0.998, 0.998, 1000)[:, None]
    logits = AngularMargin(radians, 1.0).logits(cosine, torch.ones_like(cosine, dtype=torch.bool))
    assert (logits.diff(dim=0) > 0).all()
    assert (logits < cosine).all()


def test_the_slope_is_that_of_the_turned_cosine_and_finite_for_twins() -> None:
    angle, margin = 1.1, 0.4
    cosine = torch.tensor([[math.cos(angle)]], requires_grad=True)
    own = torch.ones(1, 1, dtype=torch.bool)
    AngularMargin(margin, 2.0).logits(cosine, own).sum().backward()
    assert cosine.grad is not None
    # d cos(θ + m) / d cosθ = sin(θ + m) / sinθ
    assert cosine.grad.item() == pytest.approx(2 * math.sin(angle + margin) / math.sin(angle), rel=1e-5)
    twins = torch.ones(1, 1, requires_grad=True)
    AngularMargin(margin, 2.0).logits(twins, own).sum().backward()
    assert twins.grad is not None and twins.grad.isfinite().all()


def test_class_weights_by_hand() -> None:
    """One vector along its person's direction, one person at a right angle: softmax of (s·cos m, 0)."""
    classes = ClassWeights(2, 2, AngularMargin(0.5, 4.0))
    with torch.no_grad():
        classes.weight.copy_(torch.tensor([[3.0, 0.0], [0.0, 0.1]]))  # their lengths do not matter
    vector = torch.tensor([[math.cos(0.3), math.sin(0.3)]])
    loss, accuracy = classes(vector, torch.tensor([0]))
    expected = -math.log(1 / (1 + math.exp(4 * math.sin(0.3) - 4 * math.cos(0.3 + 0.5))))
    assert loss.item() == pytest.approx(expected, rel=1e-5) and accuracy.item() == 1


def test_class_weights_pull_the_vector_to_its_person_and_learn() -> None:
    torch.manual_seed(0)
    classes = ClassWeights(5, 8, AngularMargin(0.5, 64.0))
    raw = torch.randn(4, 8, requires_grad=True)
    person = torch.tensor([0, 1, 2, 2])
    vectors = F.normalize(raw, dim=1)
    loss, _ = classes(vectors, person)
    loss.backward()
    assert classes.weight.grad is not None and (classes.weight.grad.norm(dim=1) > 0).all()
    assert raw.grad is not None
    moved = F.normalize(raw.detach() - 0.01 * raw.grad, dim=1)
    own = F.normalize(classes.weight.detach(), dim=1)[person]
    assert ((moved * own).sum(1) > (vectors.detach() * own).sum(1)).all()


def test_pairs_of_orthogonal_people_by_hand() -> None:
    vectors = torch.eye(2).repeat(2, 1)
    loss, accuracy = pair_loss(vectors, torch.tensor([3, 9]), AngularMargin(0.2, 2.0))
    # identical vectors: the cosine is held at 0.999, where the sine's slope is still finite
    own = 0.999 * math.cos(0.2) - math.sqrt(1 - 0.999**2) * math.sin(0.2)
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-2 * own)), rel=1e-5) and accuracy.item() == 1


def test_another_pair_of_the_same_person_is_no_negative() -> None:
    torch.manual_seed(0)
    vectors = F.normalize(torch.randn(6, 4), dim=1)
    alone = torch.cat([vectors[[0, 2]], vectors[[3, 5]]])
    loss, _ = pair_loss(vectors, torch.tensor([1, 1, 2]), AngularMargin(0.2, 16.0))
    assert loss < pair_loss(vectors, torch.tensor([1, 0, 2]), AngularMargin(0.2, 16.0))[0]
    assert pair_loss(alone, torch.tensor([1, 1]), AngularMargin(0.2, 16.0))[0] == 0  # nobody else to tell them from


def test_cosines_stay_in_float32_under_autocast() -> None:
    vectors = F.normalize(torch.randn(8, 16), dim=1)
    margin, person = AngularMargin(0.5, 64.0), torch.arange(4)
    plain = pair_loss(vectors, person, margin)[0]
    classes = ClassWeights(4, 16, margin)
    named = classes(vectors[:4], person)[0]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(pair_loss(vectors, person, margin)[0], plain)
        assert torch.equal(classes(vectors[:4], person)[0], named)


@pytest.mark.parametrize(("radians", "scale"), [(-0.1, 64.0), (1.6, 64.0), (0.5, 0.0)])
def test_a_margin_that_makes_no_sense_is_refused(radians: float, scale: float) -> None:
    with pytest.raises(ValueError, match="angular margin"):
        AngularMargin(radians, scale)
