"""A checkpoint becomes a bundle: every engine frozen and compared with torch, every file hashed, all of it or nothing.

It knows the order of the work and what the manifest says. The manifest's format, and its reading, are the runtime's.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from safetensors.numpy import save

from export.exportable import Exportable
from export.face_pack import ENGINE as PACK_ENGINE
from export.face_pack import FacePackNetwork
from export.memory import budget, weight_bytes
from export.overflow import WatchedEngine
from export.parity import Answer, Parity, TorchEngine, answers, measure
from export.precision import kept_in_fp32, summary
from export.reference import ReferenceInputs
from export.rounded import rounded
from export.storage import store_as_fp16
from export.targets import Targets
from export.to_fp16 import to_fp16
from export.to_onnx import serialize, to_onnx
from export.to_plan import Compiler
from export.trajectories import conditions, exercise
from runtime.bundle import Bundle
from runtime.engines import Engine
from runtime.engines.ort import OrtEngine
from runtime.engines.trt import TrtEngine
from runtime.errors import BundleError
from runtime.ladder import LIMITS, ROUNDING, SEED, WALKS, Check, Course, Reference, Sensitivity, checks, limits_to_dict
from runtime.manifest import (
    CONSTANTS,
    FORMAT_VERSION,
    MANIFEST_FILE,
    ONNX,
    ONNX_FP16,
    PARITY,
    RANGES,
    SAMPLES,
    TOKENIZER,
    Manifest,
    onnx_file,
    sha256_of,
)
from runtime.noise import INITIAL_NOISE, gaussian
from runtime.plans import EXECUTED, FLAVOURS, PARSED, Plan
from runtime.spec import SOURCES, EngineSpec, engine_specs
from training.checkpoint import checkpoint_sha256, load, read_settings
from training.model import ClipFaceFusion
from training.unconditional import Unconditional, is_pipeline
from training.unconditional import provenance as pipeline_provenance

WALKERS = ("unet", "decoder")  # the engines that the rungs above single calls need
THREADS = 2  # what most machines have at least; torch is most of the time of a large export
PACKAGES = ("torch", "onnx", "onnxscript", "onnxruntime", "diffusers", "transformers", "numpy")
PRECISION = {
    True: "fp32 compute, weights stored as fp16 where that is exact",
    False: "fp32 compute, weights stored as fp32",
}
FP16_PRECISION = "fp16 compute and weights, fp32 for the nodes that `fp16` counts"
UNKNOWN_WEIGHTS = {"licence": "unknown", "commercial_use": "unknown"}
ADVICE = {
    ONNX: "Look for an operation that the exporter changes (in-place, data-dependent)",
    ONNX_FP16: "Keep more of the network in FP32 (export/precision.py), or leave the target out",
    **dict.fromkeys(FLAVOURS, "Leave this target out, and report what `python -m runtime gpu-verify` finds"),
}
Progress = Callable[[str], None]
Model = ClipFaceFusion | Unconditional


def export_bundle(
    checkpoint: Path,
    bundle: Path,
    samples: Path | None = None,
    name: str | None = None,
    fp16_weights: bool = True,
    targets: Targets | None = None,
    allow_parity_miss: bool = False,
    timing_cache: Path | None = None,
    face_pack: Path | None = None,
    progress: Progress = lambda line: None,
) -> Manifest:
    """Export the checkpoint folder, or an unconditional pipeline of diffusers, to the bundle folder; returns the manifest written there.

    The bundle appears complete or not at all: it is built and opened beside its place, then moved there; an older bundle at that
    place is replaced. `samples` is a folder of example files to carry along, `name` (default: the folder's) what reports call it,
    `timing_cache` a file that TensorRT's builds share, `face_pack` an insightface pack whose ArcFace network takes the place of the
    checkpoint's `identity_encoder`. `progress` gets one line per piece of work.

    Raises BundleError if an engine misses a parity limit (with `allow_parity_miss` the bundle is written and says so), if `bundle` is
    something other than a bundle, if `checkpoint` is not a checkpoint, or if a target cannot be built on this machine.
    """
    checkpoint, bundle, targets = Path(checkpoint), Path(bundle).absolute(), targets or Targets()
    refuse_foreign(bundle)
    compilers = open_compilers(targets, timing_cache)  # what is missing is said before minutes of work
    pack = None if face_pack is None else FacePackNetwork.read(face_pack)
    model = Unconditional.read(checkpoint) if is_pipeline(checkpoint) else load(checkpoint)
    if pack is not None and not model.spec().cond:
        raise BundleError(
            "face pack: this pipeline draws from noise alone, and asks nobody's identity; leave --face-pack out"
        )
    bundle.parent.mkdir(parents=True, exist_ok=True)
    with fixed_threads(), tempfile.TemporaryDirectory(dir=bundle.parent, prefix=f".{bundle.name}.") as scratch:
        work = Work(model, Path(scratch) / "bundle", Path(scratch) / "fp32", allow_parity_miss, progress, pack)
        work.folder.mkdir()
        if samples is not None:
            copy_samples(samples, work.folder / SAMPLES)
        write_fp32(work, fp16_weights)
        reference = write_reference(work)
        climb(work, ONNX, work.walkers(ONNX), reference)
        if targets.fp16:
            write_fp16(work, reference)
        for compiler in compilers:
            write_plans(work, compiler, reference)
        write_constants(model, work.folder)
        if work.spec.cond:
            shutil.copyfile(checkpoint / "tokenizer" / "tokenizer.json", work.folder / TOKENIZER)
        manifest = describe(work, name or bundle.name, checkpoint, fp16_weights)
        manifest.write(work.folder)
        Bundle.open(work.folder).close()  # what the runtime would refuse is not delivered
        if bundle.exists():
            bundle.rename(Path(scratch) / "replaced")
        work.folder.rename(bundle)
    return manifest


@dataclass
class Work:
    """One export under way: where it writes, and what it has found out for the manifest so far.

    folder  becomes the bundle. fp32: the FP32 networks with FP32 weights, which every other form is made from; not delivered
    """

    model: Model
    folder: Path
    fp32: Path
    allow_parity_miss: bool
    progress: Progress
    pack: FacePackNetwork | None = None
    references: dict[str, np.ndarray] = field(default_factory=dict)
    parity: dict[str, dict[str, Any]] = field(default_factory=dict)
    missed: list[str] = field(default_factory=list)
    fp16: dict[str, dict[str, Any]] = field(default_factory=dict)
    memory: dict[str, dict[str, Any]] = field(default_factory=dict)
    plans: list[Plan] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.spec = self.model.spec()
        if self.pack is not None:
            self.spec = replace(self.spec, identity_size=self.pack.size)
        self.specs = engine_specs(self.spec)
        self.inputs = ReferenceInputs.of(self.model)
        uncond = {entry: values.numpy() for entry, values in self.model.uncond().items()}
        self.course = Course(self.model.schedule, uncond, self.model.config.guidance_scale, self.spec.sample_shape)
        own = [spec for spec in self.specs.values() if self.pack is None or spec.name != PACK_ENGINE]
        self.exportables = {spec.name: Exportable(self.model, spec) for spec in own}
        self.torch: dict[str, Engine] = {name: TorchEngine(engine) for name, engine in self.exportables.items()}
        if self.pack is not None:
            self.torch[PACK_ENGINE] = self.pack.reference(self.specs[PACK_ENGINE])
        self._expected: dict[str, list[Answer]] = {}

    def trace(self, spec: EngineSpec) -> onnx.ModelProto:
        """The engine's FP32 network: of a network of the checkpoint traced, of a face pack copied."""
        if self.pack is not None and spec.name == PACK_ENGINE:
            return self.pack.adapted(spec)
        return to_onnx(self.exportables[spec.name])

    def expected(self, engine: str) -> list[Answer]:
        """Torch's answers to the cases of parity; a large network takes seconds over them, and every form of it is held against the same."""
        if engine not in self._expected:
            self._expected[engine] = answers(self.torch[engine], self.inputs)
        return self._expected[engine]

    def walkers(self, kind: str) -> dict[str, Engine]:
        """The written networks of a kind that walk the ladder, loaded as the runtime loads them."""
        found = {name: self.specs[name] for name in WALKERS if name in self.specs}
        return {name: OrtEngine(self.folder / onnx_file(name, kind), spec) for name, spec in found.items()}

    def network(self, engine: str) -> onnx.ModelProto:
        """The FP32 network with FP32 weights."""
        return onnx.load(self.fp32 / f"{engine}.onnx")

    def judge(self, kind: str, found: Sequence[Check]) -> None:
        """BundleError for the worst miss, or a note of all of them where that is allowed."""
        missed = [check for check in found if not check.holds]
        if missed and not self.allow_parity_miss:
            more = f" and {len(missed) - 1} more" if len(missed) > 1 else ""
            raise BundleError(
                f"{kind} misses parity with torch: {missed[0]}{more}; no bundle was written. {ADVICE[kind]}; "
                "--allow-parity-miss writes the bundle all the same, marked"
            )
        self.missed += [f"{kind}: {check}" for check in missed if f"{kind}: {check}" not in self.missed]

    @contextmanager
    def timed(self, line: str) -> Iterator[None]:
        """Report a piece of work when it is done."""
        start = time.monotonic()
        yield
        self.progress(f"{line:<52}{time.monotonic() - start:8.1f} s")


@contextmanager
def fixed_threads() -> Iterator[None]:
    """Torch on as many threads on every machine: the order of its sums, and so the last bits of what a bundle stores, depends on how many there are."""
    threads = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def open_compilers(targets: Targets, timing_cache: Path | None) -> list[Compiler]:
    """One for each flavour that is asked for. Raises BundleError for a missing library or GPU, or a cache that nothing would use."""
    if timing_cache is not None and not targets.tensorrt:
        raise BundleError(
            "timing cache: only the target tensorrt measures kernels when it builds; leave --timing-cache out"
        )
    compilers = [Compiler.rtx(targets.rtx)] if targets.rtx else []
    return [*compilers, Compiler.tensorrt(timing_cache)] if targets.tensorrt else compilers


def write_fp32(work: Work, fp16_weights: bool) -> None:
    """Trace every engine: the ONNX file of the bundle, the FP32 one beside it, and the first rung of the ladder.

    The case stored for `verify` is the smallest one, which any machine repeats in seconds, and which keeps the bundle small.
    """
    work.fp32.mkdir(parents=True)
    (work.folder / ONNX).mkdir()
    reached = {}
    for spec in work.specs.values():
        with work.timed(f"{ONNX} {spec.name}"):
            model = work.trace(spec)
            (work.fp32 / f"{spec.name}.onnx").write_bytes(serialize(model))
            work.memory[spec.name] = {
                "weight_bytes": {ONNX: weight_bytes(model)},
                "context_bytes": budget(model, spec, work.inputs),
            }
            if fp16_weights:
                store_as_fp16(model)
            path = work.folder / onnx_file(spec.name)
            path.write_bytes(serialize(model))
            expected = work.expected(spec.name)
            reached[spec.name] = measure_engine(OrtEngine(path, spec), expected)
            smallest = expected[0]
            work.references |= {f"{spec.name}.input.{tensor}": values for tensor, values in smallest.inputs.items()}
            work.references |= {f"{spec.name}.output.{tensor}": values for tensor, values in smallest.outputs.items()}
        work.judge(ONNX, engine_checks(ONNX, spec.name, reached[spec.name]))
    work.parity[ONNX] = {"engines": {engine: parity.to_dict() for engine, parity in reached.items()}}


def measure_engine(engine: Engine, expected: Sequence[Answer]) -> Parity:
    """Parity of an engine that is needed for nothing else."""
    try:
        return measure(engine, expected)
    finally:
        engine.close()


def engine_checks(kind: str, engine: str, reached: Parity) -> list[Check]:
    """The first rung alone, of one engine."""
    return [Check("engine", engine, "relative error", reached.to_dict()["relative_error"], LIMITS[kind].engine)]


def write_reference(work: Work) -> Reference:
    """Torch's walk, and `parity.safetensors`: of the walk what `verify` needs, and one case of each engine."""
    with work.timed("torch walks the ladder"):
        cond = conditions(work.torch, work.inputs, SEED, SOURCES)
        start = gaussian(SEED, INITIAL_NOISE, work.spec.sample_shape)[None]
        reference = work.course.reference(work.torch, start, cond)
        (work.folder / PARITY).write_bytes(save({**work.references, **reference.thinned().to_tensors()}))
    return reference


def climb(work: Work, kind: str, engines: Mapping[str, Engine], reference: Reference) -> None:
    """The rungs above single engines, for engines that are closed afterwards.

    Where a walk misses, torch walks again, one rounding off: what torch hardly reaches itself cannot be asked of a network.
    """
    with work.timed(f"{kind} walks the ladder"):
        figures = {
            "limits": limits_to_dict(LIMITS[kind]),
            **work.parity[kind],
            **work.course.measure(engines, reference),
        }
        work.parity[kind] = figures
        for engine in engines.values():
            engine.close()
    found = list(checks(figures, LIMITS[kind]))
    if any(check.rung in WALKS and not check.holds for check in found):
        with work.timed(f"torch against itself, one {kind} rounding off"):
            own = work.course.sensitivity(work.torch, reference, ROUNDING[kind])
        judged = list(checks(figures, LIMITS[kind], own))
        if judged != found:  # torch comes no nearer, or hardly
            figures["sensitivity"], found = own.to_dict(), judged
    work.judge(kind, found)


def write_fp16(work: Work, reference: Reference) -> None:
    """FP16 networks, the ranges that decided what stays in FP32, and their whole ladder with every FP16 tensor rounded."""
    with work.timed("overflow scan"):
        watched = {name: WatchedEngine(work.network(name), spec) for name, spec in work.specs.items()}
        exercise(watched, work.course, work.inputs, reference)
        for watching in watched.values():
            watching.close()
    (work.folder / ONNX_FP16).mkdir()
    walkers: dict[str, Engine] = {}
    reached = {}
    for name, spec in work.specs.items():
        with work.timed(f"{ONNX_FP16} {name}"):
            network, ranges = work.network(name), watched[name].ranges
            kept = kept_in_fp32(network.graph, name, ranges)
            half = to_fp16(network, kept)
            work.fp16[name] = summary(network.graph, kept, ranges)
            work.memory[name]["weight_bytes"][ONNX_FP16] = weight_bytes(half)
            (work.folder / onnx_file(name, ONNX_FP16)).write_bytes(serialize(half))
            engine = OrtEngine(serialize(rounded(half)), spec)
            if name in WALKERS:
                walkers[name] = engine
                reached[name] = measure(engine, work.expected(name))
            else:
                reached[name] = measure_engine(engine, work.expected(name))
        work.judge(ONNX_FP16, engine_checks(ONNX_FP16, name, reached[name]))
    work.parity[ONNX_FP16] = {"engines": {engine: parity.to_dict() for engine, parity in reached.items()}}
    climb(work, ONNX_FP16, walkers, reference)
    largest = {n: {t: _finite(v) for t, v in watching.ranges.items()} for n, watching in watched.items()}
    (work.folder / RANGES).write_text(json.dumps(largest, indent=1) + "\n", encoding="utf-8")


def write_plans(work: Work, compiler: Compiler, reference: Reference) -> None:
    """One plan per engine from its FP16 network, tried as far as this machine can: where it has their GPU, the whole ladder."""
    plans = []
    for name, spec in work.specs.items():
        with work.timed(f"{compiler.flavour} {compiler.version} {name}"):
            source = onnx_file(name, ONNX_FP16)
            built = compiler.build((work.folder / source).read_bytes(), spec)
            plan = Plan(name, compiler.flavour, compiler.version, compiler.targets, source, compiler.parse(built, spec))
            path = work.folder / plan.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(built)
            plans.append(plan)
    if all(plan.verified == PARSED for plan in plans) and execute(work, plans, reference):
        plans = [replace(plan, verified=EXECUTED) for plan in plans]
    work.plans += plans


def execute(work: Work, plans: Sequence[Plan], reference: Reference) -> bool:
    """Run plans for this machine's GPU up the ladder, by the limits of FP16; whether they hold. BundleError if not, or a note of it."""
    flavour = plans[0].flavour
    engines: dict[str, Engine] = {}
    with work.timed(f"{flavour} walks the ladder on this GPU"):
        try:
            for plan in plans:
                engines[plan.engine] = TrtEngine(
                    (work.folder / plan.file).read_bytes(), work.specs[plan.engine], flavour
                )
            reached = {name: measure(engine, work.expected(name)) for name, engine in engines.items()}
            figures = work.course.measure(engines, reference)
        finally:
            for engine in engines.values():
                engine.close()
    own = work.parity[ONNX_FP16].get("sensitivity")
    figures["engines"] = {name: parity.to_dict() for name, parity in reached.items()}
    found = list(checks(figures, LIMITS[ONNX_FP16], None if own is None else Sensitivity.from_dict(own)))
    work.judge(flavour, found)
    return all(check.holds for check in found)


def write_constants(model: Model, folder: Path) -> None:
    """Write `constants.safetensors`: the unconditional entry of each `cond` name, without batch."""
    uncond = {f"uncond.{entry}": values.numpy() for entry, values in model.uncond().items()}
    (folder / CONSTANTS).write_bytes(save(uncond))


def copy_samples(samples: Path, folder: Path) -> None:
    """Copy the plain files of `samples`; a link or a folder inside raises BundleError, as the runtime would refuse it."""
    folder.mkdir()
    for path in sorted(Path(samples).iterdir()):
        if path.is_symlink() or not path.is_file():
            raise BundleError(f"samples: {path.name} is not a plain file; a bundle holds plain files only")
        shutil.copyfile(path, folder / path.name)


def describe(work: Work, name: str, checkpoint: Path, fp16_weights: bool) -> Manifest:
    """The manifest of everything now in the folder. Licences of weights are what the checkpoint's provenance says under `weights`."""
    provenance = (
        pipeline_provenance(checkpoint) if is_pipeline(checkpoint) else dict(read_settings(checkpoint)["provenance"])
    )
    licences = dict(provenance.pop("weights", {}))
    if work.pack is not None:
        licences[PACK_ENGINE] = work.pack.record
    precision = {ONNX: PRECISION[fp16_weights], ONNX_FP16: FP16_PRECISION}
    return Manifest(
        format_version=FORMAT_VERSION,
        name=name,
        model=work.spec,
        schedule=work.model.schedule,
        guidance_scale=work.model.config.guidance_scale,
        engines=work.specs,
        files=record_files(work.folder),
        parity=work.parity,
        parity_missed=work.missed,
        precision={kind: precision[kind] for kind in work.parity},
        fp16=work.fp16,
        memory=work.memory,
        versions={package: version(package) for package in PACKAGES},
        checkpoint_sha256=checkpoint_sha256(checkpoint),
        weights={engine: licences.get(engine, UNKNOWN_WEIGHTS) for engine in work.specs},
        training=provenance,
        plans=tuple(work.plans),
    )


def record_files(folder: Path) -> dict[str, dict[str, Any]]:
    """SHA-256 and size of every file below `folder`, by relative name: the manifest's `files`."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {p.relative_to(folder).as_posix(): {"sha256": sha256_of(p), "bytes": p.stat().st_size} for p in paths}


def refuse_foreign(bundle: Path) -> None:
    """Raise BundleError if something is at `bundle` that replacing would destroy: anything but a bundle or an empty folder."""
    if (
        bundle.is_dir()
        and not bundle.is_symlink()
        and ((bundle / MANIFEST_FILE).is_file() or not any(bundle.iterdir()))
    ):
        return
    if bundle.exists() or bundle.is_symlink():
        raise BundleError(f"{bundle.name} exists and is not a bundle; name another folder, or remove it yourself")


def _finite(value: float) -> float | None:
    return float(f"{value:.4g}") if np.isfinite(value) else None
