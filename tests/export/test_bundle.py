"""A bundle is delivered whole and verified, or not at all; and what was changed afterwards is refused.

Exports here reuse the networks of `micro_bundle` instead of tracing them again.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
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
from export.parity import compare
from export.targets import Targets
from runtime.__main__ import main as runtime_main
from runtime.bundle import Bundle
from runtime.errors import BundleError
from runtime.ladder import LIMITS
from runtime.manifest import ONNX, ONNX_FP16, Manifest, onnx_file, sha256_of
from runtime.plans import BUILT
from tests.export.traced import trace_from
from training.checkpoint import checkpoint_sha256


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
    assert manifest.weights.keys() == manifest.engines.keys() == manifest.memory.keys()
    assert manifest.versions["torch"].startswith("2.")


@pytest.mark.parametrize(("kind", "trajectory"), [(ONNX, 1e-4), (ONNX_FP16, 5e-2)])
def test_manifest_says_how_near_every_rung_came_to_torch(full_bundle: Path, kind: str, trajectory: float) -> None:
    manifest = Manifest.read(full_bundle)
    figures, steps = manifest.parity[kind], 20
    assert not manifest.parity_missed
    assert figures["engines"].keys() == manifest.engines.keys()
    assert figures["trajectory"]["num_inference_steps"] == steps
    assert all(len(figures["trajectory"][name]) == steps for name in ("max_abs_error", "mean_abs_error", "cosine"))
    assert figures["trajectory"]["relative_error"] <= figures["limits"]["trajectory"] <= trajectory
    assert max(figures["step"]["timesteps"]) > 900 and min(figures["step"]["timesteps"]) < 250
    assert figures["image"]["psnr_db"] >= figures["limits"]["image_psnr_db"]
    assert figures["inversion"]["round_trip_of_torch"] > 0


def test_fp16_is_measured_with_its_rounding(full_bundle: Path) -> None:
    """ONNX Runtime alone computes most of an FP16 graph in FP32, and would report errors as small as FP32's."""
    manifest = Manifest.read(full_bundle)
    for engine in ("unet", "decoder", "encoder"):
        half, single = (manifest.parity[kind]["engines"][engine]["relative_error"] for kind in (ONNX_FP16, ONNX))
        assert half > 50 * single
        assert sum(manifest.fp16[engine]["kept"].values()) < manifest.fp16[engine]["nodes"] / 4


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
            assert compare(expected, bundle.engine(name)(inputs)).relative_error <= LIMITS[ONNX].engine, name


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
    assert [line.split()[1] for line in lines if line.startswith("onnx ")] == [*manifest.engines, "walks"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "samples"], "scratch folders remain"


@pytest.mark.usefixtures("traced")
def test_two_exports_are_the_same_bytes(micro_checkpoint: Path, full_bundle: Path, tmp_path: Path) -> None:
    """All of it, FP16 networks, ranges, references and parity figures included; plans have a test of their own."""
    export_bundle(
        micro_checkpoint, tmp_path / "again", name=Manifest.read(full_bundle).name, targets=Targets(fp16=True)
    )
    first, again = Manifest.read(full_bundle), Manifest.read(tmp_path / "again")
    assert dict(again.files) == {name: record for name, record in first.files.items() if not name.startswith("plans/")}
    assert again.to_dict() | {"files": None, "plans": None} == first.to_dict() | {"files": None, "plans": None}


def test_plans_say_what_they_are_for_and_that_they_never_ran(full_bundle: Path) -> None:
    manifest = Manifest.read(full_bundle)
    if not manifest.plans:
        pytest.skip("tensorrt_rtx is not installed, so the bundle has no plans")
    assert [plan.engine for plan in manifest.plans] == list(manifest.engines)
    for plan in manifest.plans:
        assert plan.targets == ("sm75", "sm89", "sm120") and plan.verified == BUILT
        assert plan.source == onnx_file(plan.engine, ONNX_FP16) and plan.source in manifest.files
        assert plan.file == f"plans/tensorrt-rtx-{plan.version}-sm75+sm89+sm120/{plan.engine}.plan"


@pytest.fixture
def wrong(monkeypatch: pytest.MonkeyPatch, micro_bundle: Path) -> None:
    """Tracing gets the audio encoder wrong by five per cent of its largest weight."""

    def scale_a_weight(reference: Exportable) -> onnx.ModelProto:
        model = trace_from(micro_bundle)(reference)
        if reference.spec.name == "audio_encoder":
            weight = max(model.graph.initializer, key=lambda initializer: len(initializer.raw_data))
            values = numpy_helper.to_array(weight)
            weight.CopyFrom(numpy_helper.from_array((values * 1.05).astype(values.dtype), weight.name))
        return model

    monkeypatch.setattr(export.bundle, "to_onnx", scale_a_weight)


MISSED = r"onnx misses parity with torch: engine audio_encoder: relative error .*, limit 0\.0001"


@pytest.mark.usefixtures("wrong")
def test_an_engine_that_misses_parity_leaves_no_bundle(micro_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=rf"{MISSED}; no bundle was written"):
        export_bundle(micro_checkpoint, tmp_path / "bundle")
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("wrong")
def test_a_miss_that_is_allowed_is_marked_and_verify_fails_on_it(
    micro_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = str(tmp_path / "bundle")
    assert main([str(micro_checkpoint), bundle, "--allow-parity-miss"]) == 0
    assert Manifest.read(tmp_path / "bundle").parity_missed[0].startswith("onnx: engine audio_encoder: relative error")
    assert "DOES NOT COMPUTE WHAT TORCH DOES" in capsys.readouterr().out
    assert runtime_main(["verify", bundle]) == 1
    assert "comparisons missed their limit" in capsys.readouterr().err


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
    assert "unknown target 'tpu'; known: onnx" in " ".join(capsys.readouterr().err.split())


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


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--timing-cache", "times"], "timing cache: only the target tensorrt measures kernels"),
        (
            ["--targets", "tensorrt"],
            "error: tensorrt: cannot be imported .* on the machine with the GPU run: pip install",
        ),
    ],
)
def test_what_cannot_be_built_here_is_said_before_the_checkpoint_is_read(
    flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert main([str(tmp_path / "no-checkpoint"), str(tmp_path / "bundle"), *flags]) == 1
    assert re.search(message, capsys.readouterr().err)
