"""What was truncated, swapped, edited or smuggled in is refused, in one sentence that names the file and says what to do.

Damage that a hash shows is done to a small bundle of fakes. Damage with matching hashes, done by someone who can write the manifest, is
done to a bundle of real networks: what is loaded must still be what this runtime expects, and nothing outside the bundle is read.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from runtime.bundle import Bundle
from runtime.errors import BundleError
from runtime.manifest import CONSTANTS, KINDS, MANIFEST_FILE, PARITY, TOKENIZER, Manifest, onnx_file, sha256_of
from runtime.plans import BUILT, TENSORRT_RTX, Plan, choose
from runtime.spec import engine_specs
from tests.fakes import MODEL, write_bundle

UNET, DECODER = onnx_file("unet"), onnx_file("decoder")
VERSION, TARGETS = "1.7.1.116", ("sm86", "sm89")
PLAN = Plan("unet", TENSORRT_RTX, VERSION, TARGETS, onnx_file("unet", "onnx-fp16"), BUILT).file
HERE = (TENSORRT_RTX, VERSION, "sm89")
# A way out: something to run, to install, or to remove.
WAYS_OUT = r"python -m export|export (it|the bundle)? ?again|install|remove it|copy the bundle|copy it|newer runtime"

Change = Callable[[Path], Any]


def flip(name: str) -> Change:
    def change(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(content)

    return change


def write(name: str, content: bytes) -> Change:
    def change(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)

    return change


def cut(name: str) -> Change:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-1])


def extend(name: str) -> Change:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes() + b"\0")


def delete(name: str) -> Change:
    return lambda folder: (folder / name).unlink()


def copy(source: str, target: str) -> Change:
    return lambda folder: shutil.copyfile(folder / source, folder / target)


def swap(one: str, other: str) -> Change:
    def change(folder: Path) -> None:
        contents = [(folder / name).read_bytes() for name in (other, one)]
        for name, content in zip((one, other), contents, strict=True):
            (folder / name).write_bytes(content)

    return change


def link(name: str, make: Callable[[Path, Path], object] = lambda source, target: target.symlink_to(source)) -> Change:
    """Move a file or folder out of the bundle, and leave a link to it."""

    def change(folder: Path) -> None:
        outside = folder.parent / "outside"
        (folder / name).rename(outside)
        make(outside, folder / name)

    return change


def replace_by(name: str, make: Callable[[Path], object]) -> Change:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return change


def edit(*path: str | int, to: Any = None, drop: bool = False) -> Change:
    """Set or drop one entry of the manifest."""

    def change(folder: Path) -> None:
        manifest = json.loads((folder / MANIFEST_FILE).read_text())
        entry = manifest
        for key in path[:-1]:
            entry = entry[key]
        if drop:
            del entry[path[-1]]
        else:
            entry[path[-1]] = to
        (folder / MANIFEST_FILE).write_text(json.dumps(manifest))

    return change


def rehashed(*changes: Change) -> Change:
    """Make the changes, and write sizes and hashes of all listed files into the manifest."""

    def change(folder: Path) -> None:
        for each in changes:
            each(folder)
        manifest = json.loads((folder / MANIFEST_FILE).read_text())
        for name, record in manifest["files"].items():
            record |= {"sha256": sha256_of(folder / name), "bytes": (folder / name).stat().st_size}
        (folder / MANIFEST_FILE).write_text(json.dumps(manifest))

    return change


def list_file(name: str) -> Change:
    return edit("files", name, to={"sha256": "0" * 64, "bytes": 0})


def external(location: str) -> Change:
    """Move a weight of the decoder's network into another file."""

    def change(folder: Path) -> None:
        import onnx

        model = onnx.load(folder / DECODER)
        weight = max(model.graph.initializer, key=lambda initializer: len(initializer.raw_data))
        (folder.parent / "outside").write_bytes(weight.raw_data)
        for key, value in (("location", location), ("offset", "0"), ("length", str(len(weight.raw_data)))):
            weight.external_data.add(key=key, value=value)
        weight.ClearField("raw_data")
        weight.data_location = onnx.TensorProto.EXTERNAL
        (folder / DECODER).write_bytes(model.SerializeToString())

    return change


