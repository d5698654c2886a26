"""The same request through torch and through the runtime gives the same picture, whatever is given."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from runtime.emotions import EMOTIONS
from runtime.pipeline import Pipeline
from runtime.preprocess import Preprocessor
from runtime.request import GenerateRequest
from runtime.spec import SOURCES
from training.checkpoint import load
from training.model import ClipFaceFusion
from training.sampling import sample_images

ONE_LEVEL = 1  # of 256: what a rounding at the border of two levels may cost


def wav() -> bytes:
    file = io.BytesIO()
    soundfile.write(file, 0.4 * np.sin(np.arange(12_000) / 11), 16_000, format="WAV")
    return file.getvalue()


def png() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (80, 64, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


REQUESTS: dict[str, dict[str, Any]] = {
    "words": {"text": "a smiling old man with glasses"},
    "voice": {"audio": wav()},
    "photo": {"reference": png()},
    "numbers": {"age": 33.5, "emotion": "angry", "emotion_intensity": 0.6, "valence_arousal": (-0.4, 0.7)},
    "everything": {"text": "an angry young woman, 25 years old", "audio": wav(), "reference": png(), "age": 70, "emotion": "sad"},
}  # fmt: skip


@pytest.fixture(scope="module")
def model(micro_checkpoint: Path) -> ClipFaceFusion:
    return load(micro_checkpoint)


@pytest.fixture(scope="module")
def pipeline(micro_bundle: Path) -> Iterator[Pipeline]:
    with Pipeline.open(micro_bundle) as pipeline:
        yield pipeline


@torch.no_grad()
def through_torch(model: ClipFaceFusion, pipeline: Pipeline, request: GenerateRequest) -> np.ndarray:
    """The model's own methods over the runtime's preprocessing, every encoder run and the absent masked out."""
    bundle = pipeline.bundle
    prepared = Preprocessor(bundle.model, bundle.tokenizer_path, bundle.manifest.guidance_scale)(request)
    present = torch.from_numpy(prepared.present.copy())
    has = {source: prepared.has(source) for source in SOURCES}
    width, audio_width = model.spec().features, model.spec().audio_features
    features = {
        source: model.encode_text(
            *(torch.from_numpy(a[row : row + 1]) for a in (prepared.input_ids, prepared.attention_mask))
        )
        if has[source]
        else torch.zeros(1, width)
        for row, source in enumerate(SOURCES[:3])
    }
    audio, audio_emotion = torch.zeros(1, audio_width), torch.zeros(1, width)
    if has["audio"]:
        audio, audio_emotion = model.encode_audio(torch.from_numpy(prepared.input_values))
    image_features, identity = torch.zeros(2, 1, width)
    age = torch.from_numpy(prepared.age)
    emotion = torch.from_numpy(prepared.emotion) if has["emotion"] else torch.zeros(1, len(EMOTIONS))
    valence_arousal = torch.from_numpy(prepared.valence_arousal) if has["valence_arousal"] else torch.zeros(1, 2)
    if has["image"]:
        image_features = model.encode_image(torch.from_numpy(prepared.pixel_values))
        identity = model.identify(torch.from_numpy(prepared.face))
        picture = torch.from_numpy(prepared.image)
        if not has["age"] and not has["age_text"]:
            age = model.estimate_age(picture)
            present[0, SOURCES.index("age")] = 1
        if not any(has[source] for source in ("emotion", "emotion_text", "valence_arousal", "audio")):
            emotion, valence_arousal = model.estimate_emotion(picture)
            present[0, SOURCES.index("emotion")] = present[0, SOURCES.index("valence_arousal")] = 1
    cond = model.fuse(
        *features.values(), audio, audio_emotion, image_features, identity, age, emotion, valence_arousal, present
    )
    image = sample_images(model, cond, request.seed or 0, request.num_inference_steps, bundle.manifest.guidance_scale)[
        0
    ]
    return np.rint((image.clamp(-1, 1).numpy().transpose(1, 2, 0) + 1) * 127.5)


@pytest.mark.parametrize("given", REQUESTS)
def test_torch_and_runtime_draw_the_same_picture(model: ClipFaceFusion, pipeline: Pipeline, given: str) -> None:
    request = GenerateRequest(**REQUESTS[given], seed=11, num_inference_steps=10)
    difference = np.abs(pipeline(request).image.astype(int) - through_torch(model, pipeline, request))
    assert difference.max() <= ONE_LEVEL


def test_every_condition_changes_the_picture(pipeline: Pipeline) -> None:
    images = [pipeline(GenerateRequest(**given, seed=11, num_inference_steps=4)).image for given in REQUESTS.values()]
    assert len({image.tobytes() for image in images}) == len(images)
