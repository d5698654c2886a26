"""What a training will cost, before it starts: parameters, memory and FLOPs of every stage. It reads and writes no data.

Each stage's networks run once, forward and backward, on one part of its batch with fake tensors, which have shapes and no
numbers: `torch.utils.flop_counter` counts what they would compute, and hooks count the bytes that autograd would keep. Not in it:
workspace of single operations, the data, and what runs without gradient. Letters: n samples of a part.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from math import ceil

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint as recomputed
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTokenizer

from runtime.spec import SAMPLING_RATE_HZ, ModelSpec, engine_specs
from training.config import StageConfig, TrainConfig
from training.estimators import AgeEstimator, EmotionEstimator
from training.model import ClipFaceFusion
from training.optimisation import AUTOCAST
from training.published import read_tokenizer
from training.recipe import Start, applicable, check_stages, to_be_trained
from training.stages.autoencoder import CROP
from training.stages.voice import CROP_S
from training.tokenizer import train_tokenizer
from training.vgg import VGG16

GIB = 2**30
FLOAT = 4  # bytes; weights, gradients, AdamW's two moments and the moving average are float32 under autocast too


@dataclass(frozen=True)
class Cost:
    """One stage: `parameters` trained, FLOPs of one step over all processes, bytes on each process."""

    parameters: int
    flops: int
    weights: int
    optimiser: int
    activations: int

    @property
    def memory(self) -> int:
        """All bytes together."""
        return self.weights + self.optimiser + self.activations


@dataclass(frozen=True)
class Work:
    """What a stage trains, but for parts of it that are frozen, and its forward pass over n samples, whose result depends on all."""

    trained: Sequence[nn.Module]
    forward: Callable[[int], Tensor]
    frozen: Sequence[nn.Module] = ()


def describe(config: TrainConfig, preset: str, start: Start, stages: Sequence[str] | None = None) -> str:
    """The resolved settings as JSON and a table of `estimate`, for people."""
    names = applicable(config, start) if stages is None else stages
    check_stages(names, config)
    costs = estimate(config, start, names)
    header = (
        f"{'stage':<12}{'steps':>9}{'batch':>7}{'parts':>7}{'trained M':>11}{'TFLOP/step':>12}{'PFLOP':>10}"
        f"{'weights':>9}{'optim.':>8}{'activ.':>8}{'GiB':>8}"
    )
    lines = [json.dumps({"preset": preset, **asdict(config)}, indent=1, default=str), "", header]
    for name, cost in costs.items():
        stage = config.stages[name]
        lines.append(
            f"{name:<12}{stage.steps:>9}{stage.batch_size:>7}{stage.micro_batches:>7}{cost.parameters / 1e6:>11.2f}"
            f"{cost.flops / 1e12:>12.4g}{cost.flops * stage.steps / 1e15:>10.4g}"
            f"{cost.weights / GIB:>9.3g}{cost.optimiser / GIB:>8.3g}{cost.activations / GIB:>8.3g}{cost.memory / GIB:>8.3g}"
        )
    lines += [
        "",
        "TFLOP/step: forward and backward over the whole batch. GiB on each process: weights of all networks, gradients with AdamW's",
        "moments and the moving average, and what autograd keeps of one part of the batch; single operations need more for a moment.",
        "Counted on fake tensors: nothing was run, read or written.",
    ]
    return "\n".join(lines)


def estimate(config: TrainConfig, start: Start, stages: Sequence[str]) -> dict[str, Cost]:
    """The cost of each of `stages`."""
    tokenizer = _tokenizer(config, start)
    with FakeTensorMode() as fake:
        model = ClipFaceFusion(config.model, tokenizer).eval()
        vgg = VGG16().requires_grad_(False)
        model.unet.train()  # only then does it recompute activations
        if config.gradient_checkpointing:
            model.unet.enable_gradient_checkpointing()
    work = _work(model, config, None if start.vgg is None else vgg, to_be_trained(start))
    return {name: _cost(fake, model, work[name], config.stages[name], config.precision) for name in stages}


def _cost(fake: FakeTensorMode, model: ClipFaceFusion, work: Work, stage: StageConfig, precision: str) -> Cost:
    model.requires_grad_(False)
    frozen = {id(p) for module in work.frozen for p in module.parameters()}
    trained = [p for module in work.trained for p in module.parameters() if id(p) not in frozen]
    for parameter in trained:
        parameter.requires_grad_(True)
    kept: dict[int, int] = {}
    own = {p.untyped_storage()._cdata for p in model.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    dtype = AUTOCAST.get(precision)
    saving = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with fake, FlopCounterMode(display=False) as counter:
        with saving, torch.autocast("cpu", dtype, enabled=dtype is not None):
            result = work.forward(stage.batch_size // stage.micro_batches)
        result.float().sum().backward()
    count = sum(p.numel() for p in trained)
    copies = 4 if stage.ema_decay else 3
    return Cost(
        parameters=count,
        flops=counter.get_total_flops() * stage.micro_batches,
        weights=FLOAT * sum(p.numel() for p in model.parameters()),
        optimiser=copies * FLOAT * count,
        activations=sum(kept.values()),
    )


def _work(model: ClipFaceFusion, config: TrainConfig, vgg: VGG16 | None, estimated: Sequence[str]) -> dict[str, Work]:
    size, losses, spec = config.model.image_size, config.losses, model.spec()
    inputs = engine_specs(spec)["fusion"].inputs

    def pictures(n: int, side: int = size) -> Tensor:
        return torch.randn(n, 3, side, side)

    def described(n: int) -> list[Tensor]:
        return [torch.randn(n, *(int(d) for d in tensor.shape[1:])) for tensor in inputs]

    def denoised(n: int) -> Tensor:
        return model.denoise(
            torch.randn(n, *spec.sample_shape), torch.zeros(n, dtype=torch.int64), *model.fuse(*described(n))
        )

    def judged(n: int) -> Tensor:
        sample, rows = denoised(n), ceil(losses.part * n)
        total, picture = sample.float().sum() * 0, sample[:rows]
        if losses.chain_steps:
            cond = [entry[:rows] for entry in model.fuse(*described(n))]
            timesteps = torch.zeros(rows, dtype=torch.int64)
            for _ in range(losses.chain_steps):
                picture = recomputed(
                    model.denoise, picture, timesteps, *cond, use_reentrant=False, preserve_rng_state=False
                )
        picture = picture if model.autoencoder is None else model.decode(picture)
        if losses.clip or losses.audio_visual:
            clip_size = model.image_encoder.config.image_size
            total = total + model.encode_image(F.interpolate(picture, (clip_size, clip_size))).float().sum()
        if losses.age:
            total = total + model.age_estimator.features(picture).float().sum()
        if losses.emotion:
            total = total + model.emotion_estimator.features(picture).float().sum()
        if losses.identity:
            identity_size = config.model.identity_size
            total = total + model.identify(F.interpolate(picture, (identity_size, identity_size))).float().sum()
            for maps in (model.identity_encoder if vgg is None else vgg).maps(picture):
                total = total + maps.float().sum()
        return total + sample.float().sum()

    painter, aligned = (model.unet, model.conditioner), (model.conditioner.attributes,)
    both: dict[str, AgeEstimator | EmotionEstimator] = {"age": model.age_estimator, "emotion": model.emotion_estimator}
    face = [both[name] for name in estimated]
    work = {
        "estimators": Work(face, lambda n: torch.stack([net.features(pictures(n)).sum() for net in face])),
        "identity": Work((model.identity_encoder,), lambda n: model.identify(pictures(n, config.model.identity_size))),
        "clip": Work(
            (model.text_encoder, model.image_encoder),
            lambda n: (
                model.text_encoder(input_ids=torch.zeros(n, spec.text_length, dtype=torch.int64)).text_embeds.sum()
                + model.encode_image(pictures(n, model.image_encoder.config.image_size)).sum()
            ),
        ),
        "voice": Work(
            (model.audio_encoder,), lambda n: model.encode_audio(torch.randn(n, int(CROP_S * SAMPLING_RATE_HZ)))[1]
        ),
        "alignment": Work((model.conditioner.attributes,), lambda n: model.conditioner.tokens(*described(n))[0]),
        "diffusion": Work(painter, denoised, aligned),
        "consistency": Work(painter, judged, aligned),
    }
    if model.autoencoder is not None:
        autoencoder = model.autoencoder
        work["autoencoder"] = Work(
            (autoencoder.network,),
            lambda n: autoencoder.network.decode(autoencoder.latents(pictures(n, min(CROP, size)))).sample,
        )
        work["decoder"] = Work(
            (autoencoder.network.decoder,),
            lambda n: autoencoder.network.decode(autoencoder.latents(pictures(n, min(CROP, size))).detach()).sample,
        )
    return work


def _tokenizer(config: TrainConfig, start: Start) -> CLIPTokenizer:
    """One of the right size: the text encoder's embedding has a row per entry."""
    if start.base is not None:
        return CLIPTokenizer.from_pretrained(str(start.base / "tokenizer"))
    if "text_encoder" in start.published:
        return read_tokenizer(start.published["text_encoder"])
    tokenizer = train_tokenizer(["a face"], config.vocabulary, ModelSpec.text_length)
    tokenizer.add_tokens([f"<entry {n}>" for n in range(config.vocabulary - len(tokenizer))])
    return tokenizer
