"""The whole training in order: read or draw the data, train each stage, write the checkpoint. Every part resumes by itself.

data → tokenizer → autoencoder → decoder → estimators, identity, clip, voice (independent of each other) → features
     → alignment → diffusion → consistency → checkpoint
"""

from __future__ import annotations

import hashlib
import json
import platform
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from safetensors.torch import load_file
from transformers import CLIPTokenizer

from runtime.errors import BundleError
from runtime.spec import ModelSpec
from training import checkpoint, features
from training.config import LossConfig, ModelConfig, TrainConfig
from training.data import cache, ingest, splits
from training.data.cache import WORLD, CacheKey, DataCache
from training.data.splits import Splits
from training.durable import publish, write_json, write_tensors
from training.labels import UnlabelledError
from training.loop import Stage, train
from training.model import ENGINE_METHODS, ClipFaceFusion
from training.processes import Processes
from training.published import fill_slot, read_tokenizer
from training.stages.alignment import AlignmentStage, was_aligned
from training.stages.autoencoder import AutoencoderStage
from training.stages.clip import ClipStage
from training.stages.consistency import ConsistencyStage
from training.stages.decoder import DecoderStage
from training.stages.diffusion import DiffusionStage
from training.stages.estimators import ESTIMATED, EstimatorsStage
from training.stages.identity import IdentityStage
from training.stages.voice import VoiceStage
from training.tokenizer import train_tokenizer

FINAL = "final.safetensors"  # exists only when a stage is finished
SETTINGS_FILE = "settings.json"  # what a finished stage was trained with; older runs have none
QUALITY_FILE = "quality.json"  # of a finished stage of PICTURE_STAGES
RUN_FILE = "run.json"
PICTURE_STAGES = ("autoencoder", "decoder")  # of latent models alone
ENCODER_STAGES = (*PICTURE_STAGES, "estimators", "identity", "clip", "voice")
STAGES = (*ENCODER_STAGES, "alignment", "diffusion", "consistency")
FED_BY_EXAMPLES = ("alignment", "diffusion", "consistency")  # they see what `never` leaves
SHOWN_AUTOENCODED = (
    "decoder",
    "estimators",
    "identity",
)  # they judge what comes out of the decoder, so they learn from it
REPLACED = {  # a stage whose networks are all given has nothing left to do
    "estimators": {"age_estimator", "emotion_estimator"},
    "identity": {"identity_encoder"},
    "clip": {"text_encoder", "image_encoder"},
    "voice": {"audio_encoder", "voice_emotion"},
}
FIXED = ("model", "mixture", "people", "shots", "voices", "vocabulary", "seed")  # what a run's folder cannot change


@dataclass(frozen=True)
class Start:
    """What a training begins from, besides its settings.

    `data` maps a source to its folder, or to None for the synthetic world; empty, it is the synthetic world. `base` is a checkpoint whose networks are all taken;
    `published` maps a slot of `training.published.SLOTS` to the weights that replace it. `vgg` holds VGG-16 for the perceptual
    loss, `face_pack` is a folder of insightface models that align photos, `splits` are files of `python -m training data splits`
    for some of the data sets. `workers` processes draw or decode the data.
    """

    data: Mapping[str, Path | None] = field(default_factory=dict)
    splits: Sequence[Path] = ()
    base: Path | None = None
    published: Mapping[str, Path] = field(default_factory=dict)
    vgg: Path | None = None
    face_pack: Path | None = None
    workers: int = 1


def resolve(config: TrainConfig, start: Start, stages: Collection[str] = ()) -> TrainConfig:
    """`config` as it will be used: the mixture cut to the data given, the model that of the base, if there is one.

    Where the base's decoder is trained, which is where `stages` has "decoder", it gets the preset's blocks.

    Raises BundleError for data that the mixture wants and nobody gave, ValueError for data without a share.
    """
    real = [source for source, share in config.mixture.items() if source != WORLD and share]
    if real and not start.data:
        places = " ".join(f"{source}=DIR" for source in real)
        raise BundleError(
            f"the mixture is of {', '.join(real)}; give --data {places}, some of them, or --data world for drawn faces"
        )
    config = config.sources(start.data.keys() or (WORLD,))
    if start.base is not None:
        model = ModelConfig.from_dict(checkpoint.read_settings(start.base)["model"])
        config = replace(config, model=_with_decoder_of(config.model, model) if "decoder" in stages else model)
    return config


