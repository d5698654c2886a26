"""Pictures from the torch model through the runtime's own sampler, noise and guidance: what the engines must reproduce."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from runtime.guidance import guide
from runtime.noise import INITIAL_NOISE, gaussian
from runtime.solvers import DDIM, SOLVERS
from training.model import ClipFaceFusion


@torch.no_grad()
def sample_images(
    model: ClipFaceFusion,
    cond: tuple[Tensor, ...],
    seed: int,
    num_inference_steps: int,
    guidance_scale: float,
    solver: str = DDIM,
    guidance_interval: tuple[int, int] | None = None,
) -> Tensor:
    """Faces (B, 3, S, S) in [-1, 1] for the rows of `cond` (the entries in spec order); row n is drawn with seed + n.

    `solver` is one of `runtime.solvers.SOLVERS`; guidance acts from the first to the second timestep of `guidance_interval`, or at all.
    Raises ValueError for steps that it cannot take.
    """
    names = list(model.spec().cond)

    def denoise(sample: np.ndarray, timestep: np.ndarray, conditions: Mapping[str, np.ndarray]) -> np.ndarray:
        entries = [torch.from_numpy(np.ascontiguousarray(conditions[name])).to(device) for name in names]
        prediction = model.denoise(torch.from_numpy(sample).to(device), torch.from_numpy(timestep).to(device), *entries)
        return prediction.float().cpu().numpy()

    device = cond[0].device
    uncond = {name: entry[None].cpu().numpy() for name, entry in model.uncond().items()}
    guided = guide(denoise, uncond, guidance_scale)
    conditions = {name: entry.float().cpu().numpy() for name, entry in zip(names, cond, strict=True)}
    sample = np.stack([gaussian(seed + n, INITIAL_NOISE, model.spec().sample_shape) for n in range(len(cond[0]))])
    walk = SOLVERS[solver](model.schedule, num_inference_steps, sample.shape)  # elementwise, so a batch is one sample
    low, high = guidance_interval or (0, model.schedule.num_train_timesteps)
    for step_index, timestep in enumerate(walk.timesteps):
        predict = guided if low <= timestep <= high else denoise
        walk.step(step_index, sample, predict(sample, np.full(len(sample), timestep, np.int64), conditions))
    latents = torch.from_numpy(sample).to(device)
    return latents.clamp(-1, 1) if model.autoencoder is None else model.decode(latents)
