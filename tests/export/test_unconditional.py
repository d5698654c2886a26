"""diffusers' unconditional pipelines, as published: bundle, picture, and the same picture as diffusers' own DDIM. Small, random weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline, DDPMScheduler, LDMPipeline, UNet2DModel

from export.__main__ import main
from export.bundle import export_bundle
from runtime.__main__ import main as runtime_main
from runtime.errors import BundleError, RequestError
from runtime.manifest import Manifest
from runtime.noise import INITIAL_NOISE, gaussian
from runtime.pipeline import Pipeline
from runtime.request import GenerateRequest
from runtime.serving.repository import build_repository
from tests.export.test_published import CELEBAHQ
from tests.training.test_published import AUTOENCODERS

SEED, STEPS = 5, 4


def unet(**settings: object) -> UNet2DModel:
    torch.manual_seed(0)
    own = {k: v for k, v in CELEBAHQ.items() if k not in ("_class_name", "class_embed_type")}
    return UNet2DModel(**{**own, **settings}).eval()


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As google/ddpm-ema-celebahq-256 is: a UNet and DDPM's scheduler."""
    folder = tmp_path_factory.mktemp("unconditional") / "ddpm"
    DDPMPipeline(unet(), DDPMScheduler()).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def bundle(pipeline: Path) -> Path:
    export_bundle(pipeline, pipeline.parent / "bundle")
    return pipeline.parent / "bundle"


def test_it_draws_what_diffusers_ddim_draws(pipeline: Path, bundle: Path) -> None:
    network = UNet2DModel.from_pretrained(pipeline / "unet").eval()
    scheduler = DDIMScheduler.from_pretrained(pipeline / "scheduler")
    scheduler.set_timesteps(STEPS)
    sample = torch.from_numpy(gaussian(SEED, INITIAL_NOISE, (3, 32, 32)))[None]
    with torch.no_grad():
        for timestep in scheduler.timesteps:
            sample = scheduler.step(network(sample, timestep).sample, timestep, sample).prev_sample
    expected = np.rint((sample[0].clamp(-1, 1).numpy().transpose(1, 2, 0) + 1) * 127.5)
    with Pipeline.open(bundle) as drawn:
        result = drawn(GenerateRequest(seed=SEED, num_inference_steps=STEPS, needs_condition=False))
    assert np.abs(result.image - expected).max() <= 1
    assert result.report["conditions"] == [] and result.report["guidance_scale"] == 1


def test_the_bundle_holds_one_engine_no_words_and_where_it_came_from(bundle: Path) -> None:
    manifest = Manifest.read(bundle)
    assert list(manifest.engines) == ["unet"] and manifest.model.cond == {} and "tokenizer.json" not in manifest.files
    assert [tensor.name for tensor in manifest.engines["unet"].inputs] == ["sample", "timestep"]
    assert manifest.training["pipeline"] == "DDPMPipeline"
    assert runtime_main(["verify", str(bundle)]) == 0


def test_conditions_are_refused_by_name_and_so_is_serving(bundle: Path, tmp_path: Path) -> None:
    with Pipeline.open(bundle) as drawn, pytest.raises(RequestError, match="text: this bundle draws from noise alone"):
        drawn(GenerateRequest(text="a man"))
    with pytest.raises(BundleError, match="draws from noise alone, and the served models take conditions"):
        build_repository(bundle, tmp_path / "models")


def test_from_the_command_line_it_takes_a_seed_and_nothing_else(bundle: Path, tmp_path: Path) -> None:
    flags = ["generate", str(bundle), "--seed", "7", "--steps", "2", "--out", str(tmp_path / "face.png")]
    assert runtime_main(flags) == 0 and (tmp_path / "face.png").is_file()
    assert runtime_main([*flags, "--age", "30"]) == 2


def test_files_beside_the_index_are_read_as_the_first_pipelines_were_published(pipeline: Path, tmp_path: Path) -> None:
    from training.unconditional import Unconditional

    for path in (pipeline / "model_index.json", *(pipeline / "unet").iterdir(), *(pipeline / "scheduler").iterdir()):
        shutil.copyfile(path, tmp_path / path.name)
    flat, nested = Unconditional.read(tmp_path), Unconditional.read(pipeline)
    assert flat.schedule == nested.schedule and flat.spec() == nested.spec()
    assert torch.equal(flat.unet.conv_out.weight, nested.unet.conv_out.weight)


def test_a_latent_pipeline_has_its_autoencoder_in_the_bundle(tmp_path: Path) -> None:
    network = unet(sample_size=8, in_channels=4, out_channels=4, block_out_channels=[8, 16], layers_per_block=1,
                   down_block_types=["DownBlock2D", "AttnDownBlock2D"], up_block_types=["AttnUpBlock2D", "UpBlock2D"])  # fmt: skip
    schedule = DDIMScheduler(clip_sample=False, beta_schedule="scaled_linear", timestep_spacing="trailing")
    LDMPipeline(AUTOENCODERS["vq"]().eval(), network, schedule).save_pretrained(tmp_path / "ldm")
    manifest = export_bundle(tmp_path / "ldm", tmp_path / "bundle")
    assert list(manifest.engines) == ["unet", "encoder", "decoder"]
    with Pipeline.open(tmp_path / "bundle") as drawn:
        assert drawn(GenerateRequest(seed=1, num_inference_steps=2, needs_condition=False)).image.shape == (32, 32, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text_encoder": ["transformers", "CLIPTextModel"]}, "only unconditional pipelines are exported"),
        ({"unet": [None, None]}, "only unconditional pipelines are exported"),
    ],
)
def test_other_pipelines_are_refused_with_the_way_out(
    pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict, message: str
) -> None:
    folder = shutil.copytree(pipeline, tmp_path / "pipeline")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | change))
    assert main([str(folder), str(tmp_path / "bundle")]) == 1
    error = capsys.readouterr().err
    assert message in error and "--published unet=DIR" in error


def test_a_unet_that_predicts_more_than_noise_is_refused(tmp_path: Path) -> None:
    DDIMPipeline(unet(out_channels=6), DDIMScheduler()).save_pretrained(tmp_path / "learned")
    with pytest.raises(BundleError, match="3 channels in, 6 out"):
        export_bundle(tmp_path / "learned", tmp_path / "bundle")
    DDIMPipeline(unet(), DDIMScheduler(thresholding=True)).save_pretrained(tmp_path / "thresholded")
    with pytest.raises(BundleError, match="cannot load the pipeline: scheduler config: thresholding"):
        export_bundle(tmp_path / "thresholded", tmp_path / "bundle")
