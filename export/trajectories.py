"""Real work for the engines of a model: conditions through the encoders, generation, inversion, and what is done with the picture.

The overflow scan watches engines at it; the parity ladder takes its condition from here. It knows engines by their contract only, so torch,
ONNX Runtime and a watched engine do the same work. Letters as in `runtime/spec.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from export.parity import cases
from export.reference import ReferenceInputs
from runtime.engines import Engine
from runtime.ladder import Course, Reference, stored_steps
from runtime.noise import INITIAL_NOISE, gaussian
from runtime.spec import SOURCES

SEEDS = (11, 12, 13)


def conditions(
    engines: Mapping[str, Engine], inputs: ReferenceInputs, seed: int, sources: Sequence[str]
) -> dict[str, np.ndarray]:
    """The `cond` entries (1, ...) of a request that gives `sources`: reference inputs through the encoders, then fusion.

    None for a model without fusion, which draws from noise alone.
    """
    if "fusion" not in engines:
        return {}
    draw = inputs.seeded(seed)
    one = {"B": 1}
    spec = engines["fusion"].spec
    features = draw(spec, one)
    for encoder in ("text_encoder", "audio_encoder", "image_encoder", "identity_encoder"):
        smallest, _ = cases(engines[encoder].spec)
        outputs = engines[encoder](draw(engines[encoder].spec, {**smallest, **one}))
        features |= {name: values for name, values in outputs.items() if name in features}
    features["present"] = np.array([[source in sources for source in SOURCES]], np.float32)
    return engines["fusion"](features)


def exercise(engines: Mapping[str, Engine], course: Course, inputs: ReferenceInputs, reference: Reference) -> None:
    """Every engine at its work, for several seeds: with everything given, with part of it, and with what the encoders make of noise.

    A large model, whose walks take minutes, does not walk again: it goes where torch was when it walked as `reference`.
    """
    given = [SOURCES if number == 0 else SOURCES[number::2] for number in range(len(SEEDS))]
    conds = [conditions(engines, inputs, seed, sources) for seed, sources in zip(SEEDS, given, strict=True)]
    if course.is_large:
        revisit(engines["unet"], course, conds, reference)
        look(engines, reference.samples[-1:])
    else:
        for seed, cond in zip(SEEDS, conds, strict=True):
            start = gaussian(seed, INITIAL_NOISE, course.sample_shape)[None]
            final = course.generate(engines["unet"], start, cond)[-1:]
            course.invert(engines["unet"], look(engines, final), cond)
    for name, engine in engines.items():
        if name != "unet":
            for sizes in cases(engine.spec):
                engine(inputs(engine.spec, sizes))


def revisit(unet: Engine, course: Course, conds: Sequence[Mapping[str, np.ndarray]], reference: Reference) -> None:
    """The UNet on samples that torch met, from noise to picture and where inversion ended: under one of `conds` in turn, and under none."""
    chosen = stored_steps(course.num_steps)
    met = list(zip(reference.samples[chosen[:-1]], course.timesteps(chosen), strict=True))
    met.append((reference.inverted[0], course.schedule.timesteps(course.num_inversion_steps)[0]))
    uncond = {entry: values[None] for entry, values in course.uncond.items()}
    for number, (sample, timestep) in enumerate(met):
        cond = conds[number % len(conds)]
        for rows in (cond, uncond) if cond else (cond,):
            unet({"sample": sample[None], "timestep": np.array([timestep]), **rows})


def look(engines: Mapping[str, Engine], final: np.ndarray) -> np.ndarray:
    """What is done with a final sample (1, C, H, W): its picture for the estimators, and encoded again, which is returned; of pixels `final` itself."""
    picture = engines["decoder"]({"latents": final})["image"] if "decoder" in engines else final
    picture = np.clip(picture, -1, 1)
    for estimator in ("age_estimator", "emotion_estimator"):
        if estimator in engines:
            engines[estimator]({"image": picture})
    return engines["encoder"]({"image": picture})["latents"] if "encoder" in engines else final
