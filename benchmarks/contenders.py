"""The ways of sampling one picture that are compared: ours on any engine, and the loops that a diffusers user would write.

All start from the same noise and cond arrays, use the same weights and number of threads, take DDIM steps with guidance by a batch
of two, and end with an 8-bit picture. Each meters its UNet and its decoder. The peers are given the noise; ours draws it itself.
Layout: (C, H, W) latents (or pixels of a pixel model), (H, W, 3) uint8 pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnxruntime
import torch
from diffusers import DDIMScheduler

from benchmarks.timing import Meter, Parts
from runtime.bundle import Bundle
from runtime.engines import Engine
from runtime.guidance import GUIDANCE_OFF
from runtime.manifest import onnx_file, read_checked
from runtime.noise import INITIAL_NOISE, gaussian
from runtime.sampling import Sampler, SampleRequest
from runtime.settings import SampleSettings
from runtime.spec import EngineSpec
from training.model import ClipFaceFusion

Made = tuple[np.ndarray, np.ndarray]
"""(latents, picture): what the loop ended with, and its picture."""


@dataclass(frozen=True)
class Task:
    """What every contender computes: `cond` is a mapping of arrays without batch dimension."""

    cond: Mapping[str, np.ndarray]
    uncond: Mapping[str, np.ndarray]
    seed: int
    num_inference_steps: int
    guidance_scale: float

    def noise(self, shape: tuple[int, ...]) -> np.ndarray:
        """(1, C, H, W) float32: the noise that ours draws for this seed."""
        return gaussian(self.seed, INITIAL_NOISE, shape)[None]

    def rows(self) -> dict[str, np.ndarray]:
        """cond with a batch dimension: conditional, then (with guidance) unconditional."""
        pairs = {name: [array, self.uncond[name]] for name, array in self.cond.items()}
        return {name: np.stack(pair[: self.row_count]) for name, pair in pairs.items()}

    @property
    def row_count(self) -> int:
        return 1 if self.guidance_scale == GUIDANCE_OFF else 2


@dataclass(frozen=True)
class Contender:
    """One way of sampling. `make` computes the task from its start; the meters have timed what lies inside."""

    make: Callable[[], Made]
    unet: Meter[Any, Any]
    decoder: Meter[Any, Any]

    def timed(self) -> Parts:
        """Run once; the shares of the UNet and the decoder in ms."""
        self.unet.reset()
        self.decoder.reset()
        self.make()
        return {"unet": self.unet.ms, "decode": self.decoder.ms}


class MeteredEngine:
    """An engine whose calls are timed. Owns the engine."""

    def __init__(self, engine: Engine) -> None:
        self.spec, self.provider, self.close = engine.spec, engine.provider, engine.close
        self.meter = Meter(engine)

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return self.meter(inputs)


@contextmanager
def ours(bundle: Bundle, task: Task) -> Iterator[Contender]:
    """The runtime's sampler as `Pipeline` and the server use it, step-level batcher included, with engines of its own."""
    meters: dict[str, Meter[Any, Any]] = {"decoder": Meter(lambda: None)}  # a pixel model never calls its decoder

    def open_metered(model: bytes, spec: EngineSpec) -> Engine:
        engine = MeteredEngine(bundle.open_engine(model, spec))
        meters[spec.name] = engine.meter
        return engine

    last: list[np.ndarray] = []

    def keep_last(step_index: int, num_steps: int, sample: np.ndarray) -> None:
        if step_index == num_steps - 1:
            last[:] = [sample.copy()]

    settings = SampleSettings(task.seed, task.guidance_scale, task.num_inference_steps)
    request = SampleRequest(task.cond, settings, on_step=keep_last)
    with replace(bundle, open_engine=open_metered, _engines={}) as metered, Sampler(metered) as sampler:

        def make() -> Made:
            image = sampler.submit(request).result().image
            return last[0], image

        yield Contender(make, meters["unet"], meters["decoder"])


def torch_loop(model: ClipFaceFusion, task: Task, compiles: bool = False, bf16: bool = False) -> Contender:
    """diffusers' way: the checkpoint's UNet in torch, channels_last, no gradients, with diffusers' DDIMScheduler.

    compiles  through torch.compile instead of eager; the first picture waits for it
    bf16      networks under autocast to BF16; the scheduler stays in FP32
    """
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    scheduler = DDIMScheduler(**model.schedule.to_dict())
    denoise, decode = model.denoise, model.decode
    if compiles:
        denoise, decode = torch.compile(denoise, dynamic=False), torch.compile(decode, dynamic=False)
    unet, decoder = Meter(denoise), Meter(decode)
    cond = [torch.from_numpy(array) for array in task.rows().values()]
    noise = torch.from_numpy(task.noise(model.spec().sample_shape))

    @torch.no_grad()
    def make() -> Made:
        scheduler.set_timesteps(task.num_inference_steps)
        sample = noise.to(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            for timestep in scheduler.timesteps:
                noise_pred = unet(torch.cat([sample] * task.row_count), timestep.expand(task.row_count), *cond)
                noise_pred = _guided(noise_pred.float(), task)
                sample = scheduler.step(noise_pred, timestep, sample).prev_sample
            image = decoder(sample).float() if model.autoencoder is not None else sample
        return sample[0].numpy(), _levels(image[0].numpy())

    return Contender(make, unet, decoder)


def onnx_loop(bundle: Bundle, schedule: Mapping[str, Any], task: Task, threads: int) -> Contender:
    """The bundle's ONNX files in ONNX Runtime sessions and a plain Python loop with diffusers' DDIMScheduler."""

    def session(engine: str) -> Callable[[dict[str, np.ndarray]], np.ndarray]:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # errors only
        file = onnx_file(engine)
        model = read_checked(bundle.folder, file, bundle.manifest.files[file])
        opened = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        return lambda inputs: opened.run(None, inputs)[0]

    scheduler = DDIMScheduler(**schedule)
    unet, is_latent = Meter(session("unet")), bundle.model.is_latent
    decoder = Meter(session("decoder") if is_latent else lambda inputs: inputs["latents"])
    cond, noise = task.rows(), task.noise(bundle.model.sample_shape)

    def make() -> Made:
        scheduler.set_timesteps(task.num_inference_steps)
        sample = noise
        for timestep in scheduler.timesteps:
            rows = np.concatenate([sample] * task.row_count)
            noise_pred = unet({"sample": rows, "timestep": np.full(task.row_count, int(timestep)), **cond})
            noise_pred = _guided(torch.from_numpy(noise_pred), task)
            sample = scheduler.step(noise_pred, timestep, torch.from_numpy(sample)).prev_sample.numpy()
        image = decoder({"latents": sample}) if is_latent else sample
        return sample[0], _levels(image[0])

    return Contender(make, unet, decoder)


def _guided(noise_pred: torch.Tensor, task: Task) -> torch.Tensor:
    """Classifier-free guidance over the rows of one call."""
    if task.row_count == 1:
        return noise_pred
    noise_cond, noise_uncond = noise_pred.chunk(2)
    return noise_uncond + task.guidance_scale * (noise_cond - noise_uncond)


def _levels(image: np.ndarray) -> np.ndarray:
    """(3, H, W) in [-1, 1] to (H, W, 3) uint8, rounded to the nearest level."""
    return np.rint((np.clip(image, -1, 1) + 1) * 127.5).astype(np.uint8).transpose(1, 2, 0)
