"""Stand-ins for unit tests of everything around the networks. Nothing here is shipped, and nothing here makes a face."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tokenizers
from safetensors.numpy import save_file
from tokenizers import models, normalizers, pre_tokenizers, processors

from runtime.bundle import Bundle
from runtime.engines import Engine
from runtime.manifest import CONSTANTS, FORMAT_VERSION, MANIFEST_FILE, PARITY, TOKENIZER, Manifest, onnx_file, sha256_of
from runtime.schedule import Schedule
from runtime.spec import EngineSpec, ModelSpec, engine_specs

MODEL = ModelSpec(
    image_size=16,
    sample_shape=(2, 4, 4),
    is_latent=True,
    features=8,
    audio_features=6,
    clip_image_size=32,
    identity_size=24,
    cond={"cond": (8,), "cond_tokens": (6, 4)},
)
GUIDANCE_SCALE = 2.5


class FakeEngine:
    """A fake for unit tests only: follows its spec, and computes each row from that row alone by a fixed rule.

    Row r of an output is sin(0.1 i + s_r) over its elements i, where s_r weighs the means of row r of the inputs: every input
    has an effect, and no row another. `calls` remembers the inputs.
    """

    provider = "fake"

    def __init__(self, spec: EngineSpec) -> None:
        self.spec = spec
        self.calls: list[dict[str, np.ndarray]] = []
        self.is_closed = False

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        sizes = self.spec.check_inputs(inputs)
        self.calls.append({name: array.copy() for name, array in inputs.items()})
        outputs = {}
        for tensor in self.spec.outputs:
            array = np.empty((sizes["B"], *(int(d) for d in tensor.shape[1:])), tensor.dtype)
            for row in range(sizes["B"]):
                means = [(k + 1) * float(inputs[t.name][row].mean()) for k, t in enumerate(self.spec.inputs)]
                array[row] = np.sin(0.1 * np.arange(array[row].size) + sum(means)).reshape(array[row].shape)
            outputs[tensor.name] = array
        return outputs

    def close(self) -> None:
        self.is_closed = True


def open_fake_engine(model: bytes, spec: EngineSpec) -> Engine:
    """What a bundle of fakes opens engines with; the bytes of the network are not looked at."""
    return FakeEngine(spec)


def write_bundle(folder: Path, model: ModelSpec = MODEL) -> Manifest:
    """A bundle on disk with everything in place, whose networks are empty files; only `open_fake_engine` can load them."""
    (folder / "onnx").mkdir(parents=True)
    for engine in engine_specs(model):
        (folder / onnx_file(engine)).write_bytes(engine.encode())
    tokenizer().save(str(folder / TOKENIZER))
    save_file({f"uncond.{name}": np.zeros(shape, np.float32) for name, shape in model.cond.items()}, folder / CONSTANTS)
    save_file({}, folder / PARITY)
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        name="fake",
        model=model,
        schedule=Schedule(),
        guidance_scale=GUIDANCE_SCALE,
        engines=engine_specs(model),
        files={
            path.relative_to(folder).as_posix(): {"sha256": sha256_of(path), "bytes": path.stat().st_size}
            for path in folder.rglob("*")
            if path.is_file()
        },
        parity={"onnx": {}},
        parity_missed=[],
        precision={"onnx": "fp32"},
        fp16={},
        memory={},
        versions={},
        checkpoint_sha256="0" * 64,
        weights={},
        training={},
        plans=[],
    )
    manifest.write(folder)
    return manifest


def fake_bundle(folder: Path, model: ModelSpec = MODEL) -> Bundle:
    """An opened bundle of fakes, in the new folder `folder`."""
    manifest = write_bundle(folder, model)
    rng = np.random.default_rng(0)
    uncond = {name: rng.normal(size=shape).astype(np.float32) for name, shape in model.cond.items()}
    return Bundle(folder, manifest, sha256_of(folder / MANIFEST_FILE), uncond, "fake", open_fake_engine)


def tokenizer() -> tokenizers.Tokenizer:
    """A CLIP tokenizer that knows single bytes only."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*alphabet, *(letter + "</w>" for letter in alphabet), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: number for number, word in enumerate(words)}
    bytewise = tokenizers.Tokenizer(models.BPE(vocabulary, [], unk_token="<|endoftext|>", end_of_word_suffix="</w>"))
    bytewise.normalizer = normalizers.Lowercase()
    bytewise.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    ends = ("<|startoftext|>", "<|endoftext|>")
    bytewise.post_processor = processors.TemplateProcessing(
        single=f"{ends[0]} $A {ends[1]}", special_tokens=[(end, vocabulary[end]) for end in ends]
    )
    return bytewise
