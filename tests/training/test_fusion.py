"""Attention fusion and mixing, by arithmetic (eqs 5, 7, 11-13, 16)."""

from __future__ import annotations

import pytest
import torch

from runtime.emotions import EMOTIONS
from runtime.spec import SOURCES, TOKENS
from training.attributes import AgeFeatures, AudioVisualFeatures, EmotionFeatures, Mix
from training.conditioner import Conditioner
from training.fusion import AttentionFusion

D, DA = 16, 12


def tokens(batch: int = 3) -> torch.Tensor:
    return torch.randn(batch, len(TOKENS), D, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def fusion() -> AttentionFusion:
    torch.manual_seed(0)
    return AttentionFusion(len(TOKENS), D, heads=4, dropout=0.1).eval()


def test_a_mix_with_one_side_absent_is_the_other_side() -> None:
    mix, first, second = Mix(), torch.full((1, D), 2.0), torch.full((1, D), 5.0)
    one, none = torch.ones(1, 1), torch.zeros(1, 1)
    assert torch.allclose(mix(first, one, second, none)[0], first)
    assert torch.allclose(mix(first, none, second, one)[0], second)
    assert torch.allclose(mix(first, one, second, one)[0], torch.full((1, D), 3.5))  # α starts at 1/2
    mixed, present = mix(torch.zeros(1, D), none, torch.zeros(1, D), none)
    assert not mixed.any() and present.item() == 0


def test_an_absent_token_cannot_be_told_from_its_content(fusion: AttentionFusion) -> None:
    present = torch.ones(3, len(TOKENS))
    present[:, 2] = 0
    changed = tokens()
    changed[:, 2] += 10
    for before, after in zip(fusion(tokens(), present), fusion(changed, present), strict=True):
        assert torch.equal(before, after)


def test_every_present_token_has_an_effect(fusion: AttentionFusion) -> None:
    base = fusion(tokens(), torch.ones(3, len(TOKENS)))[0]
    for token in range(len(TOKENS)):
        changed = tokens()
        changed[:, token] = changed[:, token].flip(-1)
        assert not torch.allclose(base, fusion(changed, torch.ones(3, len(TOKENS)))[0], atol=1e-4), TOKENS[token]


def test_nothing_present_is_finite_and_the_same_for_every_row(fusion: AttentionFusion) -> None:
    fused, used = fusion(tokens(), torch.zeros(3, len(TOKENS)))
    assert fused.isfinite().all() and torch.allclose(fused[0], fused[1], atol=1e-6) and torch.equal(used[0], used[2])


def test_fusion_equals_torchs_own_attention(fusion: AttentionFusion) -> None:
    reference = torch.nn.MultiheadAttention(D, 4, batch_first=True).eval()
    with torch.no_grad():
        reference.in_proj_weight.copy_(fusion.query_key_value.weight)
        reference.in_proj_bias.copy_(fusion.query_key_value.bias)
        reference.out_proj.weight.copy_(fusion.attention_out.weight)
        reference.out_proj.bias.copy_(fusion.attention_out.bias)
    fused, used = fusion(tokens(), torch.ones(3, len(TOKENS)))
    pooled = reference(used, used, used, need_weights=False)[0].mean(1)
    assert torch.allclose(fused, fusion.feed_forward(pooled) + pooled, atol=1e-5)


def test_without_the_fusion_module_the_result_is_the_plain_mean_of_the_tokens(fusion: AttentionFusion) -> None:
    plain = AttentionFusion(len(TOKENS), D, heads=4, dropout=0.1, kind="mean").eval()
    plain.load_state_dict(fusion.state_dict())  # the weights of one kind fit the other
    present = torch.ones(3, len(TOKENS))
    present[:, 1] = 0
    fused, used = plain(tokens(), present)
    assert torch.allclose(fused, used.mean(1)) and torch.equal(used, fusion(tokens(), present)[1])
    assert torch.equal(used[:, 1], plain.null_tokens[1].expand(3, D))
    assert not torch.allclose(fused, fusion(tokens(), present)[0], atol=1e-3)


def test_an_unknown_fusion_is_refused() -> None:
    with pytest.raises(ValueError, match="'sum', allowed attention, mean"):
        AttentionFusion(len(TOKENS), D, heads=4, dropout=0.1, kind="sum")


def test_the_photo_changes_the_audio_visual_token_only_when_it_is_present() -> None:
    torch.manual_seed(0)
    module = AudioVisualFeatures(DA, D)
    audio, emotion, image = torch.randn(1, DA), torch.randn(1, D), torch.randn(1, D)
    without = module(audio, emotion, image, torch.zeros(1, 1))
    assert torch.allclose(without, module(audio, emotion, 9 * image, torch.zeros(1, 1)))
    assert not torch.allclose(without, module(audio, emotion, image, torch.ones(1, 1)), atol=1e-3)


def test_a_year_makes_a_difference_at_every_age() -> None:
    torch.manual_seed(0)
    module = AgeFeatures(D)
    ages = torch.arange(1.0, 100.0)[:, None]
    features, present = module(torch.zeros(99, D), torch.zeros(99, 1), ages, torch.ones(99, 1))
    assert present.all() and (features.diff(dim=0).norm(dim=1) > 1e-3).all()


def test_emotion_is_present_by_any_of_its_four_ways() -> None:
    torch.manual_seed(0)
    module = EmotionFeatures(D)
    label, values = torch.eye(len(EMOTIONS))[2:3], torch.tensor([[0.5, 0.5]])
    for way in range(4):
        m = [torch.tensor([[float(way == k)]]) for k in range(4)]
        _, present = module(torch.ones(1, D), m[0], torch.ones(1, D), m[1], (label, m[2], values, m[3]))
        assert present.item() == 1


def test_conditioner_starts_without_any_effect_on_a_pretrained_unet() -> None:
    torch.manual_seed(0)
    conditioner = Conditioner(D, DA, cond_width=8, token_width=None, heads=4, dropout=0.0)
    widths = (D, D, D, DA, D, D, D, 1, len(EMOTIONS), 2)
    (cond,) = conditioner(*(torch.randn(2, width) for width in widths), torch.ones(2, len(SOURCES)))
    assert cond.shape == (2, 8) and not cond.any()
