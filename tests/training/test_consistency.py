"""The guides: what a picture is held against, which rows count, and where gradients stop."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from training import losses
from training.config import LossConfig
from training.consistency import TERMS, Consistency, Wanted
from training.data.cache import DataCache
from training.dropout import MODALITIES
from training.examples import Batch, Examples
from training.features import FeatureCache
from training.model import ClipFaceFusion
from training.pictures import to_clip, to_model

COUNT = 6
ROWS = np.arange(COUNT)


@pytest.fixture
def examples(little_model: ClipFaceFusion, little_world: DataCache, little_features: FeatureCache) -> Examples:
    return Examples(little_model, little_world, little_features)


def described(examples: Examples, *told: str) -> Batch:
    """Six pictures of which exactly the modalities `told` are given."""
    given = {name: np.full(COUNT, name in told) for name in MODALITIES}
    return examples.describe(ROWS, np.random.default_rng(0), given)


def has_voice(examples: Examples) -> Tensor:
    """In so small a world not every picture has a voice that fits."""
    return torch.from_numpy(examples.available["audio"][ROWS])


def wanted(guides: Consistency, examples: Examples, batch: Batch) -> Wanted:
    tokens = guides.model.conditioner.tokens(*batch.inputs.values())
    return guides.wanted(examples, batch, tokens, ROWS, np.random.default_rng(0))


def picture() -> Tensor:
    return (2 * torch.rand(COUNT, 3, 32, 32, generator=torch.Generator().manual_seed(3)) - 1).requires_grad_(True)


def test_each_term_is_its_equation_on_the_judges_own_features(little_model: ClipFaceFusion, examples: Examples) -> None:
    guides, image = Consistency(little_model, LossConfig()), picture()
    batch = described(examples, *MODALITIES)
    target = wanted(guides, examples, batch)
    terms, _ = guides.compare(image, target)
    seen, face = little_model.encode_image(to_clip(image)), little_model.identify(image)
    tokens = little_model.conditioner.tokens(*batch.inputs.values())[0]
    references = to_model(examples.cache.images[batch.reference.numpy()])
    ones = torch.ones(COUNT)
    expected = {
        "audio_visual": losses.audio_visual_loss_with_reference(seen, tokens[:, 1], batch.inputs["image_features"]),
        "age": losses.age_total(
            little_model.age_estimator.features(image),
            tokens[:, 2],
            little_model.age_estimator.features(references),
            ones,
        ),
        "emotion": losses.emotion_total(
            little_model.emotion_estimator.features(image),
            tokens[:, 3],
            little_model.emotion_estimator.features(references),
            ones,
        ),
        "identity": losses.identity_total(
            losses.identity_loss(face, little_model.identify(references)),
            losses.perceptual_loss(
                little_model.identity_encoder.maps(image), little_model.identity_encoder.maps(references)
            ),
        ),
    }
    told = {name: torch.ones(COUNT, dtype=torch.bool) for name in expected}
    told["audio_visual"] = has_voice(examples)
    for name, values in expected.items():
        assert torch.allclose(terms[name][0][told[name]], values[told[name]], atol=1e-3), name
        assert torch.equal(terms[name][1], told[name]), name
    source = target.source[0]
    directed = losses.clip_loss(seen, batch.inputs["image_features"], batch.inputs["text_features"], source)
    tells = losses.text_change(batch.inputs["text_features"], source).norm(dim=1) >= 0.1
    assert torch.allclose(terms["clip"][0], directed, atol=1e-3) and torch.equal(terms["clip"][1], tells)


@pytest.mark.parametrize(
    ("told", "counting"),
    [
        ((), set()),
        (("text",), {"clip"}),  # and age and emotion where the words say them
        (("audio",), {"audio_visual", "emotion"}),
        (("age",), {"age"}),
        (("emotion",), {"emotion"}),
        (("reference",), {"identity"}),
    ],
)
def test_a_term_counts_only_where_the_model_was_told_what_it_asks_for(
    little_model: ClipFaceFusion, examples: Examples, told: tuple[str, ...], counting: set[str]
) -> None:
    guides = Consistency(little_model, LossConfig())
    terms, figures = guides.compare(picture(), wanted(guides, examples, described(examples, *told)))
    for name in TERMS:
        if told == ("text",) and name in ("age", "emotion"):
            continue
        rows = has_voice(examples) if told == ("audio",) else torch.ones(COUNT, dtype=torch.bool)
        assert torch.equal(terms[name][1], rows & (name in counting)), name
        assert not (figures[name][1] & ~terms[name][1]).any(), name
        assert terms[name][0][terms[name][1]].isfinite().all()


def test_without_a_reference_the_words_themselves_count(little_model: ClipFaceFusion, examples: Examples) -> None:
    guides, image = Consistency(little_model, LossConfig()), picture()
    batch = described(examples, "text")
    terms, figures = guides.compare(image, wanted(guides, examples, batch))
    seen = little_model.encode_image(to_clip(image))
    assert torch.allclose(terms["clip"][0], 1 - torch.cosine_similarity(seen, batch.inputs["text_features"]), atol=1e-5)
    assert not figures["clip"][1].any()


def test_words_that_change_nothing_are_skipped(little_model: ClipFaceFusion, examples: Examples) -> None:
    guides = Consistency(little_model, LossConfig())
    target = wanted(guides, examples, described(examples, "text", "reference"))
    same = replace(target, source=(target.text[0] * 1.001, target.source[1]))
    assert not guides.compare(picture(), same)[0]["clip"][1].any()


def test_a_reference_that_is_the_target_itself_has_no_change_to_tell(
    little_model: ClipFaceFusion, examples: Examples
) -> None:
    guides, batch = Consistency(little_model, LossConfig()), described(examples, "text", "reference")
    itself = replace(batch, reference=batch.rows, has_other=torch.zeros(COUNT, dtype=torch.bool))
    assert not wanted(guides, examples, itself).source[1].any()


def test_gradients_reach_the_picture_and_neither_judges_nor_targets(
    little_model: ClipFaceFusion, examples: Examples
) -> None:
    guides, batch = Consistency(little_model, LossConfig()), described(examples, *MODALITIES)
    for name in TERMS:
        image = picture()
        values, mask = guides.compare(image, wanted(guides, examples, batch))[0][name]
        losses.masked_mean(values, mask).backward()
        assert image.grad is not None and image.grad.flatten(1).any(1)[mask].all(), name
    assert all(p.grad is None for p in little_model.parameters())
    assert not little_model.identity_encoder.training and not little_model.image_encoder.training


def test_a_term_of_weight_zero_is_not_computed(
    little_model: ClipFaceFusion, examples: Examples, monkeypatch: pytest.MonkeyPatch
) -> None:
    guides = Consistency(little_model, LossConfig(clip=0, audio_visual=0, identity=0, emotion=0))
    for method in ("encode_image", "identify", "estimate_emotion"):
        monkeypatch.setattr(little_model, method, None)
    batch = described(examples, *MODALITIES)
    terms, figures = guides.compare(picture(), wanted(guides, examples, batch))
    assert set(terms) == set(figures) == {"age"}


def test_figures_are_what_the_estimators_read(little_model: ClipFaceFusion, examples: Examples) -> None:
    guides, image = Consistency(little_model, LossConfig()), picture()
    _, figures = guides.compare(image, wanted(guides, examples, described(examples, *MODALITIES)))
    years = torch.from_numpy(examples.cache.age[ROWS])
    assert torch.allclose(figures["age"][0], (little_model.estimate_age(image)[:, 0] - years).abs())
    labels = torch.from_numpy(examples.cache.emotion[ROWS])
    assert torch.equal(figures["emotion"][0], (little_model.estimate_emotion(image)[0].argmax(1) == labels).float())


def test_unknown_age_and_emotion_have_no_figure(little_model: ClipFaceFusion, examples: Examples) -> None:
    guides = Consistency(little_model, LossConfig())
    target = wanted(guides, examples, described(examples, *MODALITIES))
    unknown = replace(target, years=target.years * torch.nan, label=target.label * 0 - 1)
    terms, figures = guides.compare(picture(), unknown)
    assert terms["age"][1].all() and not figures["age"][1].any() and not figures["emotion"][1].any()


def test_a_guide_of_another_size_gets_a_resized_picture(
    little_model: ClipFaceFusion, examples: Examples, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    identify = little_model.identify
    monkeypatch.setattr(little_model, "identify", lambda face: sizes.append(face.shape[-1]) or identify(face))
    little_model.config = replace(little_model.config, identity_size=64)
    guides = Consistency(little_model, LossConfig())
    image = picture()
    terms, _ = guides.compare(image, wanted(guides, examples, described(examples, "reference")))
    terms["identity"][0].sum().backward()
    assert sizes == [64] and image.grad is not None and image.grad.any()


def test_the_source_of_perceptual_features_is_named(
    little_model: ClipFaceFusion, caplog: pytest.LogCaptureFixture
) -> None:
    guides = Consistency(little_model, LossConfig())
    assert "no VGG-16 weights were given" in guides.perceptual_source
    assert guides.perceptual_source in caplog.text
