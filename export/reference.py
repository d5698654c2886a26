"""Reference inputs: plausible tensors for any engine, drawn from a seed. It runs no engine.

What networks meet in use, not what they are easy on: texts of random lengths, pictures over the whole range, sources that come
and go. Letters as in `runtime/spec.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from runtime.spec import EngineSpec, TensorSpec
from training.model import ClipFaceFusion
from training.unconditional import Unconditional

PICTURES = ("pixel_values", "face", "image")


@dataclass(frozen=True)
class ReferenceInputs:
    """Draws the inputs of an engine. Calling it twice with the same spec and sizes gives the same arrays."""

    vocabulary: int
    start_token: int
    end_token: int
    num_train_timesteps: int
    seed: int = 0

    @classmethod
    def of(cls, model: ClipFaceFusion | Unconditional) -> ReferenceInputs:
        """For `model`'s vocabulary, if it has one, and schedule."""
        if isinstance(model, Unconditional):
            return cls(0, 0, 0, model.schedule.num_train_timesteps)
        words = model.tokenizer
        return cls(len(words), words.bos_token_id, words.eos_token_id, model.schedule.num_train_timesteps)

    def seeded(self, seed: int) -> ReferenceInputs:
        """The same for another seed."""
        return replace(self, seed=seed)

    def __call__(self, spec: EngineSpec, sizes: Mapping[str, int]) -> dict[str, np.ndarray]:
        """`spec`'s inputs by name, with `sizes` for its letters."""
        random = np.random.default_rng(self.seed)
        if spec.name == "text_encoder":  # ids and mask belong together
            return self._text(random, sizes["B"], int(spec.inputs[0].shape[1]))
        return {tensor.name: self._draw(random, tensor, sizes) for tensor in spec.inputs}

    def _text(self, random: np.random.Generator, batch: int, length: int) -> dict[str, np.ndarray]:
        """As the tokenizer leaves them: start, words, end, then end again as padding."""
        input_ids = np.full((batch, length), self.end_token, np.int64)
        words = np.setdiff1d(np.arange(self.vocabulary), [self.start_token, self.end_token])
        lengths = random.integers(3, length, size=batch, endpoint=True)
        for row, n in zip(input_ids, lengths, strict=True):
            row[0], row[1 : n - 1] = self.start_token, random.choice(words, n - 2)
        attention_mask = (np.arange(length) < lengths[:, None]).astype(np.int64)
        return {"input_ids": input_ids, "attention_mask": attention_mask}

    def _draw(self, random: np.random.Generator, tensor: TensorSpec, sizes: Mapping[str, int]) -> np.ndarray:
        shape = tuple(sizes[d] if isinstance(d, str) else d for d in tensor.shape)
        values: np.ndarray
        if tensor.name == "timestep":
            values = random.integers(0, self.num_train_timesteps, shape)
        elif tensor.name in PICTURES:
            values = random.uniform(-1, 1, shape)
        elif tensor.name == "age":
            values = random.uniform(0, 100, shape)
        elif tensor.name == "emotion":
            values = np.eye(shape[1])[random.integers(0, shape[1], shape[0])] * random.uniform(0, 1, (shape[0], 1))
        elif tensor.name == "valence_arousal":
            values = random.uniform(-1, 1, shape)
        elif tensor.name == "present":
            values = random.integers(0, 1, shape, endpoint=True)
        else:  # features, latents, noise, and a voice after normalisation
            values = random.standard_normal(shape)
        return values.astype(tensor.dtype)
