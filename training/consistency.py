"""Holds generated pictures against everything they were made from: eq. 30's five terms, row by row, and a figure for each.

It runs the frozen guides (CLIP's picture side, the estimators, VGG-16) on pictures and looks up what they should agree with;
the arithmetic is `training.losses`. A term of weight 0 is not computed. Letters: b rows, D features, S picture size.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from runtime.spec import SOURCES, TOKENS
from training import losses, vgg
from training.config import LossConfig
from training.estimators import IdentityEncoder
from training.examples import Batch, Examples
from training.model import ClipFaceFusion
from training.pictures import to_clip, to_model

# λ1 ... λ5 of eq. 30 by their names in LossConfig, and the figure that shows what each is for.
TERMS = {
    "clip": "s_dir",
    "audio_visual": "av_cos",
    "age": "age_mae",
    "emotion": "emotion_accuracy",
    "identity": "id_sim",
}

Rows = tuple[Tensor, Tensor]
"""One value per row (b,) and for which rows it means something (b,) bool."""


@dataclass(frozen=True)
class Wanted:
    """What b pictures should agree with: features (b, D), each with the rows (b,) bool that have them; nothing has a gradient.

    A reference counts only where the model was shown it: nobody can keep a face that he never saw. `source` are words for the
    reference picture; `maps` its two maps (b, C, H, W), None where L_ID is off. `years` (b,) NaN and `label` (b,) -1 where unknown.
    """

    text: Rows
    source: Rows
    f_av: Rows
    f_age: Rows
    f_emo: Rows
    image: Rows
    identity: Rows
    age_reference: Tensor
    emotion_reference: Tensor
    maps: list[Tensor] | None
    years: Tensor
    label: Tensor


class Consistency:
    """The guides of one model, frozen and in eval mode: making this object freezes them.

    With `vgg_weights` (see `training.vgg`) eq. 27 compares VGG-16's maps, without it the identity network's.
    """

    def __init__(self, model: ClipFaceFusion, config: LossConfig, vgg_weights: Path | None = None) -> None:
        self.model, self.config = model, config
        guides = (model.image_encoder, model.age_estimator, model.emotion_estimator, model.identity_encoder)
        for network in (*guides, model.autoencoder):
            if network is not None:
                network.requires_grad_(False).eval()
        self.perceptual: vgg.VGG16 | IdentityEncoder = model.identity_encoder
        self.perceptual_source = "maps of the identity network: no VGG-16 weights were given"
        if vgg_weights is not None:
            self.perceptual = vgg.load(vgg_weights).to(_device(model.identity_encoder))
            self.perceptual_source = f"VGG-16 conv3_3 and conv4_3 from {vgg_weights.name}"
        self.names = [name for name in TERMS if config.scale and getattr(config, name)]
        if "identity" in self.names:
            logging.getLogger(__name__).warning("perceptual loss: %s", self.perceptual_source)

    def wanted(
        self,
        examples: Examples,
        batch: Batch,
        tokens: tuple[Tensor, Tensor],
        rows: np.ndarray,
        rng: np.random.Generator,
    ) -> Wanted:
        """What the pictures made for the `rows` (b,) of `batch` should agree with; `tokens` are `Conditioner.tokens` of the batch.

        The source words of eq. 31 are a caption of the reference picture, drawn from `rng`; a reference that is the target
        itself has none, since then the words say that nothing changes.
        """
        cache, features, device = examples.cache, examples.features, batch.clean.device
        given = dict(zip(SOURCES, batch.inputs["present"][rows].bool().T, strict=True))
        token, present = tokens[0][rows].detach(), tokens[1][rows].bool()
        target, reference = batch.rows.numpy()[rows], batch.reference.numpy()[rows]

        def token_of(name: str) -> Rows:
            place = TOKENS.index(name)
            return token[:, place], present[:, place]

        wordings = examples.wordings[reference]
        caption = features.caption[
            torch.from_numpy(reference), torch.from_numpy((rng.random(len(rows)) * wordings).astype(int))
        ]
        has_source = given["image"] & batch.has_other[rows] & torch.from_numpy(wordings > 0).to(device)
        maps = None
        if "identity" in self.names:
            with torch.no_grad():
                maps = self.perceptual.maps(to_model(cache.images[reference]).to(device))
        return Wanted(
            text=(batch.inputs["text_features"][rows], given["text"]),
            source=(features.texts[caption.clamp(min=0)].to(device), has_source),
            f_av=token_of("audio_visual"),
            f_age=token_of("age"),
            f_emo=token_of("emotion"),
            image=(batch.inputs["image_features"][rows], given["image"]),
            identity=(batch.inputs["identity_features"][rows], given["identity"]),
            age_reference=features.age[reference].to(device),
            emotion_reference=features.emotion[reference].to(device),
            maps=maps,
            years=torch.from_numpy(cache.age[target]).to(device),
            label=torch.from_numpy(cache.emotion[target]).to(device),
        )

    def compare(self, picture: Tensor, wanted: Wanted) -> tuple[dict[str, Rows], dict[str, Rows]]:
        """Of pictures (b, 3, S, S) in [-1, 1] the terms `names`, and by the same names the figures of TERMS, without gradient.

        Figures: cosines, for `age` the error in years, for `emotion` 1 where the label is right.
        """
        terms: dict[str, Rows] = {}
        figures: dict[str, Rows] = {}
        if "clip" in self.names or "audio_visual" in self.names:
            size = self.model.image_encoder.config.image_size
            seen = self.model.encode_image(to_clip(_resized(picture, size))).float()
            if "clip" in self.names:
                terms["clip"], figures["clip"] = _clip(seen, wanted)
            if "audio_visual" in self.names:
                terms["audio_visual"], figures["audio_visual"] = _audio_visual(seen, wanted)
        if "age" in self.names:
            f_age, has_age = wanted.f_age
            age = self.model.age_estimator.features(picture)
            terms["age"] = losses.age_total(age, f_age, wanted.age_reference, wanted.identity[1]), has_age
            with torch.no_grad():
                error = (self.model.estimate_age(picture)[:, 0].float() - wanted.years).abs()
            figures["age"] = error, has_age & ~wanted.years.isnan()
        if "emotion" in self.names:
            f_emo, has_emo = wanted.f_emo
            emotion = self.model.emotion_estimator.features(picture)
            terms["emotion"] = (
                losses.emotion_total(emotion, f_emo, wanted.emotion_reference, wanted.identity[1]),
                has_emo,
            )
            with torch.no_grad():
                is_right = self.model.estimate_emotion(picture)[0].argmax(1) == wanted.label
            figures["emotion"] = is_right.float(), has_emo & (wanted.label >= 0)
        if wanted.maps is not None:
            reference, has_reference = wanted.identity
            face = self.model.identify(_resized(picture, self.model.config.identity_size))
            identity = losses.identity_loss(face, reference)
            perceptual = losses.perceptual_loss(self.perceptual.maps(picture), wanted.maps)
            terms["identity"] = losses.identity_total(identity, perceptual), has_reference
            figures["identity"] = 1 - identity.detach(), has_reference
        return terms, figures


def _clip(seen: Tensor, wanted: Wanted) -> tuple[Rows, Rows]:
    """Eq. 31 where the words tell a change from the reference, skipped where they tell none; else the text itself."""
    (text, has_text), (source, has_source), (image, _) = wanted.text, wanted.source, wanted.image
    tells_change = losses.text_change(text, source).norm(dim=1) >= losses.LEAST_CHANGE
    directed = losses.clip_loss(seen, image, text, source)
    plain = losses.clip_loss_without_reference(seen, text)
    term = torch.where(has_source, directed, plain), has_text & (tells_change | ~has_source)
    s_dir = 1 - losses.direction_loss(seen.detach(), image, text, source)
    return term, (s_dir, has_text & has_source & tells_change)


def _audio_visual(seen: Tensor, wanted: Wanted) -> tuple[Rows, Rows]:
    """Eq. 32 where there is a reference, else eq. 17."""
    (f_av, has_voice), (image, has_image) = wanted.f_av, wanted.image
    alone = losses.audio_visual_loss(seen, f_av)
    both = losses.audio_visual_loss_with_reference(seen, f_av, image)
    return (torch.where(has_image, both, alone), has_voice), (1 - alone.detach(), has_voice)


def _resized(picture: Tensor, size: int) -> Tensor:
    """Bicubic with antialiasing, as the runtime's preprocessing; differentiable."""
    if picture.shape[-1] == size:
        return picture
    return F.interpolate(picture, size=(size, size), mode="bicubic", antialias=True, align_corners=False)


def _device(module: nn.Module) -> torch.device:
    return next(module.parameters()).device
