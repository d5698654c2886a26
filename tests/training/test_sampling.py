"""Pictures through the runtime's solvers: DDIM is the plain loop's to the last bit, and another solver another way."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from runtime.ddim import DDIMCoefficients, sample_loop
from runtime.guidance import guide
from runtime.noise import INITIAL_NOISE, gaussian
from runtime.solvers import SOLVERS
from runtime.spec import ModelSpec
from training.model import ClipFaceFusion
from training.presets import PRESETS
from training.sampling import sample_images
from training.tokenizer import train_tokenizer


@pytest.fixture(scope="module")
def model() -> ClipFaceFusion:
    torch.manual_seed(0)
    preset = PRESETS["micro"]
    return ClipFaceFusion(preset.model, train_tokenizer(["a face"], preset.vocabulary, ModelSpec.text_length)).eval()


def cond(model: ClipFaceFusion) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(1)
    return tuple(torch.randn(2, *entry.shape) for entry in model.uncond().values())


def test_ddim_is_the_plain_loop_bit_by_bit(model):
    entries, names = cond(model), list(model.spec().cond)

    @torch.no_grad()
    def denoise(sample, timestep, conditions):
        given = [torch.from_numpy(np.ascontiguousarray(conditions[name])) for name in names]
        return model.denoise(torch.from_numpy(sample), torch.from_numpy(timestep), *given).numpy()

    uncond = {name: entry[None].detach().numpy() for name, entry in model.uncond().items()}
    noise = np.stack([gaussian(5 + n, INITIAL_NOISE, model.spec().sample_shape) for n in range(2)])
    conditions = {name: entry.numpy() for name, entry in zip(names, entries, strict=True)}
    coefficients = DDIMCoefficients.for_steps(model.schedule, 4)
    latents = torch.from_numpy(sample_loop(guide(denoise, uncond, 2.0), noise, conditions, coefficients))
    with torch.no_grad():
        expected = latents.clamp(-1, 1) if model.autoencoder is None else model.decode(latents)
    assert torch.equal(sample_images(model, entries, 5, 4, 2.0), expected)


def test_guidance_acts_at_the_timesteps_of_its_interval_alone(model):
    entries = cond(model)
    everywhere, nowhere = sample_images(model, entries, 5, 4, 2.0), sample_images(model, entries, 5, 4, 1.0)
    assert torch.equal(sample_images(model, entries, 5, 4, 2.0, guidance_interval=(0, 999)), everywhere)
    assert torch.equal(sample_images(model, entries, 5, 4, 2.0, guidance_interval=(1, 2)), nowhere)
    part = sample_images(model, entries, 5, 4, 2.0, guidance_interval=(0, 600))
    assert not torch.equal(part, everywhere) and not torch.equal(part, nowhere)


def test_every_solver_of_the_runtime_makes_pictures_of_its_own_and_rows_do_not_mix(model):
    entries = cond(model)
    pictures = {name: sample_images(model, entries, 5, 4, 2.0, name) for name in SOLVERS}
    assert all(picture.isfinite().all() for picture in pictures.values())
    assert not torch.equal(pictures["ddim"], pictures["dpm-solver++"])
    assert not torch.equal(pictures["unipc"], pictures["dpm-solver++"])
    second = sample_images(model, tuple(entry[1:] for entry in entries), 6, 4, 2.0, "unipc")
    assert torch.allclose(second[0], pictures["unipc"][1], atol=1e-4)
