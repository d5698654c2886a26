"""The consistency losses, one pure function per equation (paper, eqs 14, 17-28, 31, 32). They run no network.

Every function returns one value per row, (B,) float32, 0 where the picture agrees; `masked_mean` turns rows into a term. Only the
first argument, what was generated, gets a gradient: targets are detached here, so that no caller can forget it. Features
(B, D) and maps (B, C, H, W) are compared after `unit`. Letters: B batch, D features, M tokens, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

AGE_REFERENCE, AGE_REGULAR = (
    0.5,
    0.1,
)  # α of eq. 19, fixed: trained, it would only shrink the loss; both factors of eqs 20, 21
EMOTION_REFERENCE, EMOTION_REGULAR = 0.5, 0.05  # ν of eq. 23; both factors of eqs 23, 24
IDENTITY, PERCEPTUAL = 0.6, 0.4  # eq. 28
PERCEPTUAL_LAYERS = (0.1, 0.2)  # λ of conv3_3 and conv4_3, eq. 27
CLIP_REFERENCE, AUDIO_VISUAL_REFERENCE = 0.1, 0.05  # eqs 31, 32
LEAST_CHANGE = 0.1  # ‖ΔT‖ below which two prompts say the same and ΔT's direction is noise
SHORTEST = 0.05  # below this length of ΔI its direction is noise, and the slope of a cosine would grow without bound


def unit(features: Tensor) -> Tensor:
    """`features` scaled along dimension 1 to a mean square of one, float32.

    So a squared error averaged over dimensions is `2 (1 - cos)`, whatever the width. At unit *length* the average over 512
    dimensions would be at most 0.008, and eqs 18 and 22 would have no effect beside the cosines of eqs 17, 26 and 31.
    """
    return F.normalize(features.float(), dim=1) * features.shape[1] ** 0.5


def masked_mean(values: Tensor, mask: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean of `weights * values` (B,) over the rows where `mask` (B,) is set; exactly 0, with gradient 0, where no row is."""
    weights = mask.float() if weights is None else mask.float() * weights
    return (weights * values.where(mask.bool(), torch.zeros_like(values))).sum() / mask.float().sum().clamp_min(1)


def cosine_loss(generated: Tensor, target: Tensor) -> Tensor:
    """`1 - cos`, in 0..2."""
    return 1 - F.cosine_similarity(generated.float(), target.detach().float(), dim=1)


def squared_error(generated: Tensor, target: Tensor) -> Tensor:
    """Squared error of already scaled features, averaged over all dimensions but the first."""
    return (generated - target.detach()).square().flatten(1).mean(1)


def audio_visual_loss(clip_generated: Tensor, f_av: Tensor) -> Tensor:
    """Eq. 17: `L_AV = 1 - cos(CLIP_image(I_gen), f_AV)`."""
    return cosine_loss(clip_generated, f_av)


def audio_visual_loss_with_reference(clip_generated: Tensor, f_av: Tensor, clip_reference: Tensor) -> Tensor:
    """Eq. 32: `L_AV + 0.05 (1 - cos(f_I,gen, f_I,ref))`, where there is a reference."""
    return audio_visual_loss(clip_generated, f_av) + AUDIO_VISUAL_REFERENCE * cosine_loss(
        clip_generated, clip_reference
    )


def age_loss(generated: Tensor, f_age: Tensor) -> Tensor:
    """Eq. 18: `L_Age = ‖AgeEst(I_gen) - f_Age‖²`."""
    return squared_error(unit(generated), unit(f_age))


def age_regulariser(generated: Tensor, f_age: Tensor, reference: Tensor) -> Tensor:
    """Eqs 19, 20: `0.1 ‖(1+α) AgeEst(I_gen) - (f_Age + α AgeEst(I_ref))‖²`."""
    return AGE_REGULAR * _between(generated, f_age, reference, AGE_REFERENCE)


def age_total(generated: Tensor, f_age: Tensor, reference: Tensor, has_reference: Tensor) -> Tensor:
    """Eq. 21: `L_Age + 0.1 L_Age,reg`, the second part where `has_reference` (B,)."""
    regular = age_regulariser(generated, f_age, reference)
    return age_loss(generated, f_age) + AGE_REGULAR * has_reference.float() * regular


def emotion_loss(generated: Tensor, f_emo: Tensor) -> Tensor:
    """Eq. 22: `L_Emo = ‖EmoEst(I_gen) - f_Emo‖²`."""
    return squared_error(unit(generated), unit(f_emo))