HASHES = {
    "network truncated": (cut(UNET), UNET),
    "network emptied": (write(UNET, b""), UNET),
    "network edited": (flip(UNET), UNET),
    "network extended": (extend(UNET), UNET),
    "network missing": (delete(UNET), UNET),
    "networks swapped": (swap(onnx_file("age_estimator"), onnx_file("audio_encoder")), "onnx/a"),
    "fp32 network in fp16's place": (copy(UNET, onnx_file("unet", "onnx-fp16")), "onnx-fp16/unet"),
    "tokenizer edited": (flip(TOKENIZER), TOKENIZER),
    "constants truncated": (cut(CONSTANTS), CONSTANTS),
    "references edited": (flip(PARITY), PARITY),
    "plan truncated": (cut(PLAN), PLAN),
    "plan edited": (flip(PLAN), PLAN),
    "plan missing": (delete(PLAN), PLAN),
    "plan of another engine": (copy(PLAN.replace("unet", "decoder"), PLAN), PLAN),
}
FOREIGN = {
    "file added": (write("notes.txt", b"hello"), "notes.txt: is not in the manifest"),
    "hidden file added": (write(".config", b"hello"), r"\.config: is not in the manifest"),
    "network added": (write("onnx/extra.onnx", b"network"), r"onnx/extra\.onnx: is not in the manifest"),
    "plans dropped in": (write("plans-2/unet.plan", b"vtrt"), r"plans-2/unet\.plan: is not in the manifest"),
    "link added": (lambda folder: (folder / "link").symlink_to("/etc"), "link: is not in the manifest"),
    "file is a symbolic link": (link(UNET), f"{UNET}: is reached through a symbolic link"),
    "folder is a symbolic link": (link("onnx"), r"onnx/\w+\.onnx: is reached through a symbolic link"),
    "link leads nowhere": (replace_by(UNET, lambda path: path.symlink_to("nowhere")), f"{UNET}: is reached through"),
    "file is a hard link": (link(UNET, os.link), f"{UNET}: has 2 hard links"),
    "file is a pipe": (replace_by(UNET, os.mkfifo), f"{UNET}: is not a plain file"),
    "file is a folder": (replace_by(UNET, Path.mkdir), f"{UNET}: is not a plain file"),
}
MANIFESTS = {
    "newer format": (edit("format_version", to=3), r"manifest\.json: format_version is 3, this runtime reads 2"),
    "older format": (edit("format_version", to=1), r"manifest\.json: format_version is 1, this runtime reads 2"),
    "no JSON": (write(MANIFEST_FILE, b"\x80\x04pickle"), r"manifest\.json: not valid JSON"),
    "truncated": (cut(MANIFEST_FILE), r"manifest\.json: not valid JSON"),
    "a list": (write(MANIFEST_FILE, b"[]"), r"manifest\.json: holds no JSON object"),
    "an entry that nobody knows": (edit("signature", to="x"), r"manifest\.json: unknown entries signature"),
    "an entry missing": (edit("weights", drop=True), r"manifest\.json: .*weights"),
    "a name that leaves the bundle": (list_file("../outside"), r"'\.\./outside' does not stay inside the bundle"),
    "an absolute name": (list_file("/etc/passwd"), "'/etc/passwd' does not stay inside the bundle"),
    "a file that bundles do not have": (list_file("onnx/unet.so"), r"lists onnx/unet\.so, which no part of a bundle"),
    "a network not listed": (edit("files", UNET, drop=True), f"does not list {UNET}"),
    "fp16 in part": (
        edit("files", onnx_file("fusion", "onnx-fp16"), drop=True),
        r"does not list onnx-fp16/fusion\.onnx",
    ),
    "a hash that is none": (edit("files", UNET, "sha256", to="*"), rf"sha256 of '{UNET}' is '\*'"),
    "a size that is none": (edit("files", UNET, "bytes", to=-1), f"bytes of '{UNET}' is -1"),
    "another dtype": (edit("engines", "unet", "inputs", 1, "dtype", to="int32"), "engine specs of unet"),
    "another shape": (edit("engines", "unet", "inputs", 0, "shape", to=["B", 9, 4, 4]), "engine specs of unet"),
    "another tensor name": (edit("engines", "fusion", "outputs", 0, "name", to="c"), "engine specs of fusion"),
    "another profile": (edit("engines", "unet", "ranges", "B", to=[1, 1, 512]), "engine specs of unet"),
    "an engine missing": (edit("engines", "decoder", drop=True), "engine specs of decoder"),
    "an engine invented": (
        edit("engines", "vae", to={"inputs": [], "outputs": [], "ranges": {}}),
        "engine specs of vae",
    ),
    "another model": (edit("model", "features", to=16), "engine specs of text_encoder"),
    "a model entry of a newer runtime": (edit("model", "frames", to=8), "model: unknown entries .'frames'."),
    "a schedule that cannot be": (edit("schedule", "beta_end", to=2), r"manifest\.json: .*beta"),
    "guidance that is no number": (edit("guidance_scale", to="x"), r"manifest\.json: .*"),
    "a plan's version": (edit("plans", 0, "version", to="1.8"), r"does not list plans/tensorrt-rtx-1\.8-sm86\+sm89"),
    "a plan's targets": (
        edit("plans", 0, "targets", to=["sm120"]),
        r"does not list plans/tensorrt-rtx-1\.7\.1\.116-sm120",
    ),
    "a plan's flavour": (edit("plans", 0, "flavour", to="tvm"), "flavour is 'tvm', known are tensorrt"),
    "a plan's status": (edit("plans", 0, "verified", to="trusted"), "verified is 'trusted', known are built"),
    "a plan's entry that nobody knows": (edit("plans", 0, "run", to="x"), "plan of text_encoder: unknown entries run"),
    "a plan taken off the list": (edit("plans", 0, drop=True), r"lists plans/.*text_encoder\.plan, which no part"),
}
# Hashes match: only what the content means can tell.
MEANINGS = {
    "network of another engine": (copy(onnx_file("encoder"), DECODER), "decoder: inputs are"),
    "no network": (write(DECODER, b"\x80\x04pickle?"), "decoder: not an ONNX file"),
    "an empty network": (write(DECODER, b""), "decoder: onnxruntime cannot load the network"),
    "weights outside the bundle": (external("../outside"), "decoder: the network keeps weights in another file"),
    "weights at an absolute path": (external("/etc/passwd"), "decoder: the network keeps weights in another file"),
    "constants that are no tensors": (write(CONSTANTS, b"\x80\x04pickle?"), f"{CONSTANTS}: not a safetensors file"),
    "constants of another shape": (
        write(CONSTANTS, save({"uncond.cond": np.zeros(3, np.float32)})),
        f"{CONSTANTS}: 'uncond.cond' is float32 .3,., expected",
    ),
}  # fmt: skip
MACHINES = {
    "another GPU": ((TENSORRT_RTX, VERSION, "sm120"), "built for sm86, sm89, this GPU is sm120"),
    "a newer library": (
        (TENSORRT_RTX, "1.8.0.5", "sm89"),
        r"built with tensorrt-rtx 1\.7\.1\.116, this machine has 1\.8\.0\.5",
    ),
    "another flavour": (("tensorrt", "11.4.0.106", "sm89"), "none for tensorrt in this bundle"),
}


