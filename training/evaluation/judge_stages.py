"""How the judges learn: what a picture looks like without any label; age, emotion and identity from labels; looks from words.

Three stages for `training.loop`. Letters: B batch, S picture size, D features.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.angular_margin import AngularMargin, pair_loss
from training.data.cache import WORLD, DataCache
from training.data.looks import Looks
from training.evaluation.panel import TRAIT_SCALE, Panel
from training.labels import Labels
from training.pictures import augmented_crop, save_grid, to_model
from training.stages.identity import person_traits

INVARIANCE, VARIANCE, COVARIANCE = 25.0, 25.0, 1.0  # VICReg's own weights
SMALLEST_CROP = 0.8  # of a side
TINT = 0.15  # largest change of a channel's gain or level
MARGIN = AngularMargin(0.2, 16.0)
TRAIT_WEIGHT, VALUE_WEIGHT, AGE_SCALE_YEARS = 8.0, 4.0, 10.0
MOST_BLUR = 1 / 56  # of the picture's side, a Gaussian's deviation
MOST_NOISE = 0.06


class LookStage:
    """Self-supervised (VICReg, Bardes et al. 2022): two views of a picture alike, and every feature of unit variance, uncorrelated.

    A view is cropped, mirrored and tinted. The terms act on the features themselves, without an expander, so that all are used and
    none dominates. Only the learned part of `panel.Look` is trained: softness is what its fixed part sees.
    """

    name = "look"

    def __init__(self, panel: Panel, cache: DataCache) -> None:
        self.module: nn.Module = panel.look.trunk
        self.cache = cache

    def loss(self, rng: np.random.Generator, batch_size: int) -> Mapping[str, Tensor]:
        """See class."""
        rows = rng.choice(len(self.cache), min(batch_size, len(self.cache)), replace=False)
        image = to_model(self.cache.images[np.sort(rows)]).to(_device(self.module))
        first, second = (self.module(view(image, rng).to(memory_format=torch.channels_last)).float() for _ in range(2))
        invariance = F.mse_loss(first, second)
        variance, covariance = ((of(first) + of(second)) / 2 for of in (_variance_shortfall, _covariance))
        return {
            "loss": INVARIANCE * invariance + VARIANCE * variance + COVARIANCE * covariance,
            "invariance": invariance,
            "variance": variance,
            "covariance": covariance,
        }

    @torch.no_grad()
    def preview(self, path: Path) -> None:
        """Eight pictures, and below each the one that looks most like it."""
        rows = np.linspace(0, len(self.cache) - 1, min(256, len(self.cache))).astype(int)
        image = to_model(self.cache.images[rows]).to(_device(self.module))
        features = self.module(image)
        distance = torch.cdist(features[:8], features)
        distance[torch.arange(len(distance)), torch.arange(len(distance))] = torch.inf
        save_grid(torch.cat([image[:8], image[distance.argmin(1)]]).cpu(), min(8, len(image)), path)


class LabelsStage:
    """Age, emotion with valence/arousal, and identity, of pairs of pictures of one person; the three share no weight.

    What a picture's data does not say drops out. Of a person with a single picture a crop stands for the second.
    """

    name = "labels"

    def __init__(self, panel: Panel, cache: DataCache) -> None:
        self.panel, self.cache = panel, cache
        self.module = nn.ModuleDict({"age": panel.age, "emotion": panel.emotion, "identity": panel.identity})
        self.traits = None
        if WORLD in cache.sources and panel.traits is not None:
            # As in `training.stages.identity`, contrast alone starts very slowly from nothing; here the head is kept, as a judge.
            self.traits = person_traits(cache)
            self.module["traits"] = panel.traits

    def loss(self, rng: np.random.Generator, batch_size: int) -> Mapping[str, Tensor]:
        """See class."""
        first = self.cache.draw(rng, batch_size // 2)
        second, is_other = self.cache.another(first, rng)
        rows, device = np.concatenate([first, second]), _device(self.module)
        image = to_model(self.cache.images[rows]).to(device)
        alone = torch.from_numpy(np.flatnonzero(~is_other) + len(first)).to(device)
        if len(alone):
            image[alone] = augmented_crop(image[alone], rng)
        image = worn(image, rng).to(memory_format=torch.channels_last)
        age, emotion, values = (
            Labels.of(truth[rows], device) for truth in (self.cache.age, self.cache.emotion, self.cache.valence_arousal)
        )
        age_error = (self.panel.age(image).float()[:, 0] - age.values).abs()
        scaled = F.smooth_l1_loss(age_error / AGE_SCALE_YEARS, torch.zeros_like(age_error), reduction="none")
        logits, guess = self.panel.emotion.logits(image)
        named = F.cross_entropy(logits.float(), emotion.values, reduction="none")
        missed = (guess.float() - values.values).square().mean(1)
        vectors = self.panel.identity(image).float()
        identity, same = pair_loss(vectors, torch.from_numpy(self.cache.person[first]).to(device), MARGIN)
        loss = age.mean(scaled) + emotion.mean(named) + VALUE_WEIGHT * values.mean(missed) + identity
        if self.traits is not None:
            traits = Labels.of(self.traits[rows], device)
            error = (self.module["traits"](TRAIT_SCALE * vectors).float() - traits.values).square().mean(1)
            loss = loss + TRAIT_WEIGHT * traits.mean(error)
        return {
            "loss": loss,
            "age_mae": age.measured(age_error),
            "emotion_accuracy": emotion.measured((logits.argmax(1) == emotion.values).float()),
            "same_person": same,
        }

    @torch.no_grad()
    def preview(self, path: Path) -> None:
        """Eight people, and below each the nearest by identity among other pictures of them and of more people."""
        people = np.unique(self.cache.person, return_index=True)[1][:256]
        other = self.cache.another(people, np.random.default_rng(0))[0]
        probe, gallery = (to_model(self.cache.images[rows]).to(_device(self.module)) for rows in (people[:8], other))
        nearest = (self.panel.identity(probe) @ self.panel.identity(gallery).T).argmax(1)
        save_grid(torch.cat([probe, gallery[nearest]]).cpu(), len(probe), path)


class LooksStage:
    """Which phrases for looks are true of a picture: cross entropies in nats, summed over the phrases, on the synthetic world."""

    name = "looks"

    def __init__(self, panel: Panel, cache: DataCache, truth: Looks) -> None:
        """`panel.config.looks` are the phrases of `truth`. Raises ValueError for other ones."""
        if panel.looks is None or panel.config.looks != truth.phrases:
            raise ValueError(f"the judges look for {len(panel.config.looks)} phrases, the data knows other ones")
        self.module: nn.Module = panel.looks
        self.cache, self.true = cache, truth.true

    def loss(self, rng: np.random.Generator, batch_size: int) -> Mapping[str, Tensor]:
        """See class."""
        rows = self.cache.draw(rng, batch_size)
        image = worn(to_model(self.cache.images[rows]).to(_device(self.module)), rng)
        true = Labels.of(self.true[rows], image.device)
        logits = self.module(image.to(memory_format=torch.channels_last)).float()
        errors = F.binary_cross_entropy_with_logits(logits, true.values, reduction="none").sum(1)
        held = (true.values * (logits > 0)).sum(1) / true.values.sum(1).clamp(min=1)
        return {"loss": true.mean(errors), "found": true.measured(held)}

    @torch.no_grad()
    def preview(self, path: Path) -> None:
        """A row for each of eight phrases: the pictures of 256 in which the judge is surest of it."""
        rows = np.linspace(0, len(self.cache) - 1, min(256, len(self.cache))).astype(int)
        image = to_model(self.cache.images[rows]).to(_device(self.module))
        logits = self.module(image)
        phrases = np.linspace(0, logits.shape[1] - 1, 8).astype(int)
        surest = logits[:, phrases].topk(min(8, len(rows)), dim=0).indices.T
        save_grid(image[surest.flatten()].cpu(), surest.shape[1], path)


def view(image: Tensor, rng: np.random.Generator) -> Tensor:
    """A crop of each picture (B, 3, S, S) at the old size, half of them mirrored, their colours changed a little."""
    count, size = len(image), image.shape[-1]
    scale = rng.uniform(SMALLEST_CROP, 1, count)
    shift = rng.uniform(-1, 1, (count, 2)) * (1 - scale)[:, None]
    mirror = np.where(rng.random(count) < 0.5, -1.0, 1.0)
    grid = np.zeros((count, 2, 3), np.float32)
    grid[:, 0, 0], grid[:, 1, 1], grid[:, :, 2] = scale * mirror, scale, shift
    cropped = F.grid_sample(
        image,
        F.affine_grid(image.new_tensor(grid), [count, 3, size, size], align_corners=False),
        padding_mode="reflection",
        align_corners=False,
    )
    gain, level = (image.new_tensor(rng.uniform(-TINT, TINT, (count, 3, 1, 1))) for _ in range(2))
    return cropped * (1 + gain) + level


def worn(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Half of the batch blurred, by up to `MOST_BLUR` of its side, all of it a little noisy, half mirrored: (B, 3, S, S).

    Autoencoded and generated pictures are softer than renders, and a judge must read them as well.
    """
    soft, mirrored = rng.random(len(image)) < 0.5, rng.random(len(image)) < 0.5
    image = image.clone()
    if soft.any():
        image[soft] = blurred(image[soft], rng.uniform(0.2, 1) * MOST_BLUR * image.shape[-1])
    image[mirrored] = image[mirrored].flip(3)
    return image.add_(2 * torch.rand_like(image) - 1, alpha=MOST_NOISE * rng.random())