def emotion_regulariser(generated: Tensor, f_emo: Tensor, reference: Tensor) -> Tensor:
    """Eq. 23: `0.05 ‖(1+ν) EmoEst(I_gen) - (f_Emo + ν EmoEst(I_ref))‖²`."""
    return EMOTION_REGULAR * _between(generated, f_emo, reference, EMOTION_REFERENCE)


def emotion_total(generated: Tensor, f_emo: Tensor, reference: Tensor, has_reference: Tensor) -> Tensor:
    """Eq. 24: `L_Emo + 0.05 L_Emo,reg`, the second part where `has_reference` (B,)."""
    regular = emotion_regulariser(generated, f_emo, reference)
    return emotion_loss(generated, f_emo) + EMOTION_REGULAR * has_reference.float() * regular


def identity_loss(generated: Tensor, reference: Tensor) -> Tensor:
    """Eqs 25, 26: `1 - cos(ArcFace(I_ref), ArcFace(I_gen))`."""
    return cosine_loss(generated, reference)


def perceptual_loss(generated: Sequence[Tensor], reference: Sequence[Tensor]) -> Tensor:
    """Eq. 27: `Σ_l λ_l ‖VGG_l(I_gen) - VGG_l(I_ref)‖²` over two maps (B, C, H, W), each scaled at every place by `unit`."""
    layers = zip(PERCEPTUAL_LAYERS, generated, reference, strict=True)
    return torch.stack([weight * squared_error(unit(a), unit(b)) for weight, a, b in layers]).sum(0)


def identity_total(identity: Tensor, perceptual: Tensor) -> Tensor:
    """Eq. 28: `L_ID = 0.6 L_ID,ArcFace + 0.4 L_ID,Prec` from the rows (B,) of eqs 26 and 27."""
    return IDENTITY * identity + PERCEPTUAL * perceptual


def text_change(target: Tensor, source: Tensor) -> Tensor:
    """`ΔT = f_T,target - f_T,src` (B, D), each of unit length; eq. 31 says something where `‖ΔT‖ >= LEAST_CHANGE`."""
    return F.normalize(target.float(), dim=1) - F.normalize(source.float(), dim=1)


def direction_loss(generated: Tensor, reference: Tensor, target: Tensor, source: Tensor) -> Tensor:
    """The first part of eq. 31: `1 - cos(ΔI, ΔT)`, `ΔI = f_I,gen - f_I,ref` at unit length; text features `target`, `source`."""
    change = F.normalize(generated.float(), dim=1) - F.normalize(reference.detach().float(), dim=1)
    return 1 - F.cosine_similarity(change, text_change(target, source).detach(), dim=1, eps=SHORTEST)


def clip_loss(generated: Tensor, reference: Tensor, target: Tensor, source: Tensor) -> Tensor:
    """Eq. 31: `1 - cos(ΔI, ΔT) + 0.1 (1 - cos(f_I,gen, f_I,ref))`."""
    direction = direction_loss(generated, reference, target, source)
    return direction + CLIP_REFERENCE * cosine_loss(generated, reference)


def clip_loss_without_reference(generated: Tensor, target: Tensor) -> Tensor:
    """Eq. 31 where there is nothing to change from: `1 - cos(f_I,gen, f_T)`."""
    return cosine_loss(generated, target)


def cross_modal_loss(tokens: Tensor, present: Tensor) -> Tensor:
    """Eq. 14 as we use it: mean of `1 - cos(f'_m, f'_n)` over the unordered pairs of present tokens; 0 with fewer than two.

    `tokens` (B, M, D), of which a caller passes projections; `present` (B, M). All tokens get a gradient: they are what is aligned.
    """
    apart, pairs = _pairwise(tokens, present)
    return (apart * pairs).sum((1, 2)) / pairs.sum((1, 2)).clamp_min(1)


def literal_cross_modal_loss(tokens: Tensor, present: Tensor) -> Tensor:
    """Eq. 14 as printed: the sum over all `m ≠ n`, so every pair twice. Applied to the tokens it pulls them into one."""
    apart, pairs = _pairwise(tokens, present)
    return (apart * pairs).sum((1, 2))


def _between(generated: Tensor, target: Tensor, reference: Tensor, share: float) -> Tensor:
    """`‖(1+share) gen - (target + share ref)‖²`: the generated features belong between target and reference."""
    return squared_error((1 + share) * unit(generated), unit(target) + share * unit(reference))


def _pairwise(tokens: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """`1 - cos` (B, M, M) and which ordered pairs of different present tokens there are."""
    apart = 1 - F.cosine_similarity(tokens.float().unsqueeze(1), tokens.float().unsqueeze(2), dim=3)
    both = present.float().unsqueeze(1) * present.float().unsqueeze(2)
    return apart, both * (1 - torch.eye(tokens.shape[1], device=tokens.device))
