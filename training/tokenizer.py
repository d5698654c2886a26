"""Trains a small byte-pair vocabulary in CLIP's format from captions. Published CLIP tokenizers load into the same slot."""

from __future__ import annotations

import json
from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer

START, END = "<|startoftext|>", "<|endoftext|>"
# CLIP's word pattern: English contractions, runs of letters, single digits, runs of anything else.
WORDS = r"""'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""


def train_tokenizer(texts: Iterable[str], vocabulary: int, length: int) -> CLIPTokenizer:
    """A CLIPTokenizer with at most `vocabulary` entries learned from `texts`; `length` is its model_max_length.

    The vocabulary starts with the 256 bytes, with and without the end-of-word mark, so that any UTF-8 text can be encoded.
    """
    texts = list(texts)
    bytes_ = pre_tokenizers.ByteLevel.alphabet()
    trained = Tokenizer(models.BPE(unk_token=END, continuing_subword_prefix="", end_of_word_suffix="</w>"))
    trained.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    trained.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    normalize, split = trained.normalizer.normalize_str, trained.pre_tokenizer.pre_tokenize_str
    last = {word[-1] for text in texts for word, _ in split(normalize(text))}
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        initial_alphabet=bytes_,
        end_of_word_suffix="</w>",
        # The trainer numbers end-of-word forms in the order of a hash table, another one every time, and breaks ties by number.
        # What is called special is numbered first, in this order.
        special_tokens=[START, END, *(byte + "</w>" for byte in sorted(last))],
        show_progress=False,
    )
    trained.train_from_iterator(texts, trainer)
    vocab = trained.get_vocab()
    # End-of-word forms that no word ends with.
    for byte in sorted(bytes_):
        vocab.setdefault(byte + "</w>", len(vocab))
    merges = [tuple(pair) for pair in json.loads(trained.to_str())["model"]["merges"]]
    return CLIPTokenizer(
        vocab=vocab,
        merges=merges,
        unk_token=END,
        bos_token=START,
        eos_token=END,
        pad_token=END,
        model_max_length=length,
    )
