"""`condition` on engines that are Triton models, against a fake of Triton's calls between models.

A fake: it checks a call against the written configuration as Triton would, and answers it with ONNX Runtime in this process. It
proves what our side sends and makes of the answer; that a real server does the same is for `tests/serving/test_native.py`.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2

from runtime.bundle import Bundle
from runtime.errors import BundleError, EngineError
from runtime.preprocess import Preprocessor
from runtime.request import GenerateRequest
from runtime.serving.model_config import CONFIG_FILE
from runtime.serving.native import Native
from runtime.serving.repository import build_repository
from runtime.spec import EngineSpec, TensorSpec
from tests.runtime.test_conditioning import photo, voice

NUMPY_TYPE = {model_config_pb2.TYPE_FP32: "float32", model_config_pb2.TYPE_INT64: "int64"}
OURS = tuple(f"triton_repo.{name}" for name in ("boundary", "bundle", "called", "ledger", "metrics"))


class Tensor:
    def __init__(self, name, array):
        self._name, self._array = name, array

    def name(self):
        return self._name

    def as_numpy(self):
        return self._array


class Answer:
    def __init__(self, tensors=(), error=None):
        self.tensors, self._error = list(tensors), error

    def output_tensors(self):
        return self.tensors

    def has_error(self):
        return self._error is not None

    def error(self):
        return self._error


class Metrics:
    """Families of metrics; nobody reads them here."""

    GAUGE, COUNTER, HISTOGRAM = "gauge", "counter", "histogram"

    def __init__(self, **_):
        self.Metric = lambda **_: SimpleNamespace(
            increment=lambda by: None, observe=lambda value: None, value=lambda: 0
        )


class Server:
    """A fake of the server's side: models by name, and the calls they got."""

    def __init__(self, repository: Path, bundle: Bundle) -> None:
        self.configs = {
            path.parent.name: text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
            for path in repository.glob(f"*/{CONFIG_FILE}")
        }
        self.bundle = bundle
        self.called: list[str] = []
        self.failure: str | None = None

    def call(self, model_name, requested_output_names, inputs, preferred_memory):
        assert preferred_memory == ("cpu", 0), "numpy could not read the answer"
        arrays = {tensor.name(): tensor.as_numpy() for tensor in inputs}
        return SimpleNamespace(exec=lambda: self._answer(model_name, requested_output_names, arrays))

    def _answer(self, model, names, arrays):
        if self.failure:
            return Answer(error=SimpleNamespace(message=lambda: self.failure))
        config = self.configs[model]
        assert {tensor.name for tensor in config.input} == set(arrays)
        for tensor in config.input:
            array = arrays[tensor.name]
            assert array.flags.c_contiguous and str(array.dtype) == NUMPY_TYPE[tensor.data_type]
            assert 1 <= array.shape[0] <= config.max_batch_size
            assert len(array.shape) == 1 + len(tensor.dims)
            assert all(want in (-1, size) for want, size in zip(tensor.dims, array.shape[1:], strict=True))
        assert {tensor.name for tensor in config.output} == set(names)
        self.called.append(model)
        return Answer(Tensor(name, array) for name, array in self.bundle.engine(model)(arrays).items())


@pytest.fixture(scope="module")
def bundle(micro_bundle):
    with Bundle.open(micro_bundle) as bundle:
        yield bundle


@pytest.fixture(scope="module")
def repositories(micro_bundle, tmp_path_factory):
    folder = tmp_path_factory.mktemp("repositories")
    build_repository(micro_bundle, folder / "embedded")
    build_repository(micro_bundle, folder / "native", Native())
    return folder


@pytest.fixture
def server(repositories, bundle):
    return Server(repositories / "native", bundle)


@pytest.fixture
def log():
    return []


@pytest.fixture
def triton(monkeypatch, server, log):
    """Triton's module for Python models, replaced; what of ours imports it is imported anew."""
    fake = SimpleNamespace(
        Tensor=Tensor,
        InferenceRequest=server.call,
        InferenceResponse=lambda tensors=(), error=None: Answer(tensors, error),
        PreferredMemory=lambda kind, device: (kind, device),
        TRITONSERVER_MEMORY_CPU="cpu",
        TritonError=lambda message, code: SimpleNamespace(message=lambda: message, code=code),
        Logger=SimpleNamespace(log_error=log.append),
        MetricFamily=Metrics,
    )
    fake.TritonError.INTERNAL = "INTERNAL"
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", fake)
    for name in OURS:
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield fake
    for name in OURS:
        sys.modules.pop(name, None)


