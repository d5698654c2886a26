"""The tensor contract of every engine: names, dtypes, shapes and profile ranges. The only home of these facts.

ONNX input and output names, TensorRT profiles, Triton model configurations and the checks at run time derive from
`engine_specs(model)`. It knows no weights and no files. Dimension letters: B batch, C channels, H and W height and width,
T samples of audio, L text length, S sources (`SOURCES`), M tokens, D token width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np

from runtime.emotions import EMOTIONS
from runtime.errors import BundleError, EngineError

# What the fusion engine can be told, in the order of its `present` input. `age_text` and `emotion_text` are the phrases of
# equations 5 and 7; a photo gives `image` (the CLIP token) and `identity` (the ArcFace token).
SOURCES = ("text", "age_text", "emotion_text", "audio", "image", "identity", "age", "emotion", "valence_arousal")
# The tokens of the fusion set (equation 11), in the order of `cond_tokens`.
TOKENS = ("text", "audio_visual", "age", "emotion", "image", "identity")

SAMPLING_RATE_HZ = 16_000
MIN_AUDIO_SAMPLES = 4_000  # 0.25 s: shorter clips leave Wav2Vec2's last layers too few frames to pool
MAX_AUDIO_SAMPLES = 5 * SAMPLING_RATE_HZ  # the paper's "first 5 s"
MAX_BATCH = 16  # largest row count of a UNet call: eight guided requests


@dataclass(frozen=True)
class TensorSpec:
    """One input or output: `shape` mixes fixed sizes with the letters of variable ones; the first letter is the batch."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def check(self, owner: str, array: np.ndarray, sizes: dict[str, int]) -> None:
        """Raise EngineError unless `array` fits; `sizes` collects letters' values so that they agree across tensors."""
        problem = None
        if str(array.dtype) != self.dtype:
            problem = f"has dtype {array.dtype}, expected {self.dtype}"
        elif array.ndim != len(self.shape):
            problem = f"has shape {array.shape}, expected {len(self.shape)} dimensions {self.shape}"
        else:
            for size, expected in zip(array.shape, self.shape, strict=True):
                if size != (sizes.setdefault(expected, size) if isinstance(expected, str) else expected):
                    problem = f"has shape {array.shape}, expected {tuple(sizes.get(str(d), d) for d in self.shape)}"
        if problem:
            raise EngineError(f"{owner}: '{self.name}' {problem}")


@dataclass(frozen=True)
class EngineSpec:
    """One engine's inputs and outputs, and the (min, opt, max) of every variable dimension's letter."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    ranges: Mapping[str, tuple[int, int, int]] = field(default_factory=lambda: {"B": (1, 1, MAX_BATCH)})

    def check_inputs(self, arrays: Mapping[str, np.ndarray]) -> dict[str, int]:
        """Sizes by letter, or EngineError naming the tensor, its shape and what the profile allows."""
        expected = [tensor.name for tensor in self.inputs]
        if sorted(arrays) != sorted(expected):
            raise EngineError(f"{self.name}: got inputs {sorted(arrays)}, expected {sorted(expected)}")
        sizes: dict[str, int] = {}
        for tensor in self.inputs:
            tensor.check(self.name, arrays[tensor.name], sizes)
        for letter, size in sizes.items():
            low, _, high = self.ranges[letter]
            if not low <= size <= high:
                raise EngineError(
                    f"{self.name}: {letter} is {size}; the profile allows {low}..{high}. Split the input, or export with a larger range."
                )
        return sizes

    def check_outputs(self, arrays: Mapping[str, np.ndarray], sizes: dict[str, int]) -> None:
        """Raise EngineError unless every output has the promised dtype and shape."""
        for tensor in self.outputs:
            if tensor.name not in arrays:
                raise EngineError(f"{self.name}: output '{tensor.name}' is missing")
            tensor.check(self.name, arrays[tensor.name], dict(sizes))

    def profile(self) -> dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]:
        """Per input the (min, opt, max) shapes, as an optimization profile wants them."""
        return {tensor.name: tuple(self.shape(tensor, bound) for bound in range(3)) for tensor in self.inputs}  # type: ignore[misc]

    def largest_bytes(self, tensor: TensorSpec) -> int:
        """What a tensor takes at its largest."""
        return math.prod(self.shape(tensor, 2)) * np.dtype(tensor.dtype).itemsize

    def shape(self, tensor: TensorSpec, bound: int) -> tuple[int, ...]:
        """A tensor's fixed shape at the range's bound 0 = min, 1 = opt, 2 = max."""
        return tuple(self.ranges[d][bound] if isinstance(d, str) else d for d in tensor.shape)

    def to_dict(self) -> dict[str, Any]:
        """JSON form for the manifest."""
        return {
            "inputs": [{**asdict(t), "shape": list(t.shape)} for t in self.inputs],
            "outputs": [{**asdict(t), "shape": list(t.shape)} for t in self.outputs],
            "ranges": {letter: list(bounds) for letter, bounds in self.ranges.items()},
        }


@dataclass(frozen=True)
class ModelSpec:
    """The sizes from which every engine's contract follows. Written by the exporter, read from the manifest.

    `cond` without entries is a model that draws from noise alone: it has no encoders and no fusion, and their widths mean nothing.
    `sample_shape` (C, H, W) is what the UNet denoises: pixels, or latents when `is_latent`. `cond` lists the entries of the
    conditioning mapping by name with their shape without batch; `features` is the width of the encoders' shared space.
    """

    image_size: int
    sample_shape: tuple[int, int, int]
    is_latent: bool
    features: int
    audio_features: int
    clip_image_size: int
    identity_size: int
    cond: Mapping[str, tuple[int, ...]]
    text_length: int = 77
    has_estimators: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "sample_shape", tuple(self.sample_shape))
        object.__setattr__(self, "cond", {name: tuple(shape) for name, shape in self.cond.items()})
        if not self.is_latent and self.sample_shape[1:] != (self.image_size, self.image_size):
            raise BundleError(
                f"model: sample_shape {self.sample_shape} of a pixel model must end in image_size {self.image_size}"
            )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelSpec:
        """Read the manifest's form; unknown or missing entries raise BundleError."""
        unknown = set(values) - {f.name for f in fields(cls)}
        if unknown:
            raise BundleError(f"model: unknown entries {sorted(unknown)}; this bundle needs a newer runtime")
        try:
            return cls(**values)
        except TypeError as error:
            raise BundleError(f"model: {error}") from None

    def to_dict(self) -> dict[str, Any]:
        """JSON form for the manifest."""
        return {
            **asdict(self),
            "sample_shape": list(self.sample_shape),
            "cond": {k: list(v) for k, v in self.cond.items()},
        }