def _with_decoder_of(preset: ModelConfig, model: ModelConfig) -> ModelConfig:
    """`model` with as many blocks in its decoder as `preset` has, where both have as many resolutions."""
    ours, its = preset.autoencoder, model.autoencoder
    if not ours or not its or len(ours["num_blocks"]) != len(its["num_blocks"]):
        return model
    blocks = ours.get("num_decoder_blocks", ours["num_blocks"])
    return (
        model
        if blocks == its.get("num_decoder_blocks", its["num_blocks"])
        else replace(model, autoencoder={**its, "num_decoder_blocks": blocks})
    )


def applicable(config: TrainConfig, start: Start) -> tuple[str, ...]:
    """The stages of a whole training, in order: none for an autoencoder that a pixel model does not have, or for networks given."""
    left_out = {stage for stage, slots in REPLACED.items() if start.published.keys() >= slots}
    if config.model.autoencoder is None:
        left_out |= set(PICTURE_STAGES)
    return tuple(name for name in STAGES if name not in left_out)


def needs(name: str, config: TrainConfig, start: Start) -> tuple[str, ...]:
    """The stages that must be finished before stage `name`, or be replaced by a base checkpoint."""
    if start.base is not None:
        return ()
    earlier = tuple(other for other in applicable(config, start) if STAGES.index(other) < STAGES.index(name))
    if name in ENCODER_STAGES:
        return tuple(other for other in earlier if other in PICTURE_STAGES and name in SHOWN_AUTOENCODED)
    return earlier


def run(
    config: TrainConfig,
    name: str,
    out: Path,
    *,
    stages: Sequence[str] | None = None,
    start: Start | None = None,
    resume: bool = True,
) -> None:
    """Train `stages` (default: all) of preset `name`, changed to `config`, in folder `out`.

    Stages that are finished in `out` are loaded, not trained again. `out/checkpoint` is written once diffusion is finished, or
    at once where a base checkpoint is given. Raises BundleError when a stage lacks what it needs, or `out` holds another run, or,
    without `resume`, any run.
    """
    start = start or Start()
    finished = {stage for stage in STAGES if (out / stage / FINAL).is_file()}
    config = resolve(config, start, finished.union(stages or STAGES))
    wanted = applicable(config, start) if stages is None else tuple(stages)
    _check(wanted, config, out, start)
    divided = _splits(start)
    processes = Processes()
    if processes.is_main:
        if (out / RUN_FILE).exists() and not resume:
            raise BundleError(f"{out} already holds a run; add --resume to go on, or choose another --out")
        _remember(out, name, config, start)
    processes.wait()
    with processes.main_first():
        data = _data(config, out, start, divided)
        if processes.is_main:
            _remember_data(out, config, data)
        model = _model(config, data, out, start).to(processes.device)
    encoders: dict[str, Callable[[], Stage]] = {
        "autoencoder": lambda: AutoencoderStage(model, data),
        "decoder": lambda: DecoderStage(model, data),
        "estimators": lambda: EstimatorsStage(model, data, to_be_trained(start)),
        "identity": lambda: IdentityStage(model, data),
        "clip": lambda: ClipStage(model, data),
        "voice": lambda: VoiceStage(model, data),
    }
    for stage_name, make in encoders.items():
        try:
            _finish_or_load(stage_name, make, config, out, wanted)
        except UnlabelledError as error:
            if start.base is None and not start.published.keys() >= REPLACED.get(stage_name, {stage_name}):
                raise
            if processes.is_main:
                print(f"{stage_name} is left out and its networks stay as they were given: {error}")
    judged: dict[str, Any] = {}
    later = [n for n in STAGES[len(ENCODER_STAGES) :] if n in wanted or (out / n / FINAL).is_file()]
    if later:
        with processes.main_first():
            frozen = features.build(out / "features.safetensors", model, data)

        def judging() -> LossConfig:  # a finished stage's weights hold heads for the losses it was trained with
            return LossConfig(**_trained_with(out, ConsistencyStage.name, config)["losses"])

        builders: dict[str, Callable[[], Stage]] = {
            "alignment": lambda: AlignmentStage(model, data, frozen, config.never),
            "diffusion": lambda: DiffusionStage(model, data, frozen, config.never),
            "consistency": lambda: ConsistencyStage(model, data, frozen, judging(), config.never, start.vgg),
        }
        for stage_name in later:
            try:
                stage = _finish_or_load(stage_name, builders[stage_name], config, out, wanted)
            except UnlabelledError as error:  # alignment, of data in which nothing would ever pass its modules
                if processes.is_main:
                    print(f"{stage_name} is left out: {error}")
                continue
            if isinstance(stage, ConsistencyStage):
                judged = {"losses": asdict(stage.config), "perceptual": stage.consistency.perceptual_source}
    if processes.is_main and (start.base is not None or (out / "diffusion" / FINAL).is_file()):
        provenance = _provenance(config, name, out, start, data) | _split_statement(divided) | judged
        checkpoint.save(model.cpu(), out / "checkpoint", provenance, torch.float16)
        print(f"wrote {out / 'checkpoint'}")
    processes.wait()


