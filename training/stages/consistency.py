"""Stage: UNet and fusion under everything at once: L_simple, the image losses of eq. 30, and L_CM (eq. 14).

An image loss needs a picture, and early in the noise x̂0 is none: it reads the rows at small timesteps, weighted by their ᾱ, or the end
of a short DDIM chain. Targets are what the frozen attribute modules and encoders say, so no loss can be lowered by moving them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from runtime.spec import TOKENS
from training import losses
from training.chain import ddim_chain, predict_clean
from training.config import LossConfig
from training.consistency import TERMS, Consistency
from training.data.cache import DataCache
from training.diffusion import add_noise, sample_timesteps, simple_loss
from training.features import FeatureCache
from training.model import ClipFaceFusion
from training.stages.diffusion import DiffusionStage

ALIGNED = tuple(TOKENS.index(name) for name in ("text", "audio_visual", "age", "emotion", "image"))  # m of eq. 14
HEAD_NARROWING = 4  # the projection heads of L_CM keep a quarter of the tokens' width


class ConsistencyStage:
    """The diffusion stage's examples; `config` says which terms count how much. `vgg` is a file for `training.vgg.load`.

    Terms are logged before their weights, each with its figure of `training.consistency.TERMS`; `cmc`, the mean cosine of present
    tokens, is that of L_CM. NaN where no row of a batch has one.
    """

    name = "consistency"

    def __init__(
        self,
        model: ClipFaceFusion,
        cache: DataCache,
        features: FeatureCache,
        config: LossConfig,
        never: Sequence[str] = (),
        vgg: Path | None = None,
    ) -> None:
        self.model, self.config = model, config
        self.diffusion = DiffusionStage(model, cache, features, never)
        self.consistency = Consistency(model, config, vgg)
        self.module = nn.ModuleDict({"unet": model.unet, "conditioner": model.conditioner})
        if config.cross_modal and config.cross_modal_form == "present_pairs":
            # Thrown away afterwards: agreement is asked of these, so that the tokens themselves may keep what tells them apart.
            width = model.config.features
            heads = (nn.Linear(width, max(1, width // HEAD_NARROWING), bias=False) for _ in ALIGNED)
            self.module["heads"] = nn.ModuleList(heads)
        # A float, so that the loop counts steps and not the parts of one.
        self.module.register_buffer("steps", torch.zeros(()))

    def loss(self, rng: np.random.Generator, batch_size: int) -> Mapping[str, Tensor]:
        """See module and class."""
        config, model, schedule = self.config, self.model, self.model.schedule
        batch = self.diffusion.examples.draw(rng, batch_size)
        clean = batch.clean
        noise = torch.randn(clean.shape).to(clean.device)  # as in the diffusion stage
        timesteps = sample_timesteps(batch_size, schedule).to(clean.device)
        noisy = add_noise(clean, noise, timesteps, schedule)
        tokens = model.conditioner.tokens(*batch.inputs.values())
        f_final, used = model.conditioner.fusion(*tokens)
        cond = model.conditioner.project(f_final, used)

        total = f_final.float().sum() * 0  # so that a part without any term can be gone back through
        prediction = None
        shown: dict[str, Tensor] = {}
        if config.simple:
            prediction = model.denoise(noisy, timesteps, *cond)
            shown["simple"] = simple_loss(prediction, clean, noise, timesteps, schedule).mean()
            total = total + config.simple * shown["simple"]
        if config.cross_modal:
            cross_modal, shown["cross_modal"], shown["cmc"] = self._cross_modal(used, tokens[1])
            total = total + config.cross_modal * cross_modal
        for name in self.consistency.names:
            shown[name] = shown[TERMS[name]] = clean.new_tensor(torch.nan)
        rows = np.flatnonzero(timesteps.cpu().numpy() <= config.max_timestep)[: ceil(config.part * batch_size)]
        if self.consistency.names and len(rows):
            wanted = self.consistency.wanted(self.diffusion.examples, batch, tokens, rows, rng)
            picture = self._picture(noisy, timesteps, cond, prediction, rows)
            terms, figures = self.consistency.compare(picture, wanted)
            # x̂0 is the less of a picture the later the timestep; the end of a chain is one wherever it began.
            alpha = torch.tensor(schedule.alphas_cumprod).to(picture)[timesteps[rows]]
            weight = torch.ones_like(alpha) if config.chain_steps > 1 else alpha
            for name, (values, mask) in terms.items():
                term = losses.masked_mean(values, mask, weight)
                total = total + self._ramp() * config.scale * getattr(config, name) * term
                shown[name], shown[TERMS[name]] = _measured(values, mask), _measured(*figures[name])
        self.module.get_buffer("steps").add_(1)
        return {"loss": total, **shown}

    def preview(self, path: Path) -> None:
        """As the diffusion stage's."""
        self.diffusion.preview(path)

    def _picture(
        self, noisy: Tensor, timesteps: Tensor, cond: tuple[Tensor, ...], prediction: Tensor | None, rows: np.ndarray
    ) -> Tensor:
        """(b, 3, S, S) in [-1, 1] for `rows` of the batch: x̂0 of the UNet's `prediction`, or the end of a chain."""
        entries = [entry[rows] for entry in cond]
        schedule = self.model.schedule
        if prediction is not None and not self.config.chain_steps:
            clean = predict_clean(prediction[rows], noisy[rows], timesteps[rows], schedule)
        else:
            clean = ddim_chain(
                lambda sample, t: self.model.denoise(sample, t, *entries),
                noisy[rows],
                timesteps[rows],
                max(1, self.config.chain_steps),
                schedule,
            )
        return clean.clamp(-1, 1) if self.model.autoencoder is None else self.model.decode(clean)

    def _cross_modal(self, used: Tensor, present: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """L_CM over the batch, the same as it is shown, and the mean cosine of the present tokens themselves."""
        tokens, m = used[:, ALIGNED], present[:, ALIGNED]
        has_pair = m.sum(1) > 1
        if self.config.cross_modal_form == "literal":
            values = losses.literal_cross_modal_loss(tokens, m)
        else:
            heads = self.module["heads"]
            projected = [head(token) for head, token in zip(heads, tokens.unbind(1), strict=True)]
            values = losses.cross_modal_loss(torch.stack(projected, dim=1), m)
        agreement = 1 - losses.cross_modal_loss(tokens.detach(), m)
        return losses.masked_mean(values, has_pair), _measured(values, has_pair), _measured(agreement, has_pair)

    def _ramp(self) -> Tensor:
        """Share of eq. 30 at this step: the guides' first gradients are the roughest."""
        steps = self.module.get_buffer("steps")
        return ((steps + 1) / self.config.ramp_steps).clamp(max=1) if self.config.ramp_steps else torch.ones_like(steps)


def _measured(values: Tensor, mask: Tensor) -> Tensor:
    """The mean over the rows that have a value, NaN without any: what a log shows."""
    return values.detach()[mask.bool()].mean()
