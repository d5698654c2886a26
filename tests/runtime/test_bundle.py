"""Opening a bundle: what is checked, what is lazy, and what is refused."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from runtime.bundle import Bundle
from runtime.errors import BundleError, ClipFaceFusionError, EngineError
from runtime.manifest import CONSTANTS, MANIFEST_FILE, Manifest, onnx_file, sha256_of
from runtime.spec import engine_specs
from tests.fakes import MODEL, fake_bundle, write_bundle


def rewrite(folder: Path, name: str, data: bytes) -> None:
    """Replace a file, and the manifest's record with it: damage that hashes cannot see."""
    (folder / name).write_bytes(data)
    manifest = Manifest.read(folder)
    manifest.files[name].update(sha256=sha256_of(folder / name), bytes=len(data))  # type: ignore[attr-defined]
    manifest.write(folder)


def test_an_opened_bundle_says_what_it_is(tmp_path):
    write_bundle(tmp_path / "bundle")
    with Bundle.open(tmp_path / "bundle") as bundle:
        assert bundle.model == MODEL
        assert bundle.specs == engine_specs(MODEL)
        assert bundle.hash == sha256_of(tmp_path / "bundle" / MANIFEST_FILE)
        assert {name: array.shape for name, array in bundle.uncond.items()} == dict(MODEL.cond)
        assert bundle.tokenizer_path.is_file() and bundle.backend == "onnxruntime"


def test_opening_loads_no_engine_library(tmp_path):
    write_bundle(tmp_path / "bundle")
    program = (
        "import sys; from runtime.bundle import Bundle; Bundle.open(sys.argv[1]); print('onnxruntime' in sys.modules)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "bundle")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "False"


def test_an_engine_is_loaded_once_and_freed_on_close(tmp_path):
    bundle = fake_bundle(tmp_path / "bundle")
    engine = bundle.engine("unet")
    assert bundle.engine("unet") is engine and engine.spec.name == "unet"
    bundle.close()
    assert engine.is_closed
    bundle.close()


def test_a_damaged_file_is_found_on_opening(tmp_path):
    write_bundle(tmp_path / "bundle")
    (tmp_path / "bundle" / onnx_file("fusion")).write_bytes(b"fusioN")
    with pytest.raises(BundleError, match=r"onnx/fusion\.onnx: SHA-256"):
        Bundle.open(tmp_path / "bundle")


def test_a_file_that_changes_after_opening_is_still_not_loaded(tmp_path):
    bundle = fake_bundle(tmp_path / "bundle")
    (tmp_path / "bundle" / onnx_file("unet")).write_bytes(b"UNET")
    with pytest.raises(BundleError, match=r"onnx/unet\.onnx: SHA-256"):
        bundle.engine("unet")


def test_an_engine_the_model_does_not_have_is_refused_with_what_there_is(tmp_path):
    with pytest.raises(BundleError, match="no engine 'vae'; it has text_encoder"):
        fake_bundle(tmp_path / "bundle").engine("vae")


def test_an_engine_library_that_does_not_exist_is_refused_first(tmp_path):
    with pytest.raises(ClipFaceFusionError, match="available: auto, onnxruntime"):
        Bundle.open(tmp_path / "nowhere", engine="abacus")


@pytest.mark.parametrize(
    "constants",
    [
        {},
        {"uncond.cond": np.zeros(8, np.float32)},
        {"uncond.cond": np.zeros(9, np.float32), "uncond.cond_tokens": np.zeros((6, 4), np.float32)},
        {"uncond.cond": np.zeros(8, np.float64), "uncond.cond_tokens": np.zeros((6, 4), np.float32)},
        {"uncond.cond": np.full(8, np.nan, np.float32), "uncond.cond_tokens": np.zeros((6, 4), np.float32)},
    ],
)
def test_constants_that_do_not_fit_the_model_are_refused(tmp_path, constants):
    write_bundle(tmp_path / "bundle")
    save_file(constants, tmp_path / "constants")
    rewrite(tmp_path / "bundle", CONSTANTS, (tmp_path / "constants").read_bytes())
    with pytest.raises(BundleError, match=r"constants\.safetensors: 'uncond\.cond"):
        Bundle.open(tmp_path / "bundle")


def test_constants_that_are_no_safetensors_are_a_bundle_error(tmp_path):
    write_bundle(tmp_path / "bundle")
    rewrite(tmp_path / "bundle", CONSTANTS, b"\x80\x04pickle?")
    with pytest.raises(BundleError, match="not a safetensors file"):
        Bundle.open(tmp_path / "bundle")


def test_the_exported_bundle_opens_and_each_engine_answers_its_reference_inputs(micro_bundle):
    with Bundle.open(micro_bundle, threads=1) as bundle:
        tensors = bundle.parity_tensors()
        for name, spec in bundle.specs.items():
            outputs = bundle.engine(name)({t.name: tensors[f"{name}.input.{t.name}"] for t in spec.inputs})
            assert list(outputs) == [tensor.name for tensor in spec.outputs]


def test_an_engine_that_threads_share_is_run_by_one_at_a_time(tmp_path):
    """An engine has buffers of its own: two threads inside it would read each other's inputs."""
    bundle = fake_bundle(tmp_path / "bundle")
    inside, together = threading.Semaphore(1), []

    def engine(inputs):
        together.append(not inside.acquire(blocking=False))
        time.sleep(0.005)
        inside.release()
        return {"age": inputs["image"][:, :1, 0, 0]}

    bundle._engines["onnx", "age_estimator"] = engine
    threads = [
        threading.Thread(target=bundle.run, args=("age_estimator", {"image": np.zeros((1, 3, 16, 16), np.float32)}))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert together == [False] * 6


def test_what_is_not_finite_never_leaves_a_shared_engine(tmp_path):
    bundle = fake_bundle(tmp_path / "bundle")
    bundle._engines["onnx", "age_estimator"] = lambda inputs: {"age": np.full((1, 1), np.inf, np.float32)}
    with pytest.raises(EngineError, match="age_estimator: output 'age' is not finite"):
        bundle.run("age_estimator", {"image": np.zeros((1, 3, 16, 16), np.float32)})
