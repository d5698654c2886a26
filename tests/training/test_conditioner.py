"""The conditioner's tokens: their order, which are there, and that they are what the engine's outputs are made of."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from runtime.emotions import EMOTIONS
from runtime.spec import SOURCES, TOKENS
from training.conditioner import Conditioner

D, DA = 16, 12
# What each source makes present.
MAKES = {
    "text": {"text"},
    "age_text": {"age"},
    "emotion_text": {"emotion"},
    "audio": {"audio_visual", "emotion"},
    "image": {"image"},
    "identity": {"identity"},
    "age": {"age"},
    "emotion": {"emotion"},
    "valence_arousal": {"emotion"},
}


@pytest.fixture
def conditioner() -> Conditioner:
    torch.manual_seed(0)
    made = Conditioner(D, DA, cond_width=8, token_width=6, heads=4, dropout=0.1).eval()
    torch.nn.init.normal_(made.to_cond.weight)
    return made


def inputs(*sources: str) -> list[Tensor]:
    torch.manual_seed(1)
    widths = (D, D, D, DA, D, D, D, 1, len(EMOTIONS), 2)
    present = torch.tensor([[float(name in sources) for name in SOURCES]]).expand(2, -1)
    return [*(torch.randn(2, width) for width in widths), present]


@pytest.mark.parametrize("source", SOURCES)
def test_each_source_makes_its_tokens_present(conditioner: Conditioner, source: str) -> None:
    _, present = conditioner.tokens(*inputs(source))
    assert {name for name, there in zip(TOKENS, present[0], strict=True) if there} == MAKES[source]


def test_tokens_come_before_fusions_normalisation_and_make_the_engines_outputs(conditioner: Conditioner) -> None:
    told = inputs(*SOURCES)
    tokens, present = conditioner.tokens(*told)
    assert tokens.shape == (2, len(TOKENS), D)
    assert torch.equal(tokens[:, 0], told[0]) and torch.equal(tokens[:, 4], told[5])
    f_final, used = conditioner.fusion(tokens, present)
    for ours, engine in zip(conditioner.project(f_final, used), conditioner(*told), strict=True):
        assert torch.equal(ours, engine)


def test_attributes_are_what_makes_age_emotion_and_audio_visual(conditioner: Conditioner) -> None:
    told = inputs(*SOURCES)
    tokens, present = conditioner.tokens(*told)
    tokens.sum().backward()
    learned = {id(p) for p in conditioner.parameters() if p.grad is not None}
    assert learned == {id(p) for p in conditioner.attributes.parameters()} and present.all()
