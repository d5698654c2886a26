"""What is made for an evaluation: held-out people, each described by one modality alone or by everything together.

Words are read without any parser: the inputs for an age or an emotion in words (eqs 5, 7) stay empty, so that only the prompt itself
speaks. One set of pictures serves all metrics. Letters: N pictures, S picture size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from runtime.solvers import DDIM, SOLVERS
from runtime.spec import SOURCES
from training.data.cache import DataCache
from training.dropout import MODALITIES
from training.examples import Batch, Examples
from training.model import ClipFaceFusion
from training.pictures import to_model
from training.sampling import sample_images

ALL, CHANGED = "all", "changed"
# What each condition gives. "changed" asks for the person of the reference at another age and in another mood, without a word: what
# is kept then is the person.
GIVEN: Mapping[str, tuple[str, ...]] = {
    ALL: MODALITIES,
    **{name: (name,) for name in MODALITIES},
    CHANGED: ("reference", "age", "emotion"),
}
CONDITIONS = tuple(GIVEN)
ANOTHER_AGE_YEARS = 10.0
PHRASES = ("age_text", "emotion_text")
FEWEST = 5  # pictures of a condition; fewer say nothing
BATCH = 32


@dataclass(frozen=True)
class MeasureSettings:
    """`count` pictures per seed, dealt evenly to the `conditions`; `never` names modalities that the model was trained without.

    `guidance_scale` None takes the checkpoint's own; `guidance_interval` are the lowest and the highest timestep at which it acts,
    None: at all; `solver` is one of `runtime.solvers.SOLVERS`; `spread` pictures are made of one prompt, 0 for none.
    """

    count: int = 1000
    seeds: tuple[int, ...] = (42, 123, 2024)
    steps: int = 50
    guidance_scale: float | None = None
    conditions: tuple[str, ...] = CONDITIONS
    never: tuple[str, ...] = ()
    solver: str = DDIM
    spread: int = 0
    guidance_interval: tuple[int, int] | None = None

    @property
    def guidance(self) -> str:
        """How strong, in words."""
        scale = "the checkpoint's" if self.guidance_scale is None else f"{self.guidance_scale:g}"
        if self.guidance_interval is None:
            return scale
        low, high = self.guidance_interval
        return f"{scale} at timesteps {low} to {high}"

    def __post_init__(self) -> None:
        if self.solver not in SOLVERS:
            raise ValueError(f"solver {self.solver!r}; allowed are {', '.join(SOLVERS)}")
        if self.spread and self.spread < FEWEST:
            raise ValueError(f"spread {self.spread} must be 0 or at least {FEWEST}: a deviation of fewer says nothing")
        if unknown := sorted(set(self.conditions) - set(CONDITIONS)):
            raise ValueError(f"conditions {unknown}; allowed are {', '.join(CONDITIONS)}")
        if not self.conditions or not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"conditions {self.conditions} and seeds {self.seeds}: at least one of each, none twice")
        if unknown := sorted(set(self.never) - set(MODALITIES)):
            raise ValueError(f"never {unknown}; modalities are {', '.join(MODALITIES)}")
        if self.count < FEWEST * len(self.conditions):
            raise ValueError(
                f"count {self.count} must be at least {FEWEST * len(self.conditions)}: {FEWEST} for each of {len(self.conditions)} conditions"
            )
        if not 1 <= self.steps <= 1000:
            raise ValueError(f"steps {self.steps} must be in 1..1000")
        low, high = self.guidance_interval or (0, 0)
        if not 0 <= low <= high <= 999:
            raise ValueError(f"guidance interval {low} {high} must be two timesteps of 0..999, the lower one first")


@dataclass(frozen=True)
class Asked:
    """One condition's requests. `rows` (N,) targets · `wording` (N,) which of a target's captions its words are · `reference` (N,) · `has_other` (N,) the reference is another picture than the
    target · `inputs` of the fusion engine · `told` maps each of `runtime.spec.SOURCES` to (N,) bool; `age_text` and `emotion_text`
    there mean that the prompt says it, though its phrase was not given."""

    condition: str
    rows: np.ndarray
    wording: np.ndarray
    reference: np.ndarray
    has_other: np.ndarray
    inputs: Mapping[str, Tensor]
    told: Mapping[str, np.ndarray]

    def tells_age(self) -> np.ndarray:
        """(N,) bool: something given says an age: the number, the words, or a voice."""
        return self.told["age"] | self.told["age_text"] | self.told["audio"]

    def tells_emotion(self) -> np.ndarray:
        """(N,) bool: something given says the label; valence and arousal alone do not."""
        return self.told["emotion"] | self.told["emotion_text"] | self.told["audio"]

    def tells_values(self) -> np.ndarray:
        """(N,) bool: something given says how the person feels."""
        return self.tells_emotion() | self.told["valence_arousal"]


@dataclass(frozen=True)
class Made:
    """What was asked, and the pictures (N, S, S, 3) uint8 that came of it."""

    asked: Asked
    pictures: np.ndarray


def halves(cache: DataCache, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of real pictures to compare with, and rows of targets to ask for: at most `count` each, of different people, as many of each.

    Different people, so that "real against real" is what the best generator would score. Raises ValueError for fewer than two people.
    """
    rng = np.random.default_rng(0)
    people, sizes = np.unique(cache.person, return_counts=True)
    if len(people) < 2:
        raise ValueError(f"{len(people)} person in the data; an evaluation compares pictures of different people")
    sides: tuple[list[int], list[int]] = ([], [])
    filled = [0, 0]
    # Largest first onto the emptier side, equals at random: people have from one picture to hundreds.
    shuffled = rng.permutation(len(people))
    for place in shuffled[np.argsort(-sizes[shuffled], kind="stable")]:
        side = int(filled[0] > filled[1])
        sides[side].append(people[place])
        filled[side] += sizes[place]
    size = min(count, *filled)
    real, targets = (
        np.sort(rng.choice(np.flatnonzero(np.isin(cache.person, side)), size, replace=False)) for side in sides
    )
    return real, targets