def engine_specs(model: ModelSpec) -> dict[str, EngineSpec]:
    """Every engine a bundle of this model holds, by name."""
    width, size = model.features, model.image_size

    def f32(name: str, *shape: int | str) -> TensorSpec:
        return TensorSpec(name, "float32", ("B", *shape))

    def i64(name: str, *shape: int | str) -> TensorSpec:
        return TensorSpec(name, "int64", ("B", *shape))

    few = {"B": (1, 1, 4)}  # a request encodes at most three texts and one of everything else
    cond = tuple(f32(name, *shape) for name, shape in model.cond.items())
    image = f32("image", 3, size, size)  # [-1, 1]
    latents = f32("latents", *model.sample_shape)
    unet = EngineSpec(
        "unet",
        (f32("sample", *model.sample_shape), i64("timestep"), *cond),
        (f32("noise_pred", *model.sample_shape),),
    )
    conditioning = [
        EngineSpec(
            "text_encoder",
            (i64("input_ids", model.text_length), i64("attention_mask", model.text_length)),
            (f32("text_features", width),),
            few,
        ),
        EngineSpec(
            "audio_encoder",  # one clip at a time, unpadded: zero padding would change pooled features
            (f32("input_values", "T"),),
            (f32("audio_features", model.audio_features), f32("audio_emotion_features", width)),
            {"B": (1, 1, 1), "T": (MIN_AUDIO_SAMPLES, 3 * SAMPLING_RATE_HZ, MAX_AUDIO_SAMPLES)},
        ),
        EngineSpec(
            "image_encoder",
            (f32("pixel_values", 3, model.clip_image_size, model.clip_image_size),),
            (f32("image_features", width),),
            few,
        ),
        EngineSpec(
            "identity_encoder",
            (f32("face", 3, model.identity_size, model.identity_size),),
            (f32("identity_features", width),),
            few,
        ),
        EngineSpec(
            "fusion",
            (
                f32("text_features", width),
                f32("age_text_features", width),
                f32("emotion_text_features", width),
                f32("audio_features", model.audio_features),
                f32("audio_emotion_features", width),
                f32("image_features", width),
                f32("identity_features", width),
                f32("age", 1),  # years
                f32("emotion", len(EMOTIONS)),  # one-hot times intensity
                f32("valence_arousal", 2),
                f32("present", len(SOURCES)),  # 1 = given, 0 = absent
            ),
            cond,
        ),
    ]
    specs = [*conditioning, unet] if model.cond else [unet]
    if model.is_latent:
        specs += [
            EngineSpec("encoder", (image,), (latents,), few),
            EngineSpec("decoder", (latents,), (image,), few),
        ]
    if model.has_estimators:
        specs += [
            EngineSpec("age_estimator", (image,), (f32("age", 1),), few),
            EngineSpec("emotion_estimator", (image,), (f32("emotion", len(EMOTIONS)), f32("valence_arousal", 2)), few),
        ]
    return {spec.name: spec for spec in specs}
