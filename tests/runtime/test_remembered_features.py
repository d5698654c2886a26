"""Conditioning with a memory: the same photo with new words runs its encoders once, for one tenant, and changes no bit."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from runtime.bundle import Bundle
from runtime.conditioned import Conditioned
from runtime.conditioning import Conditioner
from runtime.feature_cache import FeatureCache
from runtime.pipeline import Pipeline
from runtime.preprocess import Preprocessor
from runtime.preprocess.decode import decode
from runtime.request import GenerateRequest
from tests.fakes import GUIDANCE_SCALE, fake_bundle

PHOTO_READERS = {"image_encoder", "identity_encoder", "age_estimator", "emotion_estimator"}


def photo(seed: int = 1) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (40, 48, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


PHOTO = photo()


@pytest.fixture
def bundle(tmp_path):
    return fake_bundle(tmp_path / "bundle")


@pytest.fixture
def condition(bundle):
    return Conditioner(bundle, FeatureCache(2**20))


def ask(bundle: Bundle, condition: Conditioner, tenant: str = "", **request) -> Conditioned:
    prepared = Preprocessor(bundle.model, bundle.tokenizer_path, GUIDANCE_SCALE)(GenerateRequest(**request))
    return condition(prepared, tenant)


def calls(bundle: Bundle) -> dict[str, int]:
    """Engine -> number of calls so far, fusion left out."""
    return {name: len(engine.calls) for (_, name), engine in bundle._engines.items() if name != "fusion"}


def test_the_same_photo_with_new_words_is_read_once(bundle, condition):
    first = ask(bundle, condition, reference=PHOTO, text="a red house")
    second = ask(bundle, condition, reference=PHOTO, text="a blue house")
    assert calls(bundle) == {"text_encoder": 2, **dict.fromkeys(PHOTO_READERS, 1)}
    assert first.report["remembered"] == [] and set(second.report["remembered"]) == PHOTO_READERS
    assert not np.array_equal(first.cond["cond"], second.cond["cond"])


def test_the_same_words_with_a_new_photo_are_read_once(bundle, condition):
    for seed in (1, 2):
        report = ask(bundle, condition, reference=photo(seed), text="a red house").report
    assert calls(bundle)["text_encoder"] == 1 and report["remembered"] == ["text_encoder"]


def test_an_answer_has_the_same_bits_with_a_memory_and_without(bundle, condition):
    request = {"reference": PHOTO, "text": "an old man", "edit_from_timestep": 500}
    forgetful = ask(bundle, Conditioner(bundle, FeatureCache(0)), **request)
    for _ in range(2):
        remembering = ask(bundle, condition, **request)
        for mine, other in ((remembering.cond, forgetful.cond), (remembering.source_cond, forgetful.source_cond)):
            assert {name: array.tobytes() for name, array in mine.items()} == {
                name: array.tobytes() for name, array in other.items()
            }
        assert remembering.report["inferred"] == forgetful.report["inferred"]
    assert remembering.report["remembered"] and not forgetful.report["remembered"]


def test_no_tenant_learns_from_a_hit_what_another_one_sent(bundle, condition):
    for tenant in ("a", "b", "", "A"):
        assert ask(bundle, condition, tenant, reference=PHOTO, age=3, emotion="sad").report["remembered"] == []
    assert calls(bundle)["image_encoder"] == 4
    assert ask(bundle, condition, "b", reference=PHOTO, age=3, emotion="sad").report["remembered"]
    assert calls(bundle)["image_encoder"] == 4


def test_no_bytes_no_memory(bundle):
    condition = Conditioner(bundle, FeatureCache(0))
    reports = [ask(bundle, condition, reference=PHOTO).report for _ in range(2)]
    assert [report["remembered"] for report in reports] == [[], []] and calls(bundle)["image_encoder"] == 2


def test_a_conditioner_remembers_unless_told_otherwise(bundle):
    condition = Conditioner(bundle)
    assert [bool(ask(bundle, condition, text="a man").report["remembered"]) for _ in range(2)] == [False, True]


def test_a_pipeline_remembers_and_decodes_as_it_is_told(tmp_path):
    files = []

    def decode_and_note(field: str, data: bytes) -> np.ndarray:
        files.append(field)
        return decode(field, data)

    request = GenerateRequest(reference=PHOTO, seed=1, num_inference_steps=1)
    reports = []
    for number, cache in enumerate((FeatureCache(0), None)):
        bundle = fake_bundle(tmp_path / str(number))
        with Pipeline(bundle, decode=decode_and_note, cache=cache) as pipeline:
            reports += [pipeline(request).report["remembered"] for _ in range(2)]
    assert [bool(remembered) for remembered in reports] == [False, False, False, True]
    assert files == ["reference"] * 4