def plan(
    examples: Examples, targets: np.ndarray, settings: MeasureSettings, seed: int
) -> tuple[list[Asked], dict[str, str]]:
    """The requests of one seed, and per condition that the data cannot serve why not. No target is asked for twice."""
    rng = np.random.default_rng(seed)
    share = len(targets) // len(settings.conditions)
    usable = {condition: _usable(examples, targets, condition) for condition in settings.conditions}
    free = np.ones(len(targets), bool)
    planned, skipped = {}, {}
    # Who finds the fewest chooses first: a few voices must not be spent on what needs none.
    for condition in sorted(settings.conditions, key=lambda condition: usable[condition].sum()):
        unseen = [name for name in GIVEN[condition] if name in settings.never and condition != ALL]
        if unseen:
            skipped[condition] = f"training never showed it: {', '.join(unseen)}"
            continue
        places = rng.permutation(np.flatnonzero(usable[condition] & free))[:share]
        if len(places) < FEWEST:
            skipped[condition] = (
                f"{int(usable[condition].sum())} of {len(targets)} held-out pictures have what it needs, at least {FEWEST} are wanted"
            )
            continue
        free[places] = False
        request = _ask(examples, np.sort(targets[places]), condition, rng)
        if len(request.rows) < FEWEST:
            skipped[condition] = (
                f"{len(request.rows)} of {len(places)} references are unlike enough, at least {FEWEST} are wanted"
            )
            continue
        planned[condition] = request
    return [planned[condition] for condition in settings.conditions if condition in planned], skipped


def make(examples: Examples, asked: list[Asked], settings: MeasureSettings, seed: int) -> list[Made]:
    """Sample all requests of one seed; every picture has a noise of its own."""
    made, first_noise = [], seed * 1_000_003  # further apart than any number of pictures
    for request in asked:
        made.append(Made(request, paint(examples.model, request.inputs, settings, first_noise)))
        first_noise += len(request.rows)
    return made