def condition(repository: Path):
    """The model `condition` of a repository, initialized as Triton would."""
    path = repository / "condition" / "1" / "model.py"
    spec = importlib.util.spec_from_file_location("condition_model", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = text_format.Parse(
        (repository / "condition" / CONFIG_FILE).read_text(encoding="utf-8"), model_config_pb2.ModelConfig()
    )
    model = module.TritonPythonModel()
    model.initialize({"model_config": json_format.MessageToJson(config, preserving_proto_field_name=True)})
    return model


def prepared(bundle, fields):
    request = GenerateRequest(**fields, seed=1, guidance_scale=2.0)
    tensors = Preprocessor(bundle.model, bundle.tokenizer_path, 1.0)(request).to_tensors()
    return SimpleNamespace(
        inputs=lambda: [Tensor(name, array[None]) for name, array in tensors.items()],
        request_id=lambda: "",
        parameters=lambda: "",
    )


def arrays_of(answer):
    assert not answer.has_error()
    return {tensor.name(): tensor.as_numpy() for tensor in answer.output_tensors()}


@pytest.mark.parametrize(
    ("fields", "engines"),
    [
        ({"age": 30}, ["fusion"]),
        ({"text": "a sad boy with red hair, 12 years old"}, ["text_encoder", "fusion"]),
        ({"audio": voice()}, ["audio_encoder", "fusion"]),
        (
            {"reference": photo()},
            ["image_encoder", "identity_encoder", "age_estimator", "emotion_estimator", "fusion"],
        ),
        (
            {"text": "a woman", "audio": voice(), "reference": photo(), "age": 70, "emotion": "happy"},
            ["text_encoder", "audio_encoder", "image_encoder", "identity_encoder", "fusion"],
        ),
    ],
    ids=["age", "text", "voice", "photo", "all"],
)
@pytest.mark.usefixtures("triton")
def test_called_engines_give_the_arrays_of_engines_in_process(repositories, bundle, server, fields, engines):
    request = prepared(bundle, fields)
    [embedded] = condition(repositories / "embedded").execute([request])
    assert server.called == []
    [native] = condition(repositories / "native").execute([request])
    assert server.called == engines
    expected, given = arrays_of(embedded), arrays_of(native)
    assert given.keys() == expected.keys()
    for name in set(expected) - {"notes"}:
        np.testing.assert_array_equal(given[name], expected[name])
    notes = [json.loads(arrays["notes"][0, 0]) for arrays in (expected, given)]
    assert [each["condition_provider"] for each in notes] == ["CPUExecutionProvider", "Triton: onnx, cpu"]
    assert notes[0]["inferred"] == notes[1]["inferred"]


@pytest.mark.usefixtures("triton")
def test_what_triton_says_of_a_failed_call_is_for_the_log_and_not_for_the_caller(repositories, bundle, server, log):
    model = condition(repositories / "native")
    server.failure = "in '/opt/secret': CUDA out of memory"
    [answer] = model.execute([prepared(bundle, {"age": 30})])
    assert answer.error().message() == "fusion: the model failed; the server's log says why"
    assert log == ["fusion: in '/opt/secret': CUDA out of memory"]


@pytest.mark.usefixtures("triton")
def test_a_bundle_that_changed_since_is_refused(repositories, bundle, tmp_path):
    repository = tmp_path / "native"
    shutil.copytree(repositories / "native" / "condition", repository / "condition")
    config = repository / "condition" / CONFIG_FILE
    config.write_text(config.read_text().replace(bundle.hash, "0" * 64))
    with pytest.raises(BundleError, match="changed after its model repository was built"):
        condition(repository)


SPEC = EngineSpec(
    "doubler", (TensorSpec("x", "float32", ("B", 2)),), (TensorSpec("y", "float32", ("B", 2)),), {"B": (1, 1, 4)}
)


@pytest.fixture
def doubler(triton):
    return importlib.import_module("triton_repo.called").open_called(b"", SPEC, "here")


def answering(triton, *tensors):
    triton.InferenceRequest = lambda **_: SimpleNamespace(exec=lambda: Answer(tensors))


def test_inputs_that_break_the_spec_never_leave_the_process(doubler, server):
    with pytest.raises(EngineError, match=r"the profile allows 1\.\.4"):
        doubler({"x": np.zeros((5, 2), np.float32)})
    assert server.called == []


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ([], "output 'y' is missing"),
        ([Tensor("y", np.zeros((2, 3), np.float32))], "'y' has shape"),
        ([Tensor("y", np.zeros((2, 2)))], "'y' has dtype float64"),
        ([Tensor("y", np.zeros((1, 2), np.float32))], "'y' has shape"),
    ],
    ids=["missing", "wide", "float64", "too few rows"],
)
def test_an_answer_that_breaks_the_spec_is_refused_because_triton_does_not_look(triton, doubler, tensors, message):
    answering(triton, *tensors)
    with pytest.raises(EngineError, match=message):
        doubler({"x": np.zeros((2, 2), np.float32)})


def test_an_answer_is_the_callers_to_keep(triton, doubler):
    shared = np.ones((1, 2), np.float32)
    answering(triton, Tensor("y", shared))
    kept = doubler({"x": np.zeros((1, 2), np.float32)})["y"]
    shared[:] = 7  # Triton takes its memory back
    assert kept.tolist() == [[1, 1]]
