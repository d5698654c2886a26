"""How different the faces are that one prompt brings: many seeds of it, against renders of the same prompt.

The prompt tells sex, age and emotion, so what makes a face is free, and renders of it are people drawn at random. It is read as a
request is, with the parser, and sampled at the checkpoint's guidance: strong guidance buys obedience with variety. Letters: N pictures, S size.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from runtime.spec import SOURCES, engine_specs
from runtime.words import find_phrases
from training.data.cache import WORLD
from training.data.synthetic.portrait import render
from training.data.synthetic.shot import sample_shot
from training.data.synthetic.traits import TRAITS, sample_person
from training.evaluation import traits
from training.evaluation.making import MeasureSettings, autoencoded, paint
from training.evaluation.rating import Rating, Ratings, Skip
from training.evaluation.scene import Scene
from training.model import ClipFaceFusion

PROMPT = "a close-up of a woman, 35 years old, happy"  # by a held-out template
SEX, AGE, EMOTION = 0, 35, "happy"
_SEEDS_APART = 1_000_003


def rate_spread(scene: Scene, settings: MeasureSettings, seed: int) -> Ratings:
    """`spread`: per trait, the deviation over pictures of `PROMPT` over that of renders of it; the mean over traits.

    "real" are other renders of it, so that it shows how exact the figure is.
    """
    if not settings.spread:
        return {"spread": Skip("not asked for; --spread 100")}
    if "text" in settings.never:
        return {"spread": Skip("training never showed it: text")}
    if WORLD not in scene.cache.sources:
        return {"spread": Skip("only the synthetic world can draw a prompt, and knows the traits of its people")}
    size = scene.model.config.image_size
    renders, others = (drawn(settings.spread, size, which) for which in (0, 1))
    made = paint(scene.model, same_words(scene.model, settings.spread), settings, (seed + 1) * _SEEDS_APART // 2)
    known = _traits(scene, renders)
    ratio = traits.spread(_traits(scene, made), known)
    beside = {"real": float(traits.spread(_traits(scene, others), known).mean())}
    through = autoencoded(scene.examples, renders)
    if through is not None:
        beside["autoencoded"] = float(traits.spread(_traits(scene, through), known).mean())
    least, most = (f"{list(TRAITS)[place]} {ratio[place]:.2f}" for place in (ratio.argmin(), ratio.argmax()))
    note = f'"{PROMPT}"; {least} to {most}'
    return {"spread": Rating(float(ratio.mean()), settings.spread, {**beside, "chance": 0.0}, note)}


@torch.no_grad()
def same_words(model: ClipFaceFusion, count: int) -> dict[str, torch.Tensor]:
    """`count` equal requests for `PROMPT` alone, as the runtime reads it: inputs of `model.fuse`, in its order."""
    phrases = find_phrases(PROMPT)
    said = {"text": PROMPT, "age_text": phrases.age, "emotion_text": phrases.emotion}
    device = next(model.text_encoder.parameters()).device
    inputs = {
        tensor.name: torch.zeros(count, *(int(side) for side in tensor.shape[1:]), device=device)
        for tensor in engine_specs(model.spec())["fusion"].inputs
    }
    for source, words in said.items():
        if words is None:
            continue
        tokens = model.tokenizer([words], return_tensors="pt")
        inputs[f"{source}_features"][:] = model.encode_text(
            tokens.input_ids.to(device), tokens.attention_mask.to(device)
        )
        inputs["present"][:, SOURCES.index(source)] = 1
    return inputs


def _traits(scene: Scene, pictures: np.ndarray) -> np.ndarray:
    read = scene.traits_of(scene.judges.read(pictures))
    assert read is not None  # there is a world
    return read


def drawn(count: int, size: int, which: int) -> np.ndarray:
    """(N, S, S, 3) uint8: renders of which `PROMPT` is true, of people drawn at random; `which` draws others."""
    rng = np.random.default_rng((35, which))
    pictures: list[np.ndarray] = []
    while len(pictures) < count:
        person = sample_person(rng)
        if person.sex != SEX:
            continue
        shot = replace(sample_shot(rng, person), age=AGE + rng.random(), emotion=EMOTION)
        pictures.append(render(person, shot, size))
    return np.stack(pictures)