@torch.no_grad()
def paint(
    model: ClipFaceFusion, inputs: Mapping[str, Tensor], settings: MeasureSettings, first_noise: int
) -> np.ndarray:
    """(N, S, S, 3) uint8 for the rows of the fusion engine's `inputs`; row n has the noise of seed `first_noise` + n."""
    model.eval()
    scale = model.config.guidance_scale if settings.guidance_scale is None else settings.guidance_scale
    parts = []
    for start in range(0, len(inputs["present"]), BATCH):
        cond = model.fuse(*(tensor[start : start + BATCH] for tensor in inputs.values()))
        noise, how = first_noise + start, (settings.solver, settings.guidance_interval)
        parts.append(_bytes(sample_images(model, cond, noise, settings.steps, scale, *how)))
    return np.concatenate(parts)


def autoencoded(examples: Examples, pictures: np.ndarray) -> np.ndarray | None:
    """(N, S, S, 3) uint8 through the model's autoencoder and back; None for a pixel model."""
    model = examples.model.eval()
    if model.autoencoder is None:
        return None
    device = next(model.autoencoder.parameters()).device
    with torch.no_grad():
        parts = [
            _bytes(model.decode(model.encode(to_model(pictures[start : start + BATCH]).to(device))))
            for start in range(0, len(pictures), BATCH)
        ]
    return np.concatenate(parts)


def _usable(examples: Examples, targets: np.ndarray, condition: str) -> np.ndarray:
    available = {name: has[targets] for name, has in examples.available.items()}
    if condition == ALL:
        return np.sum(list(available.values()), axis=0) >= 2
    everything = np.logical_and.reduce([available[name] for name in GIVEN[condition]])
    return everything & _has_another(examples.cache, targets) if condition == CHANGED else everything


def _ask(examples: Examples, rows: np.ndarray, condition: str, rng: np.random.Generator) -> Asked:
    given = {name: np.full(len(rows), name in GIVEN[condition]) for name in MODALITIES}
    batch = examples.describe(rows, rng, given)
    if condition == CHANGED:
        batch = _only(batch, is_another(examples.cache, rows, batch.reference.numpy()))
        rows = batch.rows.numpy()
    inputs = dict(batch.inputs)
    told = {name: inputs["present"][:, place].cpu().numpy() > 0 for place, name in enumerate(SOURCES)}
    inputs["present"] = inputs["present"].clone()
    for phrase in PHRASES:
        inputs[f"{phrase}_features"] = torch.zeros_like(inputs[f"{phrase}_features"])
        inputs["present"][:, SOURCES.index(phrase)] = 0
    return Asked(
        condition,
        rows,
        batch.wording.numpy(),
        batch.reference.cpu().numpy(),
        batch.has_other.cpu().numpy().astype(bool),
        inputs,
        told,
    )


def is_another(cache: DataCache, rows: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """(N,) bool: the reference shows another label, and an age at least `ANOTHER_AGE_YEARS` off; False where either is not known."""
    years = np.abs(cache.age[rows] - cache.age[reference])
    known = (cache.emotion[rows] >= 0) & (cache.emotion[reference] >= 0)
    return known & (cache.emotion[rows] != cache.emotion[reference]) & (years >= ANOTHER_AGE_YEARS)


def _has_another(cache: DataCache, rows: np.ndarray) -> np.ndarray:
    """(N,) bool: some other picture of the person is such a reference."""
    found = np.zeros(len(rows), bool)
    for place, row in enumerate(rows):
        mine = cache.first_picture[row] + np.arange(cache.pictures[row])
        found[place] = is_another(cache, np.full(len(mine), row), mine).any()
    return found


def _only(batch: Batch, kept: np.ndarray) -> Batch:
    """The rows of a batch where `kept` (B,) bool holds."""
    mask = torch.from_numpy(kept)
    there = mask.to(batch.clean.device)
    inputs = {name: tensor[there] for name, tensor in batch.inputs.items()}
    return Batch(
        batch.rows[mask],
        batch.clean[there],
        inputs,
        batch.wording[mask],
        batch.reference[mask],
        batch.has_other[there],
    )


def _bytes(image: Tensor) -> np.ndarray:
    """Model space (N, 3, S, S) → (N, S, S, 3) uint8, as a PNG would hold it."""
    scaled = ((image.float().clamp(-1, 1) + 1) * 127.5).round().byte()
    return np.ascontiguousarray(scaled.permute(0, 2, 3, 1).cpu().numpy())
