"""The judges: five small networks that read pictures for the evaluation and never guided a training.

What guides a training cannot judge it: a generator learns to please the estimator in its loss. So these have other widths, another
seed and were trained on other people, on blurred pictures too. On disk: `judges.safetensors`, and `judges.json` with its hash,
how it was made and how right it is about real pictures. Letters: N pictures, S picture size, D features.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from torch import Tensor, nn

from runtime.errors import BundleError
from training.durable import write_json, write_tensors
from training.estimators import AgeEstimator, EmotionEstimator, FaceTrunk, IdentityEncoder
from training.face_packs import FacePack
from training.pictures import to_model

FORMAT_VERSION = 1
WEIGHTS_FILE, CARD_FILE = "judges.safetensors", "judges.json"
OCTAVES, OCTAVE_SCALE = 4, 3.0  # scaled so that between real pictures they vary about as much as the learned ones
NOBODY = np.zeros(512, np.float32)  # as wide as ArcFace
TRAIT_SCALE = 16.0  # of unit vectors, before the trait head
_CHUNK = 64


@dataclass(frozen=True)
class PanelConfig:
    """Architecture. `image_size` is what the judges look at, whatever the size of the pictures; `look` the width of `fid` and `kid`;
    `traits` how many numbers of a person the identity judge's vector is read for; `looks` the (topic, phrase) pairs that a judge looks for."""

    image_size: int = 128
    channels: tuple[int, ...] = (24, 56, 80)
    features: int = 160
    look: int = 96
    traits: int = 0  # of the synthetic world's people: sex and what makes a face; 0 for judges of photographs
    looks: tuple[tuple[str, str], ...] = ()  # of the synthetic world's pictures; none for judges of photographs

    def __post_init__(self) -> None:
        object.__setattr__(self, "channels", tuple(self.channels))
        object.__setattr__(self, "looks", tuple((topic, phrase) for topic, phrase in self.looks))
        if not 8 <= self.look <= 128:
            raise ValueError(f"look is {self.look} wide, allowed 8..128: a thousand pictures cannot fill more")


@dataclass(frozen=True)
class Reading:
    """What the judges see in N pictures: `look` (N, D) for `fid` and `kid`, `age` (N,) years, `emotion` (N,) place in EMOTIONS,
    `valence_arousal` (N, 2), `identity` (N, D) unit length, `traits` (N, `PanelConfig.traits`) as `person_traits` numbers them, `looks`
    (N, `PanelConfig.looks`) how probably each phrase is true of the picture."""

    look: np.ndarray
    age: np.ndarray
    emotion: np.ndarray
    valence_arousal: np.ndarray
    identity: np.ndarray
    traits: np.ndarray
    looks: np.ndarray

    def __len__(self) -> int:
        return len(self.age)

    def of(self, rows: np.ndarray) -> Reading:
        """The same for some of the pictures, in that order."""
        return Reading(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))

    def with_more(self, other: Reading) -> Reading:
        """These pictures and then the other's."""
        columns = ((getattr(self, name), getattr(other, name)) for name in self.__dataclass_fields__)
        return Reading(*(np.concatenate(pair) for pair in columns))


