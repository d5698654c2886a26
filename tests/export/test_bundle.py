"""A bundle is delivered whole and verified, or not at all; and what was changed afterwards is refused.

Exports here reuse the networks of `micro_bundle` instead of tracing them again.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import export.bundle
from export.__main__ import main
from export.bundle import export_bundle
from export.exportable import Exportable
from export.parity import FP32_LIMIT, compare
from runtime.bundle import Bundle
from runtime.errors import BundleError
from runtime.manifest import Manifest, sha256_of
from training.checkpoint import checkpoint_sha256


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch, micro_bundle: Path) -> None:
    """Tracing gives the networks of `micro_bundle`."""
    monkeypatch.setattr(export.bundle, "to_onnx", lambda reference, fp16_weights: stored(micro_bundle, reference))


def stored(bundle: Path, reference: Exportable) -> onnx.ModelProto:
    return onnx.load(bundle / "onnx" / f"{reference.spec.name}.onnx")


def damage(folder: Path, name: str, change: Callable[[bytes], bytes]) -> None:
    (folder / name).write_bytes(change((folder / name).read_bytes()))


def flip_middle_bit(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def test_manifest_says_where_everything_came_from(micro_checkpoint: Path, micro_bundle: Path) -> None:
    manifest = Manifest.read(micro_bundle)
    assert manifest.checkpoint_sha256 == checkpoint_sha256(micro_checkpoint)
    assert manifest.training == {"data": "none: random weights for tests"}
    assert manifest.weights["unet"] == {"licence": "unknown", "commercial_use": "unknown"}
    assert manifest.weights.keys() == manifest.engines.keys() == manifest.parity["onnx"].keys()
    assert manifest.versions["torch"].startswith("2.")
    assert all(
        reached["relative_error"] <= reached["limit"] == FP32_LIMIT for reached in manifest.parity["onnx"].values()
    )


def test_every_file_is_listed_and_none_is_a_pickle(micro_bundle: Path) -> None:
    files = {path.relative_to(micro_bundle).as_posix() for path in micro_bundle.rglob("*") if path.is_file()}
    assert files == {*Manifest.read(micro_bundle).files, "manifest.json"}
    assert {Path(name).suffix for name in files} == {".onnx", ".safetensors", ".json"}
    assert all(path.stat().st_mode & 0o044 for path in micro_bundle.rglob("*")), "a server runs as another user"


def test_stored_reference_outputs_are_met_by_the_loaded_engines(micro_bundle: Path) -> None:
    with Bundle.open(micro_bundle, threads=1) as bundle:
        tensors = bundle.parity_tensors()
        for name, spec in bundle.specs.items():
            inputs = {tensor.name: tensors[f"{name}.input.{tensor.name}"] for tensor in spec.inputs}
            expected = {tensor.name: tensors[f"{name}.output.{tensor.name}"] for tensor in spec.outputs}
            assert compare(expected, bundle.engine(name)(inputs)).holds, name


def test_uncond_is_what_fusion_says_of_nothing(micro_bundle: Path) -> None:
    with Bundle.open(micro_bundle, threads=1) as bundle:
        fusion = bundle.engine("fusion")
        nothing = {t.name: np.zeros((1, *t.shape[1:]), np.float32) for t in fusion.spec.inputs}
        for entry, values in fusion(nothing).items():
            np.testing.assert_allclose(bundle.uncond[entry], values[0], atol=1e-5)


@pytest.mark.parametrize("name", ["onnx/unet.onnx", "constants.safetensors", "parity.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("change", [lambda content: content[:-1], flip_middle_bit], ids=["truncated", "edited"])
def test_a_changed_file_is_refused_by_name(
    name: str, change: Callable[[bytes], bytes], micro_bundle: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(micro_bundle, tmp_path / "bundle")
    damage(folder, name, change)
    with pytest.raises(BundleError, match=name):
        Bundle.open(folder)


def test_swapped_files_are_refused(micro_bundle: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(micro_bundle, tmp_path / "bundle")
    one, other = folder / "onnx/encoder.onnx", folder / "onnx/decoder.onnx"
    one.rename(folder / "kept")
    other.rename(one)
    (folder / "kept").rename(other)
    with pytest.raises(BundleError, match=r"onnx/(en|de)coder\.onnx"):
        Bundle.open(folder)


def test_a_network_in_the_wrong_place_is_refused_though_its_hash_is_listed(micro_bundle: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(micro_bundle, tmp_path / "bundle")
    shutil.copyfile(folder / "onnx/encoder.onnx", folder / "onnx/decoder.onnx")
    values = json.loads((folder / "manifest.json").read_text())
    values["files"]["onnx/decoder.onnx"] = values["files"]["onnx/encoder.onnx"]
    (folder / "manifest.json").write_text(json.dumps(values))
    with Bundle.open(folder, threads=1) as bundle, pytest.raises(BundleError, match="decoder"):
        bundle.engine("decoder")


@pytest.mark.usefixtures("traced")
def test_export_replaces_an_older_bundle_and_carries_samples(micro_checkpoint: Path, tmp_path: Path) -> None:
    samples, bundle = tmp_path / "samples", tmp_path / "mine"
    samples.mkdir()
    (samples / "voice.wav").write_bytes(b"a voice")
    bundle.mkdir()
    (bundle / "manifest.json").write_text("an older bundle")
    lines: list[str] = []
    manifest = export_bundle(micro_checkpoint, bundle, samples=samples, progress=lines.append)
    assert Manifest.read(bundle) == manifest
    assert manifest.name == "mine"
    assert manifest.files["samples/voice.wav"]["sha256"] == sha256_of(samples / "voice.wav")
    assert [line.split()[0] for line in lines] == list(manifest.engines)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "samples"], "scratch folders remain"


@pytest.mark.usefixtures("traced")
def test_two_exports_give_the_same_bundle_hash_but_for_the_name(
    micro_checkpoint: Path, micro_bundle: Path, tmp_path: Path
) -> None:
    export_bundle(micro_checkpoint, tmp_path / "again", name=Manifest.read(micro_bundle).name)
    assert (tmp_path / "again" / "manifest.json").read_bytes() == (micro_bundle / "manifest.json").read_bytes()


def test_an_engine_that_misses_parity_leaves_no_bundle(
    micro_checkpoint: Path, micro_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scale_a_weight(reference: Exportable, fp16_weights: bool) -> onnx.ModelProto:
        model = stored(micro_bundle, reference)
        if reference.spec.name == "audio_encoder":
            weight = max(model.graph.initializer, key=lambda initializer: len(initializer.raw_data))
            values = numpy_helper.to_array(weight)
            weight.CopyFrom(numpy_helper.from_array((values * 1.05).astype(values.dtype), weight.name))
        return model

    monkeypatch.setattr(export.bundle, "to_onnx", scale_a_weight)
    with pytest.raises(
        BundleError, match=r"audio_encoder: relative error .* above the limit 1e-04; no bundle was written"
    ):
        export_bundle(micro_checkpoint, tmp_path / "bundle")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_no_bundle_is_not_replaced(
    micro_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.txt").write_text("three years of work")
    assert main([str(micro_checkpoint), str(tmp_path)]) == 1
    assert "is not a bundle" in capsys.readouterr().err
    assert (tmp_path / "thesis.txt").read_text() == "three years of work"


def test_an_unknown_target_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["checkpoint", "bundle", "--targets", "onnx,tpu"])
    assert "unknown target 'tpu'; known: onnx" in capsys.readouterr().err


def test_a_folder_that_is_no_checkpoint_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), str(tmp_path / "bundle")]) == 1
    assert "is not a checkpoint" in capsys.readouterr().err


@pytest.mark.usefixtures("traced")
def test_a_link_among_the_samples_is_refused(micro_checkpoint: Path, tmp_path: Path) -> None:
    samples = tmp_path / "samples"
    samples.mkdir()
    (samples / "photo.jpg").symlink_to(tmp_path / "elsewhere.jpg")
    with pytest.raises(BundleError, match=r"photo\.jpg is not a plain file"):
        export_bundle(micro_checkpoint, tmp_path / "bundle", samples=samples)
    assert not (tmp_path / "bundle").exists()
