"""The native repository on a real tritonserver: real calls from `condition` to engines that are models of their own.

Not NVIDIA's backends: the server here has none of them, so a Python model stands in for each engine (`onnxruntime_model.py`). All
else is what `build_repository` wrote, the engines' tensors, warm-up and batching included.
"""

from __future__ import annotations

import json
import re
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from runtime.client import Client
from runtime.request import GenerateRequest
from runtime.serving.model_config import CONFIG_FILE
from runtime.serving.native import PLATFORMS, Native
from runtime.serving.repository import build_repository
from runtime.serving.tritonserver import LOOPBACK, TritonProcess

STAND_IN = Path(__file__).with_name("onnxruntime_model.py")
START_LIMIT_S = 180
POLL_S = 0.1


def stand_in(folder: Path) -> None:
    """Let the Python backend run an engine's model, its configuration otherwise unchanged; our own models get one process."""
    config = text_format.Parse((folder / CONFIG_FILE).read_text(), model_config_pb2.ModelConfig())
    if config.platform in PLATFORMS.values():
        config.backend, config.platform, config.default_model_filename = "python", "", "model.py"
        (folder / "1" / "model.py").write_text(STAND_IN.read_text())
    for group in config.instance_group:
        group.count = 1
    (folder / CONFIG_FILE).write_text(text_format.MessageToString(config))


@pytest.fixture(scope="module")
def server(micro_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonProcess]:
    folder = tmp_path_factory.mktemp("native")
    # Without the cache of encoder results: what is counted below is which engines a request needs.
    build_repository(micro_bundle, folder / "models", Native(expose_unet=True), feature_cache_bytes=0)
    for model in (folder / "models").iterdir():
        stand_in(model)
    with TritonProcess(folder / "models", folder, folder / "log") as process:
        deadline = time.monotonic() + START_LIMIT_S
        while not process.is_listening():
            process.check()
            assert time.monotonic() < deadline, process.log_tail()
            time.sleep(POLL_S)
        yield process


@pytest.fixture(scope="module")
def client(server: TritonProcess) -> Iterator[Client]:
    with Client(server.url, timeout_s=120) as client:
        yield client


@pytest.fixture
def full_request(wav: bytes, jpeg: bytes) -> GenerateRequest:
    return GenerateRequest(
        text="a smiling old man", audio=wav, reference=jpeg, age=70, emotion="happy", seed=11, num_inference_steps=2
    )


def calls(server: TritonProcess) -> dict[str, int]:
    """Model -> requests it has answered, from Triton's own metrics."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://{LOOPBACK}:{server.metrics_port}/metrics", timeout=10) as answer:
        found = re.findall(
            r'^nv_inference_request_success{model="(\w+)".*?} (\d+)', answer.read().decode(), re.MULTILINE
        )
    return {model: int(count) for model, count in found}


@pytest.mark.parametrize(
    "left_out",
    [(), ("audio", "reference", "age", "emotion"), ("text", "audio", "age", "emotion")],
    ids=["all", "text", "photo"],
)
def test_an_image_is_bit_for_bit_the_one_of_engines_in_process(client, pipeline, full_request, left_out):
    request = replace(full_request, **dict.fromkeys(left_out))
    served, local = client(request), pipeline(request)
    np.testing.assert_array_equal(served.image, local.image)
    assert served.report["inferred"] == local.report["inferred"]
    assert served.report["condition_provider"] == "Triton: onnx, cpu"


@pytest.mark.parametrize(
    ("fields", "engines"),
    [
        ({"text": "a sad boy"}, {"text_encoder", "fusion"}),
        ({"age": 30}, {"fusion"}),
        ({"reference": None}, {"image_encoder", "identity_encoder", "age_estimator", "emotion_estimator", "fusion"}),
    ],
    ids=["text", "age", "photo"],
)
def test_condition_calls_the_models_of_those_engines_that_the_request_needs(server, client, jpeg, fields, engines):
    before = calls(server)
    client(GenerateRequest(**({"reference": jpeg} if "reference" in fields else fields), num_inference_steps=1))
    after = calls(server)
    ours = {"clipfacefusion", "preprocess", "condition", "ddim", "sampler"}
    assert {model for model in after if after[model] > before.get(model, 0)} - ours == engines


def test_the_exposed_unet_answers_as_the_engine_in_process_and_no_image_of_ours_passes_through_it(
    server, client, pipeline
):
    before = calls(server).get("unet", 0)
    client(GenerateRequest(age=30, num_inference_steps=1))
    assert calls(server).get("unet", 0) == before
    rng = np.random.default_rng(0)
    unet = pipeline.bundle.engine("unet")
    arrays = {
        tensor.name: np.array([3, 500]) if tensor.name == "timestep" else rng.normal(size=shape).astype(np.float32)
        for tensor in unet.spec.inputs
        for shape in [(2, *tensor.shape[1:])]
    }
    inputs = []
    for name, array in arrays.items():
        sent = array.reshape(2, -1) if array.ndim == 1 else array
        inputs.append(grpcclient.InferInput(name, list(sent.shape), "INT64" if name == "timestep" else "FP32"))
        inputs[-1].set_data_from_numpy(sent)
    with grpcclient.InferenceServerClient(server.url) as transport:
        noise_pred = transport.infer("unet", inputs, client_timeout=120).as_numpy("noise_pred")
    np.testing.assert_array_equal(noise_pred, unet(arrays)["noise_pred"])


def test_every_engine_runs_at_its_hot_shapes_before_the_first_request(server, pipeline):
    """A warm-up of N rows is N requests of one row that Triton hands over together."""
    seen: dict[str, list] = {}
    for line in server.log.read_text().splitlines():
        if found := re.search(r"came together: (.*?)\"?$", line):
            model, rows, shapes = json.loads(found[1].replace('\\"', '"'))
            seen.setdefault(model, []).append((rows, shapes))
    assert [rows for rows, _ in seen["unet"][:5]] == [1, 2, 4, 8, 16]
    assert all(shapes["timestep"] == [1] for _, shapes in seen["unet"][:5])
    assert [shapes["input_values"] for _, shapes in seen["audio_encoder"][:2]] == [[1, 48_000], [1, 80_000]]
    assert [rows for rows, _ in seen["text_encoder"][:3]] == [1, 2, 3]
    assert set(seen) == set(pipeline.bundle.specs)