class Look(nn.Module):
    """What a picture looks like, (B, 3, S, S) → (B, width), for `fid` and `kid`: learned without labels, and four fixed numbers.

    The fixed ones are the log10 energy of the brightness in four octaves, finest first. A network that is taught what pictures have in common
    is slow to see how sharp they are (after 110 steps of 96 pictures it was no nearer to telling than a guess), and a distance between pictures that
    overlooks blur is of little use.
    """

    def __init__(self, channels: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.trunk = FaceTrunk(channels, width - OCTAVES)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, S, S) in [-1, 1] → (B, width)."""
        return torch.cat([self.trunk(image), OCTAVE_SCALE * octaves(image)], dim=1)


def octaves(image: Tensor) -> Tensor:
    """(B, OCTAVES) log10 of the mean squared detail that each halving of the size loses; S is a multiple of 2 ** OCTAVES."""
    grey, energies = image.mean(1, keepdim=True), []
    for _ in range(OCTAVES):
        smaller = F.avg_pool2d(grey, 2)
        detail = grey - F.interpolate(smaller, scale_factor=2, mode="nearest")
        energies.append((detail.square().mean((1, 2, 3)) + 1e-7).log10())
        grey = smaller
    return torch.stack(energies, dim=1)


class Panel(nn.Module):
    """The five networks; `card` is what `judges.json` says of them.

    With a `face_pack` (ArcFace of a pack that the user has) people are judged by it instead of by our identity network, which knows
    synthetic faces only. A picture in which it finds no face is like nobody: its vector is zero.
    """

    def __init__(self, config: PanelConfig) -> None:
        super().__init__()
        self.config = config
        self.card: Mapping[str, Any] = {}
        self.face_pack: FacePack | None = None
        self.look = Look(config.channels, config.look)
        self.age = AgeEstimator(config.channels, config.features)
        self.emotion = EmotionEstimator(config.channels, config.features)
        self.identity = IdentityEncoder(config.channels, config.features)
        self.traits = nn.Linear(config.features, config.traits) if config.traits else None
        self.looks = (
            nn.Sequential(
                FaceTrunk(config.channels, config.features), nn.SiLU(), nn.Linear(config.features, len(config.looks))
            )
            if config.looks
            else None
        )

    @torch.no_grad()
    def read(self, pictures: np.ndarray) -> Reading:
        """Read (N, S, S, 3) uint8 in eval mode, at the judges' own size."""
        self.eval()
        device = next(self.parameters()).device
        parts = [
            self._read(to_model(pictures[start : start + _CHUNK]).to(device))
            for start in range(0, len(pictures), _CHUNK)
        ]
        reading = Reading(*(torch.cat(column).cpu().numpy() for column in zip(*parts, strict=True)))
        if self.face_pack is None:
            return reading
        vectors = [self.face_pack.identity(picture) for picture in pictures]
        return replace(reading, identity=np.stack([NOBODY if vector is None else vector for vector in vectors]))

    def _read(self, image: Tensor) -> tuple[Tensor, ...]:
        size = self.config.image_size
        if image.shape[-1] != size:
            image = F.interpolate(image, (size, size), mode="bilinear", antialias=True, align_corners=False)
        labels, values = self.emotion(image)
        vectors = self.identity(image)
        traits = vectors.new_zeros(len(vectors), 0) if self.traits is None else self.traits(TRAIT_SCALE * vectors)
        looks = vectors.new_zeros(len(vectors), 0) if self.looks is None else self.looks(image).sigmoid()
        return self.look(image), self.age(image)[:, 0], labels.argmax(1), values, vectors, traits, looks


def save(panel: Panel, folder: Path, card: Mapping[str, Any]) -> None:
    """Write both files, the weights as float16; `card` says how they were made and how right they are.

    Measure after `round_weights`, so that what was measured is what is read back.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / WEIGHTS_FILE, {name: _half(tensor) for name, tensor in panel.state_dict().items()})
    weights = (folder / WEIGHTS_FILE).read_bytes()
    described = {
        "format_version": FORMAT_VERSION,
        "sha256": hashlib.sha256(weights).hexdigest(),
        "config": asdict(panel.config),
        **card,
    }
    write_json(folder / CARD_FILE, described)


def load(path: Path) -> Panel:
    """Read a folder of judges, or its weights file. Raises BundleError if it is not one or was changed since."""
    folder = path if path.is_dir() else path.parent
    try:
        card = json.loads((folder / CARD_FILE).read_text())
        weights = (folder / WEIGHTS_FILE).read_bytes()
    except (OSError, ValueError) as error:
        raise BundleError(
            f"judges: {folder} has no readable {CARD_FILE} and {WEIGHTS_FILE}; make them with `python -m training judges --out {folder}`"
        ) from error
    if card.get("format_version") != FORMAT_VERSION:
        raise BundleError(f"judges: {folder} has format {card.get('format_version')}, this code reads {FORMAT_VERSION}")
    if hashlib.sha256(weights).hexdigest() != card["sha256"]:
        raise BundleError(
            f"judges: {folder / WEIGHTS_FILE} is not the file that {CARD_FILE} describes; copy both again"
        )
    panel = Panel(PanelConfig(**card["config"]))
    try:
        panel.load_state_dict(from_bytes(weights))
    except (RuntimeError, SafetensorError) as error:
        raise BundleError(f"judges: {folder / WEIGHTS_FILE} does not fit its {CARD_FILE}: {error}") from error
    panel.card = card
    return panel.eval()


@torch.no_grad()
def round_weights(panel: Panel) -> None:
    """Round all weights to what `save` keeps, so that what is measured is what is shipped."""
    for tensor in panel.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(tensor.half().float())


def _half(tensor: Tensor) -> Tensor:
    return tensor.half() if tensor.is_floating_point() else tensor
