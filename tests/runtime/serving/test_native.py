"""Engines as Triton models: every field of every configuration, parsed as Triton's protobuf message and held against the specs."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from runtime.batcher import BUCKETS
from runtime.bundle import Bundle
from runtime.errors import BundleError
from runtime.manifest import sha256_of
from runtime.plans import BUILT, TENSORRT, TENSORRT_RTX, Plan, folder_of
from runtime.serving.model_config import CONFIG_FILE
from runtime.serving.native import CPU, GPU, Native
from runtime.serving.repository import build_repository
from runtime.spec import MAX_AUDIO_SAMPLES, MAX_BATCH, EngineSpec, engine_specs
from runtime.wire import SAMPLER_ENGINES
from tests.fakes import MODEL, write_bundle

SPECS = engine_specs(MODEL)
CONDITION_ENGINES = set(SPECS) - set(SAMPLER_ENGINES)
TYPES = {"float32": model_config_pb2.TYPE_FP32, "int64": model_config_pb2.TYPE_INT64}
VERSIONS = {TENSORRT: "11.4.0.106", TENSORRT_RTX: "1.7.1.116"}
PLAN_SET = folder_of(TENSORRT, VERSIONS[TENSORRT], ["sm90"])
# Of ModelConfig, what a model of one engine may have; the rest would change what it computes or how it is reached.
FIELDS = {
    "name",
    "platform",
    "backend",
    "version_policy",
    "max_batch_size",
    "input",
    "output",
    "instance_group",
    "dynamic_batching",
    "optimization",
    "default_model_filename",
    "model_warmup",
    "response_cache",
    "parameters",
}


def add_plans(folder: Path, flavour: str, engines: set[str]) -> None:
    """Put a set of plans into a bundle of fakes."""
    manifest = write_bundle(folder)
    target = {TENSORRT: "sm90", TENSORRT_RTX: "sm89"}[flavour]
    plans = [Plan(name, flavour, VERSIONS[flavour], (target,), f"onnx/{name}.onnx", BUILT) for name in sorted(engines)]
    files = dict(manifest.files)
    for plan in plans:
        path = folder / plan.file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"plan of " + plan.engine.encode())
        files[plan.file] = {"sha256": sha256_of(path), "bytes": path.stat().st_size}
    replace(manifest, plans=plans, files=files).write(folder)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle") / "fake"
    add_plans(folder, TENSORRT, set(SPECS))
    return folder


@pytest.fixture(
    scope="module",
    params=[
        Native(),
        Native(device=GPU, expose_unet=True),
        Native(PLAN_SET, GPU),
        Native(PLAN_SET, GPU, expose_unet=True),
    ],
    ids=lambda native: f"{native.networks}-{native.device}{'-unet' if native.expose_unet else ''}",
)
def native(request: pytest.FixtureRequest) -> Native:
    return request.param


@pytest.fixture(scope="module")
def repository(bundle: Path, native: Native, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("repository") / "models"
    build_repository(bundle, out, native)
    return out


@pytest.fixture(scope="module")
def configs(repository: Path) -> dict[str, model_config_pb2.ModelConfig]:
    """The configurations of the models that are engines."""
    return {name: parsed(repository / name) for name in SPECS if (repository / name).exists()}


def parsed(folder: Path) -> model_config_pb2.ModelConfig:
    return text_format.Parse((folder / CONFIG_FILE).read_text(encoding="utf-8"), model_config_pb2.ModelConfig())


def wanted(spec: EngineSpec) -> tuple[int, ...]:
    """Rows of the calls that will come."""
    return {"unet": BUCKETS, "text_encoder": (1, 2, 3)}.get(spec.name, (1,))


def is_plan(native: Native) -> bool:
    return native.networks == PLAN_SET


def test_each_engine_of_condition_is_a_model_and_the_samplers_only_on_demand(configs, native):
    assert set(configs) == (set(SPECS) if native.expose_unet else CONDITION_ENGINES)


def test_every_field_that_is_set_is_one_that_we_mean(configs):
    for name, config in configs.items():
        assert {field.name for field, _ in config.ListFields()} <= FIELDS, name


def test_the_backend_is_the_one_for_the_file_and_the_device(configs, native):
    for name, config in configs.items():
        expected = ("tensorrt", "tensorrt_plan") if is_plan(native) else ("onnxruntime", "onnxruntime_onnx")
        assert (config.name, config.backend, config.platform) == (name, *expected)
        kind = {CPU: config.instance_group[0].KIND_CPU, GPU: config.instance_group[0].KIND_GPU}[native.device]
        assert [(group.count, group.kind) for group in config.instance_group] == [(1, kind)]


def test_tensors_are_those_of_the_spec_without_the_batch(configs):
    for name, config in configs.items():
        spec = SPECS[name]
        assert config.max_batch_size == spec.ranges["B"][2]
        for declared, tensors in ((config.input, spec.inputs), (config.output, spec.outputs)):
            assert [tensor.name for tensor in declared] == [tensor.name for tensor in tensors]
            for entry, tensor in zip(declared, tensors, strict=True):
                sizes = [-1 if isinstance(size, str) else size for size in tensor.shape[1:]]
                assert entry.data_type == TYPES[tensor.dtype]
                assert list(entry.dims) == (sizes or [1])
                assert entry.HasField("reshape") == (not sizes), tensor.name
                assert list(entry.reshape.shape) == []


def test_a_timestep_is_a_column_to_callers_and_a_row_to_the_network(configs, native):
    if native.expose_unet:
        timestep = next(tensor for tensor in configs["unet"].input if tensor.name == "timestep")
        assert (list(timestep.dims), timestep.HasField("reshape")) == ([1], True)


def test_rows_of_strangers_are_joined_only_where_no_image_of_ours_passes(configs):
    assert {name for name, config in configs.items() if config.HasField("dynamic_batching")} == set(configs) & set(
        SAMPLER_ENGINES
    )
    for name in set(configs) & set(SAMPLER_ENGINES):
        batching = configs[name].dynamic_batching
        assert tuple(batching.preferred_batch_size) == tuple(rows for rows in wanted(SPECS[name]) if rows > 1)
        assert batching.max_queue_delay_microseconds == 0


def test_a_warm_up_has_every_hot_shape_of_every_input(configs):
    for name, config in configs.items():
        spec = SPECS[name]
        lengths = spec.ranges["T"][1:] if "T" in spec.ranges else (None,)
        assert [warmup.batch_size for warmup in config.model_warmup] == [rows for rows in wanted(spec) for _ in lengths]
        assert len({warmup.name for warmup in config.model_warmup}) == len(config.model_warmup)
        for warmup, length in zip(config.model_warmup, lengths * len(wanted(spec)), strict=True):
            assert set(warmup.inputs) == {tensor.name for tensor in spec.inputs}
            for tensor in spec.inputs:
                given = warmup.inputs[tensor.name]
                assert (given.data_type, given.zero_data) == (TYPES[tensor.dtype], True)
                sizes = [length if size == "T" else size for size in tensor.shape[1:]]
                assert list(given.dims) == (sizes or [1])


def test_plans_get_a_cuda_graph_for_every_hot_shape_and_onnx_files_none(configs, native):
    for name, config in configs.items():
        cuda = config.optimization.cuda
        assert cuda.graphs == is_plan(native)
        if not is_plan(native):
            assert not cuda.graph_spec
            continue
        spec = SPECS[name]
        lengths = spec.ranges["T"][1:] if "T" in spec.ranges else (None,)
        assert [graph.batch_size for graph in cuda.graph_spec] == [rows for rows in wanted(spec) for _ in lengths]
        assert all(1 <= graph.batch_size <= config.max_batch_size for graph in cuda.graph_spec)
        shapes = [{key: list(shape.dim) for key, shape in graph.input.items()} for graph in cuda.graph_spec]
        assert shapes == [{} if length is None else {"input_values": [length]} for length in lengths] * len(
            wanted(spec)
        )
    if is_plan(native):
        assert (
            configs["audio_encoder"].optimization.cuda.graph_spec[1].input["input_values"].dim[0] == MAX_AUDIO_SAMPLES
        )


def test_the_cuda_provider_computes_in_full_fp32_and_searches_nothing(configs, native):
    for config in configs.values():
        accelerators = config.optimization.execution_accelerators.gpu_execution_accelerator
        uses_cuda_provider = native.device == GPU and not is_plan(native)
        expected = [("cuda", {"use_tf32": "0"})] if uses_cuda_provider else []
        assert [(each.name, dict(each.parameters)) for each in accelerators] == expected
        assert not config.optimization.execution_accelerators.cpu_execution_accelerator
        assert ("cudnn_conv_algo_search" in config.parameters) == uses_cuda_provider
        if uses_cuda_provider:
            assert config.parameters["cudnn_conv_algo_search"].string_value == "2"  # DEFAULT


def test_one_version_is_served_and_no_answer_is_kept(configs):
    for config in configs.values():
        assert list(config.version_policy.specific.versions) == [1]
        assert config.HasField("response_cache") and not config.response_cache.enable


def test_files_are_copies_of_the_bundles_and_parameters_say_which(repository, configs, bundle):
    manifest = Bundle.open(bundle)
    for name, config in configs.items():
        copy = repository / name / "1" / config.default_model_filename
        said = {key: value.string_value for key, value in config.parameters.items()}
        assert said["bundle_sha256"] == manifest.hash
        assert copy.read_bytes() == (bundle / said["file"]).read_bytes()
        assert hashlib.sha256(copy.read_bytes()).hexdigest() == said["file_sha256"]
        assert not copy.is_symlink() and copy.stat().st_nlink == 1
        assert [path.name for path in copy.parent.iterdir()] == [config.default_model_filename]
        assert (bundle / said["file"]).stat().st_nlink == 1  # or the bundle would be refused from now on


def test_only_condition_is_told_that_its_engines_are_models(repository, native):
    told = {
        path.name: parsed(path).parameters["engines"].string_value
        for path in repository.iterdir()
        if "engines" in parsed(path).parameters
    }
    assert told == {"condition": native.provider}


def test_what_the_loop_needs_stays_in_the_samplers_process(repository):
    steps = parsed(repository / "clipfacefusion").ensemble_scheduling.step
    assert [step.model_name for step in steps] == ["preprocess", "condition", "ddim"]
    assert (repository / "sampler" / "1" / "model.py").is_file()


def test_the_embedded_flavour_has_no_model_of_an_engine(bundle, tmp_path):
    build_repository(bundle, tmp_path / "models")
    assert not set(SPECS) & {path.name for path in (tmp_path / "models").iterdir()}


def test_the_largest_hot_batch_is_what_the_unet_takes():
    assert max(BUCKETS) == MAX_BATCH == SPECS["unet"].ranges["B"][2]


@pytest.mark.parametrize(
    ("native", "message"),
    [
        (Native("onnx-fp16"), "networks: bundle 'fake' has no 'onnx-fp16'; for Triton it has onnx, " + PLAN_SET),
        (Native("tensorrt-1", GPU), "has no 'tensorrt-1'"),
        (Native("..", GPU), "has no '..'"),
        (Native(PLAN_SET, CPU), f"{PLAN_SET}: TensorRT plans run on a GPU only; use --device gpu"),
    ],
    ids=["absent kind", "absent set", "a folder above", "plans on a cpu"],
)
def test_networks_that_cannot_be_served_are_refused_and_nothing_is_written(bundle, tmp_path, native, message):
    with pytest.raises(BundleError) as refused:
        build_repository(bundle, tmp_path / "models", native)
    assert message in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_plans_of_tensorrt_rtx_are_refused_because_triton_loads_tensorrts(tmp_path):
    add_plans(tmp_path / "bundle", TENSORRT_RTX, set(SPECS))
    with pytest.raises(
        BundleError, match=r"loads plans of TensorRT, not of tensorrt-rtx; .* --targets onnx,onnx-fp16,tensorrt"
    ):
        build_repository(tmp_path / "bundle", tmp_path / "models", Native("tensorrt-rtx-1.7.1.116-sm89", GPU))


def test_a_set_without_an_engine_that_is_needed_is_refused(tmp_path):
    add_plans(tmp_path / "bundle", TENSORRT, CONDITION_ENGINES)
    build_repository(tmp_path / "bundle", tmp_path / "models", Native(PLAN_SET, GPU))
    with pytest.raises(BundleError, match="has no plan of unet, encoder, decoder; export again"):
        build_repository(tmp_path / "bundle", tmp_path / "more", Native(PLAN_SET, GPU, expose_unet=True))


def test_an_unknown_device_is_refused():
    with pytest.raises(BundleError, match="device: got 'tpu', allowed cpu or gpu"):
        Native(device="tpu")
