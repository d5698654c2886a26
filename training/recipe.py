"""The whole training in order: draw the world, train each stage, write the checkpoint. Every part resumes.

cache → tokenizer → autoencoder, clip, estimators, identity, voice (independent of each other) → features → diffusion → checkpoint
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import diffusers
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import CLIPTokenizer

from runtime.errors import BundleError
from runtime.spec import ModelSpec
from training import checkpoint, features
from training.config import TrainConfig
from training.data.cache import CacheKey, WorldCache, build
from training.loop import Stage, train
from training.model import ENGINE_METHODS, ClipFaceFusion
from training.published import fill_slot
from training.stages.autoencoder import AutoencoderStage
from training.stages.clip import ClipStage
from training.stages.diffusion import DiffusionStage
from training.stages.estimators import EstimatorsStage
from training.stages.identity import IdentityStage
from training.stages.voice import VoiceStage
from training.tokenizer import train_tokenizer

FINAL = "final.safetensors"  # exists only when a stage is finished
ENCODER_STAGES = ("autoencoder", "clip", "estimators", "identity", "voice")
STAGES = (*ENCODER_STAGES, "diffusion")


def run(
    config: TrainConfig,
    name: str,
    out: Path,
    *,
    stages: Sequence[str],
    processes: int,
    published: Mapping[str, str] | None = None,
) -> None:
    """Train the given `stages` of `config` in `out`; when all are done, write `out/checkpoint`.

    Stages already finished in `out` are loaded, not trained again. `published` maps a slot of
    `training.published.SLOTS` to a folder of weights that replace it before its stage.
    """
    out.mkdir(parents=True, exist_ok=True)
    key = CacheKey(config.seed, config.people, config.shots, config.voices, config.model.image_size)
    cache = build(out / "world", key, processes)
    torch.manual_seed(config.seed)
    model = ClipFaceFusion(config.model, _tokenizer(config, cache, out / "tokenizer"))
    for slot, folder in (published or {}).items():
        fill_slot(model, slot, Path(folder))
    encoder_stages: dict[str, Callable[[], Stage]] = {
        "autoencoder": lambda: AutoencoderStage(model, cache),
        "clip": lambda: ClipStage(model, cache),
        "estimators": lambda: EstimatorsStage(model, cache),
        "identity": lambda: IdentityStage(model, cache),
        "voice": lambda: VoiceStage(model, cache),
    }
    for stage_name in ENCODER_STAGES:
        if stage_name == "autoencoder" and model.autoencoder is None:
            continue
        _finish_or_load(encoder_stages[stage_name](), config, out, wanted=stage_name in stages)
    if "diffusion" not in stages:
        return
    missing = [
        n
        for n in ENCODER_STAGES
        if not (out / n / FINAL).is_file() and not (n == "autoencoder" and model.autoencoder is None)
    ]
    if missing:
        raise BundleError(f"diffusion needs the finished stages {', '.join(missing)}; add them to --stages")
    stage = DiffusionStage(model, cache, features.build(out / "features.safetensors", model, cache))
    seconds = _finish_or_load(stage, config, out, wanted=True)
    provenance = {
        "preset": name,
        "weights": _licences(published or {}),
        "data": "synthetic faces and voices only, drawn by training/data/synthetic; no real person",
        "seed": config.seed,
        "people": config.people,
        "pictures": len(cache),
        "stages": {stage_name: asdict(settings) for stage_name, settings in config.stages.items()},
        "diffusion_seconds_of_last_run": round(seconds),
        "versions": {
            "torch": torch.__version__,
            "diffusers": diffusers.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
    }
    checkpoint.save(model, out / "checkpoint", provenance, torch.float16)


def _licences(published: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Per engine: ours where it was trained from nothing here, unknown where it started from somebody's weights."""
    started = {"autoencoder": ("encoder", "decoder")}
    foreign = {engine for slot in published for engine in started.get(slot, (slot,))}
    ours, theirs = (
        {"licence": "Apache-2.0", "commercial_use": "yes"},
        {"licence": "unknown", "commercial_use": "unknown"},
    )
    return {engine: theirs if engine in foreign else ours for engine in ENGINE_METHODS}


def _finish_or_load(stage: Stage, config: TrainConfig, out: Path, wanted: bool) -> float:
    """Load the stage's final weights, or train it now if it is wanted. Returns the seconds that took."""
    final = out / stage.name / FINAL
    start = time.monotonic()
    if final.is_file():
        stage.module.load_state_dict(load_file(final))
        stage.module.eval()
    elif wanted:
        train(stage, config.stages[stage.name], out / stage.name, precision=config.precision, seed=config.seed)
        if isinstance(stage, AutoencoderStage):
            stage.finish()
        partial = final.with_suffix(".partial")
        save_file({n: t.detach().clone().contiguous() for n, t in stage.module.state_dict().items()}, partial)
        partial.rename(final)
    return time.monotonic() - start


def _tokenizer(config: TrainConfig, cache: WorldCache, folder: Path) -> CLIPTokenizer:
    if not (folder / "tokenizer.json").is_file():
        texts = (text for wordings in cache.captions for text in wordings)
        train_tokenizer(texts, config.vocabulary, ModelSpec.text_length).save_pretrained(folder)
    return CLIPTokenizer.from_pretrained(str(folder))
