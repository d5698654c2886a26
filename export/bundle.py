"""A checkpoint becomes a bundle: every engine frozen and compared with torch, every file hashed, all of it or nothing.

It knows the order of the work and what the manifest says. The manifest's format, and its reading, are the runtime's.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save

from export.exportable import Exportable
from export.parity import Parity, cases, measure, run_torch
from export.reference import ReferenceInputs
from export.to_onnx import serialize, to_onnx
from runtime.bundle import Bundle
from runtime.engines.ort import OrtEngine
from runtime.errors import BundleError
from runtime.manifest import CONSTANTS, FORMAT_VERSION, MANIFEST_FILE, PARITY, TOKENIZER, Manifest, onnx_file, sha256_of
from runtime.spec import engine_specs
from training.checkpoint import checkpoint_sha256, load, read_settings
from training.model import ClipFaceFusion

PACKAGES = ("torch", "onnx", "onnxscript", "onnxruntime", "diffusers", "transformers", "numpy")
PRECISION = {
    True: "fp32 compute, weights stored as fp16 where that is exact",
    False: "fp32 compute, weights stored as fp32",
}
UNKNOWN_WEIGHTS = {"licence": "unknown", "commercial_use": "unknown"}


def export_bundle(
    checkpoint: Path,
    bundle: Path,
    samples: Path | None = None,
    name: str | None = None,
    fp16_weights: bool = True,
    progress: Callable[[str], None] = lambda line: None,
) -> Manifest:
    """Export the checkpoint folder to the bundle folder, and return the manifest written there.

    The bundle appears complete or not at all: it is built and opened beside its place, then moved there; an older bundle at that
    place is replaced. `samples` is a folder of example files to carry along, `name` (default: the folder's) what reports call it.
    `progress` gets one line per engine. Raises BundleError if an engine misses its parity limit, if `bundle` is something other
    than a bundle, or if `checkpoint` is not a checkpoint.
    """
    checkpoint, bundle = Path(checkpoint), Path(bundle).absolute()
    refuse_foreign(bundle)
    model = load(checkpoint)
    bundle.parent.mkdir(parents=True, exist_ok=True)
    with one_thread(), tempfile.TemporaryDirectory(dir=bundle.parent, prefix=f".{bundle.name}.") as scratch:
        folder = Path(scratch) / "bundle"
        parity = write_engines(model, folder, fp16_weights, progress)
        write_constants(model, folder)
        shutil.copyfile(checkpoint / "tokenizer" / "tokenizer.json", folder / TOKENIZER)
        if samples is not None:
            copy_samples(samples, folder / "samples")
        manifest = describe(model, folder, name or bundle.name, parity, checkpoint, fp16_weights)
        manifest.write(folder)
        Bundle.open(folder).close()  # what the runtime would refuse is not delivered
        if bundle.exists():
            bundle.rename(Path(scratch) / "replaced")
        folder.rename(bundle)
    return manifest


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one thread: the order of its sums, and so the last bits of what a bundle stores, depends on how many there are."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def write_engines(
    model: ClipFaceFusion, folder: Path, fp16_weights: bool, progress: Callable[[str], None]
) -> dict[str, Parity]:
    """Write every engine's ONNX file, and `parity.safetensors` with one case of each; returns the parity reached.

    The stored case is the smallest one: `verify` repeats it anywhere in seconds, and the bundle stays small.
    """
    inputs = ReferenceInputs.of(model)
    reached: dict[str, Parity] = {}
    references: dict[str, np.ndarray] = {}
    for spec in engine_specs(model.spec()).values():
        start = time.monotonic()
        reference = Exportable(model, spec)
        network = serialize(to_onnx(reference, fp16_weights))
        reached[spec.name] = check_engine(network, reference, inputs)
        path = folder / onnx_file(spec.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(network)
        arrays = inputs(spec, cases(spec)[0])
        references |= {f"{spec.name}.input.{tensor}": values for tensor, values in arrays.items()}
        references |= {
            f"{spec.name}.output.{tensor}": values for tensor, values in run_torch(reference, arrays).items()
        }
        progress(f"{spec.name:<18}{len(network) / 1e6:8.2f} MB{time.monotonic() - start:8.1f} s")
    (folder / PARITY).write_bytes(save(references))
    return reached


def check_engine(network: bytes, reference: Exportable, inputs: ReferenceInputs) -> Parity:
    """Load an ONNX file's bytes as the runtime will, and compare it with torch; BundleError where the limit is missed."""
    engine = OrtEngine(network, reference.spec)
    try:
        parity = measure(engine, reference, inputs)
    finally:
        engine.close()
    if not parity.holds:
        raise BundleError(
            f"{reference.spec.name}: relative error {parity.relative_error:.2e} of ONNX Runtime against torch is above the limit "
            f"{parity.limit:.0e}; no bundle was written. Look for an operation that the exporter changes (in-place, data-dependent)."
        )
    return parity


def write_constants(model: ClipFaceFusion, folder: Path) -> None:
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


def describe(
    model: ClipFaceFusion, folder: Path, name: str, parity: Mapping[str, Parity], checkpoint: Path, fp16_weights: bool
) -> Manifest:
    """The manifest of everything now in `folder`. Licences of weights are what the checkpoint's provenance says under `weights`."""
    provenance = dict(read_settings(checkpoint)["provenance"])
    licences = provenance.pop("weights", {})
    engines = engine_specs(model.spec())
    return Manifest(
        format_version=FORMAT_VERSION,
        name=name,
        model=model.spec(),
        schedule=model.schedule,
        guidance_scale=model.config.guidance_scale,
        engines=engines,
        files=record_files(folder),
        parity={"onnx": {engine: reached.to_dict() for engine, reached in parity.items()}},
        precision={"onnx": PRECISION[fp16_weights]},
        versions={package: version(package) for package in PACKAGES},
        checkpoint_sha256=checkpoint_sha256(checkpoint),
        weights={engine: licences.get(engine, UNKNOWN_WEIGHTS) for engine in engines},
        training=provenance,
        plans=[],
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