def _check(wanted: Sequence[str], config: TrainConfig, out: Path, start: Start) -> None:
    """Raise BundleError before anything is done if a wanted stage cannot be."""
    check_stages(wanted, config)
    for stage_name in wanted:
        missing = [n for n in needs(stage_name, config, start) if n not in wanted and not (out / n / FINAL).is_file()]
        if missing:
            raise BundleError(
                f"{stage_name} needs the finished stages {', '.join(missing)}; run them first with --stages {' '.join(missing)}, "
                "or take all networks from a checkpoint with --from"
            )
    is_judged_by_the_base = "consistency" in wanted and "alignment" not in wanted
    if start.base is not None and is_judged_by_the_base and not was_aligned(_provenance_of(start.base)):
        raise BundleError(
            f"consistency needs attribute modules that were aligned, and {start.base} was trained without; "
            "use --stages alignment diffusion consistency"
        )


def check_stages(wanted: Sequence[str], config: TrainConfig) -> None:
    """Raise BundleError for a stage that the model has nothing for, or the preset no settings."""
    for name in wanted:
        if name in PICTURE_STAGES and config.model.autoencoder is None:
            raise BundleError(f"{name}: this preset's model works on pixels and has none; leave the stage out")
        if name not in config.stages:
            raise BundleError(
                f"{name}: this preset has no settings for it, only for {', '.join(config.stages)}; choose another preset, or leave the stage out"
            )


def _provenance_of(base: Path) -> dict[str, Any]:
    return checkpoint.read_settings(base)["provenance"]


def remembered(name: str, config: TrainConfig, start: Start) -> dict[str, Any]:
    """What `run.json` says of a run, as JSON reads it back."""
    said = {
        "preset": name,
        "stages": applicable(config, start),
        "settings": asdict(config),
        "from": None if start.base is None else checkpoint.checkpoint_sha256(start.base),
        "published": {slot: str(folder) for slot, folder in start.published.items()},
        "vgg": None if start.vgg is None else start.vgg.name,
        "face_pack": None if start.face_pack is None else start.face_pack.name,
        "splits": sorted(hashlib.sha256(path.read_bytes()).hexdigest() for path in start.splits),
        "data": {},  # the hash of every source, once it is read
    }
    return json.loads(json.dumps(said))


def _remember(out: Path, name: str, config: TrainConfig, start: Start) -> None:
    """Write `run.json`, or compare it with what this run would write."""
    now = remembered(name, config, start)
    path = out / RUN_FILE
    if path.is_file():
        before = json.loads(path.read_text())
        now["data"] = before.get("data", {})
        for key in FIXED:
            if before["settings"][key] != now["settings"][key]:
                raise BundleError(f"{out} holds a run with another {key}; choose another --out")
        if before["from"] != now["from"] or before["published"].keys() != now["published"].keys():
            raise BundleError(
                f"{out} holds a run that began from other weights (--from or --published); repeat them, or choose another --out"
            )
        if before.get("face_pack") != now["face_pack"]:
            raise BundleError(
                f"{out} holds a run on photos that were framed otherwise (--face-pack); repeat its folder, or choose another --out"
            )
        if before.get("splits", []) != now["splits"]:
            raise BundleError(
                f"{out} holds a run on other people (--splits); repeat its files, or choose another --out"
            )
        if before["vgg"] != now["vgg"] and (out / "consistency").exists():
            raise BundleError(
                f"{out / 'consistency'} was begun with --vgg {before['vgg']}, not {now['vgg']}; repeat it, or delete that folder"
            )
        for change in _changes(before["settings"], now["settings"]):
            print(f"changed since this run was last started: {change}")
    out.mkdir(parents=True, exist_ok=True)
    write_json(path, now)


