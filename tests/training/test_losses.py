"""Every consistency loss by hand-computed numbers, and where its gradient goes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from training import losses

RIGHT, UP = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 3.0]])  # at a right angle; lengths must not matter
ONE, NONE = torch.ones(1), torch.zeros(1)


def test_unit_has_mean_square_one_at_any_length_and_width() -> None:
    for width in (2, 512):
        features = 7 * torch.randn(3, width)
        assert torch.allclose(losses.unit(features).square().mean(1), torch.ones(3), atol=1e-5)
    assert torch.allclose(losses.unit(torch.tensor([[3.0, 4.0]])), 2**0.5 * torch.tensor([[0.6, 0.8]]))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (losses.audio_visual_loss(RIGHT, UP), 1.0),
        (losses.audio_visual_loss(RIGHT, -RIGHT), 2.0),
        (losses.audio_visual_loss_with_reference(RIGHT, RIGHT, UP), 0.05),
        (losses.age_loss(RIGHT, UP), 2.0),
        # √2 (1.5, 0) - √2 (0.5, 1) has a mean square of 2
        (losses.age_regulariser(RIGHT, UP, RIGHT), 0.1 * 2.0),
        (losses.age_total(RIGHT, UP, RIGHT, ONE), 2.0 + 0.1 * 0.2),
        (losses.age_total(RIGHT, UP, RIGHT, NONE), 2.0),
        (losses.emotion_loss(RIGHT, UP), 2.0),
        (losses.emotion_regulariser(RIGHT, UP, RIGHT), 0.05 * 2.0),
        (losses.emotion_total(RIGHT, UP, RIGHT, ONE), 2.0 + 0.05 * 0.1),
        (losses.identity_loss(RIGHT, UP), 1.0),
        (losses.identity_total(torch.tensor([1.0]), torch.tensor([0.6])), 0.6 + 0.4 * 0.6),
        # from right to up, as the words say; then as if they said the opposite
        (losses.clip_loss(UP, RIGHT, UP, RIGHT), 0.0 + 0.1),
        (losses.clip_loss(UP, RIGHT, RIGHT, UP), 2.0 + 0.1),
        (losses.clip_loss_without_reference(RIGHT, UP), 1.0),
        (losses.text_change(UP, RIGHT).norm(dim=1), 2**0.5),
    ],
)
def test_by_hand(value: Tensor, expected: float) -> None:
    assert value.shape == (1,) and value.item() == pytest.approx(expected, abs=1e-6)


def test_perceptual_loss_by_hand() -> None:
    """Orthogonal at every place of both maps: 0.1 · 2 + 0.2 · 2; at one of the four places of the first map only: 0.1 · 2 / 4."""
    right, up = (vector.view(1, 2, 1, 1).expand(1, 2, 2, 2) for vector in (RIGHT, UP))
    assert losses.perceptual_loss([right, right], [up, up]).item() == pytest.approx(0.6)
    partly = right.clone()
    partly[..., 0, 0] = torch.tensor([0.0, 1.0])
    assert losses.perceptual_loss([partly, up], [right, up]).item() == pytest.approx(0.05)


def test_cross_modal_forms_by_hand() -> None:
    tokens = torch.stack([RIGHT, UP, RIGHT], dim=1)
    for present, mean, literal in (((1, 1, 1), 2 / 3, 4.0), ((1, 1, 0), 1.0, 2.0), ((1, 0, 1), 0.0, 0.0)):
        mask = torch.tensor([present])
        assert losses.cross_modal_loss(tokens, mask).item() == pytest.approx(mean)
        assert losses.literal_cross_modal_loss(tokens, mask).item() == pytest.approx(literal)


@pytest.mark.parametrize("present", [(0, 0, 0), (0, 1, 0)])
def test_fewer_than_two_tokens_have_nothing_to_agree_on(present: tuple[int, ...]) -> None:
    tokens = torch.randn(1, 3, 4, requires_grad=True)
    loss = losses.cross_modal_loss(tokens, torch.tensor([present])).sum()
    loss.backward()
    assert loss.item() == 0 and tokens.grad is not None and not tokens.grad.any()


def test_a_masked_mean_ignores_rows_even_if_they_are_not_numbers() -> None:
    values = torch.tensor([1.0, float("nan"), 4.0], requires_grad=True)
    mean = losses.masked_mean(values, torch.tensor([True, False, True]), torch.tensor([0.5, 9.0, 1.0]))
    mean.backward()
    assert mean.item() == pytest.approx((0.5 * 1 + 1 * 4) / 2)
    assert values.grad is not None and values.grad.tolist() == [0.25, 0.0, 0.5]
    assert losses.masked_mean(torch.ones(3), torch.zeros(3)).item() == 0


PAIRS: list[Callable[[Tensor, Tensor], Tensor]] = [
    losses.audio_visual_loss,
    losses.age_loss,
    losses.emotion_loss,
    losses.identity_loss,
    losses.clip_loss_without_reference,
    lambda generated, target: losses.age_regulariser(generated, target, target + 1),
    lambda generated, target: losses.emotion_regulariser(generated, target, target + 1),
    lambda generated, target: losses.audio_visual_loss_with_reference(generated, target, target + 1),
    lambda generated, target: losses.clip_loss(generated, target, target + 1, 2 - target),
    lambda generated, target: losses.perceptual_loss([generated.view(2, 4, 2, 1)] * 2, [target.view(2, 4, 2, 1)] * 2),
]


@pytest.mark.parametrize("loss", PAIRS)
def test_only_what_was_generated_gets_a_gradient_and_following_it_helps(
    loss: Callable[[Tensor, Tensor], Tensor],
) -> None:
    torch.manual_seed(0)
    generated, target = torch.randn(2, 8, requires_grad=True), torch.randn(2, 8, requires_grad=True)
    before = loss(generated, target).sum()
    before.backward()
    assert target.grad is None and generated.grad is not None
    assert loss(generated - 0.05 * generated.grad, target).sum() < before


@pytest.mark.parametrize("loss", PAIRS)
def test_absent_features_which_are_zeros_stay_finite(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    generated = torch.zeros(2, 8, requires_grad=True)
    loss(generated, torch.zeros(2, 8)).sum().backward()
    assert generated.grad is not None and generated.grad.isfinite().all()


def test_a_picture_that_hardly_differs_from_its_reference_has_no_steep_gradient() -> None:
    east, north, up = torch.eye(3).split(1)
    generated = (east + 1e-5 * north).requires_grad_(True)
    losses.direction_loss(generated, east, up, east).sum().backward()
    assert generated.grad is not None and generated.grad.norm() < 2 / losses.SHORTEST


@pytest.mark.parametrize("form", ["literal", "present_pairs"])
def test_cross_modal_as_printed_destroys_tokens_and_our_default_does_not(form: str) -> None:
    """Tokens that a small task needs, each knowing a sample's number in its own way; the spread is that of a token across samples."""
    torch.manual_seed(0)
    samples, modalities, width = 32, 3, 12
    features = torch.randn(samples, modalities, width)
    wanted = features[:, :, :2].mean(1)
    make = nn.ModuleList(nn.Sequential(nn.Linear(width, width), nn.LayerNorm(width)) for _ in range(modalities))
    heads = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(modalities))
    read = nn.Linear(modalities * width, 2)

    def tokens() -> Tensor:
        return torch.stack([layer(features[:, m]) for m, layer in enumerate(make)], dim=1)

    def spread() -> float:
        return nn.functional.normalize(tokens(), dim=2).std(0).mean().item()

    start = spread()
    optimizer = torch.optim.Adam([*make.parameters(), *heads.parameters(), *read.parameters()], lr=3e-2)
    present = torch.ones(samples, modalities)
    for _ in range(50):
        made = tokens()
        if form == "literal":
            cross_modal = 0.1 * losses.literal_cross_modal_loss(made, present).mean()
        else:
            projected = torch.stack([head(made[:, m]) for m, head in enumerate(heads)], dim=1)
            cross_modal = 0.01 * losses.cross_modal_loss(projected, present).mean()
        optimizer.zero_grad()
        ((read(made.flatten(1)) - wanted).square().mean() + cross_modal).backward()
        optimizer.step()
    assert spread() < 0.35 * start if form == "literal" else spread() > 0.9 * start
