"""Token ids equal those of transformers' CLIPTokenizer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from runtime.errors import BundleError
from runtime.preprocess.text import Tokenizer
from tests import fakes

TEXTS = [
    "a photo of a cat",
    "  A  Smiling\tOLD\nman, with GLASSES!! ",
    "naïve café — ﬁne, 72 years old; it's she'll",
    "日本語の文 and 👩‍🦳 emoji",
    "",
    "<|endoftext|> inside <|startoftext|>",
    "word " * 200,
    "x" * 1000,
]


@pytest.fixture(scope="module")
def reference():
    """transformers' tokenizer on a small vocabulary trained here."""
    pytest.importorskip("transformers")
    from training.tokenizer import train_tokenizer

    return train_tokenizer(["a smiling old man with glasses", "a photo of a cat, 25 years old", "naïve café"], 600, 77)


@pytest.fixture(scope="module")
def path(reference, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    reference.save_pretrained(folder)
    return folder / "tokenizer.json"


@pytest.mark.parametrize("length", [77, 12])
def test_ids_and_mask_equal_transformers(reference, path, length):
    expected = reference(TEXTS, padding="max_length", truncation=True, max_length=length, return_tensors="np")
    ids, mask = Tokenizer(path, length)(TEXTS)
    assert ids.shape == mask.shape == (len(TEXTS), length) and ids.dtype == mask.dtype == np.int64
    np.testing.assert_array_equal(ids, expected["input_ids"])
    np.testing.assert_array_equal(mask, expected["attention_mask"])


def test_a_long_text_keeps_its_end_token(reference, path):
    ids, mask = Tokenizer(path)(["word " * 200])
    assert ids[0, -1] == reference.eos_token_id and mask.all()


def test_padding_is_the_end_token_and_masked(reference, path):
    ids, mask = Tokenizer(path)(["cat"])
    assert (ids[0, mask[0] == 0] == reference.eos_token_id).all() and mask[0, -1] == 0


def test_a_cut_text_is_recognised(path):
    tokenizer = Tokenizer(path)
    assert tokenizer.is_cut("word " * 200) and not tokenizer.is_cut("a photo of a cat")


def test_a_text_is_tokenized_alike_alone_and_among_others(path):
    tokenizer = Tokenizer(path)
    np.testing.assert_array_equal(tokenizer(TEXTS)[0][1], tokenizer([TEXTS[1]])[0][0])


@pytest.mark.parametrize("content", ["", "{}", "not json"])
def test_a_file_that_is_no_tokenizer_is_a_bundle_error(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(BundleError, match=r"tokenizer\.json"):
        Tokenizer(tmp_path / "tokenizer.json")


def test_a_tokenizer_without_clip_s_end_token_is_refused(tmp_path):
    from tokenizers import models

    tokenizer = fakes.tokenizer()
    tokenizer.model = models.BPE({"a": 0}, [])
    tokenizer.post_processor = None
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(BundleError, match="must be a CLIP tokenizer"):
        Tokenizer(tmp_path / "tokenizer.json")