def _remember_data(out: Path, config: TrainConfig, data: DataCache) -> None:
    """Add the hash of every source to `run.json`, and say what differs from last time or from what was asked."""
    said = json.loads((out / RUN_FILE).read_text())
    for source, sha256 in data.contents.items():
        if said["data"].get(source, sha256) != sha256:
            print(f"changed since this run was last started: the content of {source}; no stage was begun with the old")
    write_json(out / RUN_FILE, said | {"data": data.contents})
    if empty := [source for source in data.sources if config.mixture[source] and not data.shares[source]]:
        shares = ", ".join(f"{source} {share:.1%}" for source, share in data.shares.items() if share)
        print(f"targets are drawn from {shares}; {', '.join(empty)} has no picture, so the others take its share")


def _expected(out: Path) -> dict[str, str]:
    """Per source the sha256 of what stages of `out` were trained on, as far as any was begun."""
    if not any((out / stage).exists() for stage in STAGES):
        return {}
    said: dict[str, str] = json.loads((out / RUN_FILE).read_text())["data"]
    return said


def _changes(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key in sorted(before.keys() | now.keys()):
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            found += _changes(old, new, f"{prefix}{key}.")
        elif old != new:
            found.append(f"{prefix}{key} {old} → {new}")
    return found


def _splits(start: Start) -> dict[str, Splits]:
    """The division of every source that a file of `start.splits` speaks of. Raises BundleError for two of one, or one of none."""
    found: dict[str, Splits] = {}
    for path in start.splits:
        divided = splits.load(path)
        for source in divided.sides:
            if source in found or start.data.get(source) is None:
                why = "another file does so too" if source in found else f"--data has no {source}=DIR"
                raise BundleError(f"--splits: {path} divides {source}, but {why}; leave one of them out")
            found[source] = divided
    return found


def _data(config: TrainConfig, out: Path, start: Start, divided: Mapping[str, Splits]) -> DataCache:
    """Every source of the mixture, drawn or decoded into a folder of `out` where that is not done yet."""
    size, expected = config.model.image_size, _expected(out)
    folders = []
    for name in config.mixture:
        root, folder = start.data.get(name), out / "data" / name
        if root is None:
            key = CacheKey(config.seed, config.people, config.shots, config.voices, size)
            cache.build(folder, key, start.workers)
        else:
            source = ingest.Source(name, root, size, face_pack=start.face_pack)
            ingest.build(folder, source, start.workers, divided.get(name), expected.get(name))
        folders.append(folder)
    return cache.DataCache(*folders, mixture=config.mixture)


def _model(config: TrainConfig, data: DataCache, out: Path, start: Start) -> ClipFaceFusion:
    """The networks before any stage of this run."""
    if start.base is not None:
        model = checkpoint.load(start.base)
        if model.autoencoder is not None and config.model.autoencoder != model.config.autoencoder:
            assert config.model.autoencoder is not None
            model.autoencoder.deepen(config.model.autoencoder)
            model.config = config.model
    else:
        torch.manual_seed(config.seed)
        model = ClipFaceFusion(config.model, _tokenizer(config, data, out / "tokenizer", start))
    for slot, place in start.published.items():
        fill_slot(model, slot, place)
    if config.gradient_checkpointing:
        model.unet.enable_gradient_checkpointing()
    return model


def to_be_trained(start: Start) -> list[str]:
    """Which of the two face estimators: those not given; both, where both are and the stage is wanted all the same."""
    own = [name for name in ESTIMATED if f"{name}_estimator" not in start.published]
    return own or list(ESTIMATED)


def _tokenizer(config: TrainConfig, data: DataCache, folder: Path, start: Start) -> CLIPTokenizer:
    """The published text encoder's own, or one learned from the captions."""
    if "text_encoder" in start.published:
        return read_tokenizer(start.published["text_encoder"])
    if not folder.is_dir():
        partial = folder.with_name(f"{folder.name}.partial")
        texts = (text for wordings in data.captions for text in wordings)
        train_tokenizer(texts, config.vocabulary, ModelSpec.text_length).save_pretrained(partial)
        publish(partial, folder)
    return CLIPTokenizer.from_pretrained(str(folder))


def _finish_or_load(
    name: str, make: Callable[[], Stage], config: TrainConfig, out: Path, wanted: Sequence[str]
) -> Stage | None:
    """The stage with its final weights in the model: from its file, or by training it now if it is wanted; else None."""
    final, processes = out / name / FINAL, Processes()
    if name not in wanted and not final.is_file():
        return None
    # A stage may have heads of its own, which must start alike whether the stages before it were trained or loaded.
    torch.manual_seed(zlib.crc32(f"{config.seed} {name}".encode()))
    stage = make()
    if not final.is_file():
        train(
            stage, config.stages[name], out / name, precision=config.precision, seed=config.seed, preview=config.preview
        )
        if processes.is_main:
            if isinstance(stage, AutoencoderStage | DecoderStage):
                write_json(out / name / QUALITY_FILE, {"psnr_db": stage.finish()})
            write_json(out / name / SETTINGS_FILE, _settings(name, config))
            write_tensors(final, stage.module.state_dict())
        processes.wait()
    stage.module.to(processes.device).load_state_dict(load_file(final))
    stage.module.eval()
    return stage


def _settings(name: str, config: TrainConfig) -> dict[str, Any]:
    """Of `config` what stage `name` is trained with, as JSON."""
    said: dict[str, Any] = {"stage": {**asdict(config.stages[name]), "precision": config.precision}}
    if name in FED_BY_EXAMPLES:
        said["never"] = list(config.never)
    if name == ConsistencyStage.name:
        said["losses"] = asdict(config.losses)
    return said


def _trained_with(out: Path, name: str, config: TrainConfig) -> dict[str, Any]:
    """The `_settings` of a stage: those it was finished with, this command's where it is not finished or nobody wrote them down."""
    path = out / name / SETTINGS_FILE
    if not (out / name / FINAL).is_file() or not path.is_file():
        return _settings(name, config)
    said: dict[str, Any] = json.loads(path.read_text())
    return said


def _provenance(config: TrainConfig, name: str, out: Path, start: Start, data: DataCache) -> dict[str, Any]:
    """What the checkpoint was trained on, from and with; copied into every bundle."""
    trained = {stage: _trained_with(out, stage, config) for stage in STAGES if (out / stage / FINAL).is_file()}
    base = None if start.base is None else _provenance_of(start.base)
    quality = [out / stage / QUALITY_FILE for stage in PICTURE_STAGES if stage in trained]
    return {
        "preset": name,
        "weights": _licences(start, base),
        "data": _data_statement(start),
        "mixture": dict(config.mixture),
        "target_shares": data.shares,
        "never_seen": _never_seen(trained, base),
        "seed": config.seed,
        "people": config.people if WORLD in config.mixture else None,
        "pictures": len(data),
        "stages": {stage: said["stage"] for stage, said in trained.items()},
        "autoencoder_psnr_db": json.loads(quality[-1].read_text())["psnr_db"] if quality else None,
        "started_from": None
        if start.base is None
        else {"sha256": checkpoint.checkpoint_sha256(start.base), "provenance": base},
        "published": sorted(start.published),
        "versions": {
            "torch": torch.__version__,
            "diffusers": diffusers.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
    }


def _never_seen(trained: Mapping[str, Any], base: Mapping[str, Any] | None) -> list[str]:
    """What the stage that trained UNet and fusion last was never given; the base's where this run trained neither."""
    generators = [said for stage, said in trained.items() if stage in ("diffusion", "consistency")]
    return list(generators[-1]["never"] if generators else (base or {}).get("never_seen", []))


def _split_statement(divided: Mapping[str, Splits]) -> dict[str, Any]:
    """By source how its people were divided, where a file says so."""
    said = {
        source: {"seed": its.seed, "test_fraction": its.test_fraction, "counts": its.counts()[source]}
        for source, its in divided.items()
    }
    return {"splits": said} if said else {}


def _data_statement(start: Start) -> str:
    real = sorted(source for source in start.data if source != WORLD)
    if not real:
        return "synthetic faces and voices only, drawn by training/data/synthetic; no real person"
    return f"pictures and recordings that may show real people: {', '.join(real)}; their licences and consents apply"


def _licences(start: Start, base: Mapping[str, Any] | None) -> dict[str, dict[str, str]]:
    """Per engine: the base's; unknown where somebody's weights or data are in it; ours where all of it was made here."""
    ours, unknown = (
        {"licence": "Apache-2.0", "commercial_use": "yes"},
        {"licence": "unknown", "commercial_use": "unknown"},
    )
    made_here = start.data.keys() <= {WORLD}
    licences = dict.fromkeys(ENGINE_METHODS, ours if made_here else unknown)
    if base is not None and made_here:
        licences = {engine: base.get("weights", {}).get(engine, unknown) for engine in ENGINE_METHODS}
    engines_of = {"autoencoder": ("encoder", "decoder"), "voice_emotion": ("audio_encoder",)}
    foreign = {engine for slot in start.published for engine in engines_of.get(slot, (slot,))}
    if start.vgg is not None:
        foreign |= {"unet", "fusion"}  # its published weights shaped their gradients
    return licences | dict.fromkeys(foreign, unknown)
