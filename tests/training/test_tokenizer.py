"""A vocabulary is a function of its captions: two runs number words alike."""

from __future__ import annotations

from training.tokenizer import train_tokenizer

CAPTIONS = ["a smiling old man with glasses", "an angry young woman, 25 years old", "a sad boy with red hair"]


def test_training_again_gives_the_same_vocabulary_and_merges() -> None:
    trained = {train_tokenizer(CAPTIONS, 560, 77).backend_tokenizer.to_str() for _ in range(5)}
    assert len(trained) == 1


def test_any_utf8_text_has_tokens_and_comes_back() -> None:
    tokenizer = train_tokenizer(CAPTIONS, 560, 77)
    ids = tokenizer("zwölf 😀 «ж»").input_ids
    assert tokenizer.unk_token_id not in ids[1:-1]
    assert tokenizer.decode(ids, skip_special_tokens=True).replace(" ", "") == "zwölf😀«ж»"
