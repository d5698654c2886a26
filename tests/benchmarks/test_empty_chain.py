"""The chain of empty models: the real configurations, and for every one of them an answer of the right names."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest

from benchmarks.empty_chain import ANSWERS, emptied
from benchmarks.inputs import requests
from benchmarks.untrained import write_pixel_bundle
from runtime.bundle import Bundle
from runtime.errors import ClipFaceFusionError
from runtime.request import GenerateResult
from runtime.serving.repository import python_models

BUNDLE = Path(__file__).parents[2] / "bundles" / "demo"


def test_every_model_but_the_asking_one_has_an_answer_for_each_of_its_outputs(tmp_path):
    bundle = Bundle.open(BUNDLE)
    picture = GenerateResult(np.full((128, 128, 3), 7, np.uint8), {"seed": 1})
    emptied(bundle, requests(2)["everything"], picture)(BUNDLE, tmp_path / "repository")
    for model in python_models(bundle.model):
        if model.decoupled:  # nobody asks the stream here
            continue
        with np.load(tmp_path / "repository" / model.name / ANSWERS, allow_pickle=False) as answers:
            expected = set() if model.name == "ddim" else {tensor.name for tensor in model.outputs}
            assert set(answers.files) == expected
        source = (tmp_path / "repository" / model.name / "1" / "model.py").read_text()
        assert "TritonPythonModel" in {
            node.name for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ClassDef)
        }
    with np.load(tmp_path / "repository" / "sampler" / ANSWERS, allow_pickle=False) as answers:
        np.testing.assert_array_equal(answers["image"], picture.image)
        assert answers["report"].tobytes() == b'{"seed": 1}'


@pytest.mark.parametrize("side", [32, 100])
def test_a_side_that_cannot_be_halved_is_refused(side, tmp_path):
    with pytest.raises(ClipFaceFusionError, match=f"got a side of {side}, allowed are multiples of 32 from 64 on"):
        write_pixel_bundle(side, tmp_path)