def blurred(image: Tensor, deviation: float) -> Tensor:
    """Gaussian blur of (B, C, S, S), `deviation` in pixels, edges mirrored; in full precision whatever the autocast."""
    reach = min(max(1, round(3 * deviation)), image.shape[-1] - 1)
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=image.device) / deviation) ** 2)
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1)
    channels = image.shape[1]
    across, down = kernel.expand(channels, 1, 1, -1), kernel.transpose(2, 3).expand(channels, 1, -1, 1)
    with torch.autocast(image.device.type, enabled=False):
        rows = F.conv2d(F.pad(image, (reach, reach, 0, 0), "reflect"), across, groups=channels)
        return F.conv2d(F.pad(rows, (0, 0, reach, reach), "reflect"), down, groups=channels)


def _device(module: nn.Module) -> torch.device:
    return next(module.parameters()).device


def _variance_shortfall(features: Tensor) -> Tensor:
    """Mean of what each feature's deviation over the batch lacks to 1."""
    return F.relu(1 - (features.var(0) + 1e-4).sqrt()).mean()


def _covariance(features: Tensor) -> Tensor:
    """Squared covariances of different features, summed and divided by their number."""
    centred = features - features.mean(0)
    covariance = centred.T @ centred / (len(features) - 1)
    return (covariance.square().sum() - covariance.diagonal().square().sum()) / features.shape[1]
