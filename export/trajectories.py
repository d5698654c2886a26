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
from runtime.ladder import Course
from runtime.noise import INITIAL_NOISE, gaussian
from runtime.spec import SOURCES

SEEDS = (11, 12, 13)  # a large model, whose walk takes minutes, makes do with the first two


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


def exercise(engines: Mapping[str, Engine], course: Course, inputs: ReferenceInputs) -> None:
    """Every engine at its work, for several seeds: with everything given, with part of it, and with what the encoders make of noise."""
    for number, seed in enumerate(SEEDS[:2] if course.is_large else SEEDS):
        given = SOURCES if number == 0 else SOURCES[number::2]
        cond = conditions(engines, inputs, seed, given)
        unet = engines["unet"]
        start = gaussian(seed, INITIAL_NOISE, tuple(int(d) for d in unet.spec.inputs[0].shape[1:]))[None]
        final = course.generate(unet, start, cond)[-1:]
        picture = engines["decoder"]({"latents": final})["image"] if "decoder" in engines else final
        picture = np.clip(picture, -1, 1)
        if "encoder" in engines:
            final = engines["encoder"]({"image": picture})["latents"]
        course.invert(unet, final, cond)
        for estimator in ("age_estimator", "emotion_estimator"):
            if estimator in engines:
                engines[estimator]({"image": picture})
    for name, engine in engines.items():
        if name != "unet":
            for sizes in cases(engine.spec):
                engine(inputs(engine.spec, sizes))