@dataclass(frozen=True)
class Case:
    change: Change
    message: str
    is_real: bool = False
    machine: tuple[str, str, str] = HERE


CASES = {
    **{f"hash: {name}": Case(change, re.escape(file)) for name, (change, file) in HASHES.items()},
    **{f"foreign: {name}": Case(*case) for name, case in FOREIGN.items()},
    **{f"manifest: {name}": Case(*case) for name, case in MANIFESTS.items()},
    **{f"meaning: {name}": Case(rehashed(c), message, is_real=True) for name, (c, message) in MEANINGS.items()},
    **{f"machine: {name}": Case(lambda folder: None, message, machine=m) for name, (m, message) in MACHINES.items()},
}


def write_small(folder: Path) -> None:
    """Fakes with everything that a bundle can hold: FP16 networks and a set of plans."""
    write_bundle(folder)
    plans = [Plan(e, TENSORRT_RTX, VERSION, TARGETS, onnx_file(e, KINDS[1]), BUILT) for e in engine_specs(MODEL)]
    for name in (*(plan.source for plan in plans), *(plan.file for plan in plans)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(f"fake {name}".encode())
        list_file(name)(folder)
    edit("plans", to=[plan.to_dict() for plan in plans])(folder)
    rehashed()(folder)


def load(folder: Path, machine: tuple[str, str, str], is_real: bool) -> None:
    """What a server does with a bundle before its first request."""
    with Bundle.open(folder, threads=1) as bundle:
        if is_real:
            bundle.engine("decoder")
        else:
            choose(bundle.manifest.plans, bundle.specs, *machine)


def test_what_was_not_changed_loads(micro_bundle: Path, tmp_path: Path) -> None:
    write_small(tmp_path / "small")
    load(tmp_path / "small", HERE, is_real=False)
    load(shutil.copytree(micro_bundle, tmp_path / "real"), HERE, is_real=True)
    assert Manifest.read(tmp_path / "small").kinds == KINDS


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_changed_bundle_is_refused_by_name_with_the_way_out(
    case: Case, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder = tmp_path / "bundle"
    if case.is_real:
        shutil.copytree(request.getfixturevalue("micro_bundle"), folder)
    else:
        write_small(folder)
    case.change(folder)
    with pytest.raises(BundleError, match=case.message) as caught:
        load(folder, case.machine, case.is_real)
    sentence = str(caught.value)
    assert "\n" not in sentence and re.search(WAYS_OUT, sentence), sentence
    assert str(tmp_path) not in sentence, "a message must not tell where things lie on the server"


def test_there_are_as_many_cases_as_promised() -> None:
    assert len(CASES) >= 30
