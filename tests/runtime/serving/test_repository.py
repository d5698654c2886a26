"""The generated configurations agree with the request table and the engines' specs, and are valid protobuf."""

from __future__ import annotations

import shutil
from importlib import resources
from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from runtime.__main__ import main
from runtime.bundle import Bundle
from runtime.errors import ClipFaceFusionError
from runtime.preprocess import Preprocessor
from runtime.request import FIELDS, GenerateRequest
from runtime.serving import repository as repository_module
from runtime.serving.repository import build_repository

STEPS = ("preprocess", "condition", "ddim")


@pytest.fixture(scope="module")
def repository(micro_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("repository") / "models"
    build_repository(micro_bundle, out)
    return out


@pytest.fixture(scope="module")
def configs(repository: Path) -> dict:
    return {
        path.parent.name: text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
        for path in repository.glob("*/config.pbtxt")
    }


def contract(tensors) -> dict:
    return {tensor.name: (tensor.data_type, tuple(tensor.dims)) for tensor in tensors}


def test_the_repository_holds_the_ensemble_its_steps_the_stream_and_the_sampler(repository, configs):
    models = ("sampler", "clipfacefusion_stream", *STEPS)
    assert set(configs) == {"clipfacefusion", *models}
    assert all(config.name == folder and config.max_batch_size == 1 for folder, config in configs.items())
    assert all((repository / name / "1" / "model.py").is_file() for name in models)


@pytest.mark.parametrize("name", ["clipfacefusion", "clipfacefusion_stream", "preprocess"])
def test_public_inputs_are_the_request_table_and_all_optional(configs, name):
    types = {"BYTES": "TYPE_STRING", "FP32": "TYPE_FP32", "INT32": "TYPE_INT32", "INT64": "TYPE_INT64"}
    expected = {
        f.name: (model_config_pb2.DataType.Value(types[f.dtype]), (f.width,))
        for f in FIELDS
        if not (f.stream_only and name == "clipfacefusion")
    }
    assert contract(configs[name].input) == expected
    assert all(tensor.optional for tensor in configs[name].input)


def test_public_outputs_are_an_image_and_a_report(configs):
    expected = {"image": (model_config_pb2.TYPE_UINT8, (-1, -1, 3)), "report": (model_config_pb2.TYPE_STRING, (1,))}
    for name in ("clipfacefusion", "ddim"):
        assert contract(configs[name].output) == expected
    parts = {**expected, "step": (model_config_pb2.TYPE_INT32, (1,)), "final": (model_config_pb2.TYPE_BOOL, (1,))}
    for name in ("clipfacefusion_stream", "sampler"):
        assert contract(configs[name].output) == parts


def test_each_step_takes_exactly_what_the_one_before_gives(configs):
    for giver, taker in (("preprocess", "condition"), ("condition", "ddim")):
        assert contract(configs[giver].output) == contract(configs[taker].input)
        assert not any(tensor.optional for tensor in configs[taker].input)


def test_the_sampler_takes_what_condition_gives_or_the_id_of_a_job(configs):
    ids = dict.fromkeys(("next", "cancel"), (model_config_pb2.TYPE_STRING, (1,)))
    assert contract(configs["sampler"].input) == {**contract(configs["condition"].output), **ids}
    assert all(tensor.optional for tensor in configs["sampler"].input)


def test_the_ensemble_connects_every_tensor_of_every_step(configs):
    steps = configs["clipfacefusion"].ensemble_scheduling.step
    assert [step.model_name for step in steps] == list(STEPS)
    made = {tensor.name for tensor in configs["clipfacefusion"].input}
    for step in steps:
        taken = {tensor.name for tensor in configs[step.model_name].input} - {"preview_every"}  # the stream's alone
        assert set(step.input_map) == taken
        assert set(step.output_map) == {tensor.name for tensor in configs[step.model_name].output}
        assert set(step.input_map.values()) <= made
        made = set(step.output_map.values())
    assert made == {tensor.name for tensor in configs["clipfacefusion"].output}


def test_what_preprocess_makes_fits_its_configuration(micro_bundle, configs):
    bundle = Bundle.open(micro_bundle)
    types = {"float32": "TYPE_FP32", "int32": "TYPE_INT32", "int64": "TYPE_INT64", "object": "TYPE_STRING"}
    made = Preprocessor(bundle.model, bundle.tokenizer_path, 1.0)(GenerateRequest(age=30)).to_tensors()
    declared = {tensor.name: tensor for tensor in configs["preprocess"].output}
    assert made.keys() == declared.keys()
    for name, array in made.items():
        assert declared[name].data_type == model_config_pb2.DataType.Value(types[str(array.dtype)])
        assert len(declared[name].dims) == array.ndim, name
        assert all(dim in (-1, size) for dim, size in zip(declared[name].dims, array.shape, strict=True)), name


def test_cond_entries_have_the_shapes_of_the_bundle(micro_bundle, configs):
    conditioned = contract(configs["condition"].output)
    for name, shape in Bundle.open(micro_bundle).model.cond.items():
        assert conditioned[name] == (model_config_pb2.TYPE_FP32, shape)


def test_the_stream_alone_is_decoupled_and_who_answers_later_is_one_process(configs):
    decoupled = {name for name, config in configs.items() if config.model_transaction_policy.decoupled}
    assert decoupled == {"clipfacefusion_stream"}
    assert all(configs[name].instance_group[0].count == 1 for name in (*decoupled, "sampler", "ddim"))


def test_the_key_of_inner_calls_is_drawn_for_each_repository_and_not_in_the_public_model(
    micro_bundle, configs, tmp_path
):
    build_repository(micro_bundle, tmp_path / "models")
    other = text_format.Parse((tmp_path / "models/condition/config.pbtxt").read_text(), model_config_pb2.ModelConfig())
    key = configs["condition"].parameters["inner_key"].string_value
    assert len(key) == 32 and key != other.parameters["inner_key"].string_value
    assert "inner_key" not in configs["clipfacefusion"].parameters


def test_settings_of_a_server_reach_the_models_that_they_are_for(micro_bundle, tmp_path):
    build_repository(micro_bundle, tmp_path / "models", face_pack=tmp_path / "pack", stall_limit_s=2.5)
    for model, name, value in (
        ("preprocess", "face_pack", str(tmp_path / "pack")),
        ("sampler", "stall_limit_s", "2.5"),
    ):
        text = (tmp_path / "models" / model / "config.pbtxt").read_text()
        assert text_format.Parse(text, model_config_pb2.ModelConfig()).parameters[name].string_value == value


def test_every_configuration_carries_the_hash_of_the_bundle(micro_bundle, configs):
    expected = Bundle.open(micro_bundle).hash
    assert {config.parameters["bundle_sha256"].string_value for config in configs.values()} == {expected}


def test_the_bundle_may_lie_under_a_path_that_needs_quoting(micro_bundle, tmp_path):
    folder = tmp_path / 'a "quoted" ünïcode\\path'
    shutil.copytree(micro_bundle, folder)
    build_repository(folder, tmp_path / "models")
    config = text_format.Parse((tmp_path / "models/sampler/config.pbtxt").read_text(), model_config_pb2.ModelConfig())
    assert config.parameters["bundle"].string_value == str(folder)


def test_an_existing_folder_is_not_written_into(micro_bundle, tmp_path):
    (tmp_path / "models").mkdir()
    with pytest.raises(ClipFaceFusionError, match="'models' exists; a repository is written into a new folder"):
        build_repository(micro_bundle, tmp_path / "models")
    assert list((tmp_path / "models").iterdir()) == []


def test_a_repository_that_cannot_be_finished_is_not_there(micro_bundle, tmp_path, monkeypatch):
    def fill_the_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(repository_module, "ensemble_config", fill_the_disk)
    with pytest.raises(OSError, match="No space left"):
        build_repository(micro_bundle, tmp_path / "models")
    assert list(tmp_path.iterdir()) == []


def test_a_server_elsewhere_is_told_where_it_will_find_the_bundle(micro_bundle, tmp_path):
    build_repository(micro_bundle, tmp_path / "models", mounted_at="/bundle")
    for name in ("preprocess", "condition", "sampler"):
        text = (tmp_path / "models" / name / "config.pbtxt").read_text()
        config = text_format.Parse(text, model_config_pb2.ModelConfig())
        assert config.parameters["bundle"].string_value == "/bundle"


def test_the_command_writes_either_flavour_and_says_what_is_in_it(micro_bundle, tmp_path, capsys):
    assert main(["repository", str(micro_bundle), str(tmp_path / "embedded")]) == 0
    assert (
        "clipfacefusion, clipfacefusion_stream, condition, ddim, preprocess, sampler; bundle" in capsys.readouterr().out
    )
    flags = ["--flavour", "native", "--device", "gpu", "--expose-unet"]
    assert main(["repository", str(micro_bundle), str(tmp_path / "native"), *flags]) == 0
    models = capsys.readouterr().out.partition(": ")[2].partition(";")[0].split(", ")
    ours = {"clipfacefusion", "clipfacefusion_stream", "sampler", *STEPS}
    assert set(models) == ours | set(Bundle.open(micro_bundle).specs)
    assert "KIND_GPU" in (tmp_path / "native" / "unet" / "config.pbtxt").read_text()


@pytest.mark.parametrize("flags", [["--networks", "onnx"], ["--device", "gpu"], ["--expose-unet"]], ids=lambda f: f[0])
def test_a_flag_that_would_have_no_effect_is_refused(micro_bundle, tmp_path, capsys, flags):
    assert main(["repository", str(micro_bundle), str(tmp_path / "models"), *flags]) == 1
    assert f"{flags[0]}: only the native flavour has such models; add --flavour native" in capsys.readouterr().err
    assert not (tmp_path / "models").exists()


def test_a_folder_that_cannot_be_written_is_an_error_without_a_traceback(micro_bundle, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["repository", str(micro_bundle), str(tmp_path / "file" / "models")]) == 1
    assert "cannot write" in capsys.readouterr().err


def test_the_models_move_tensors_and_import_no_engine_library():
    for name in ("sampler", *STEPS):
        source = resources.files("triton_repo").joinpath(name, "1", "model.py").read_text()
        for library in ("onnxruntime", "torch", "tensorrt"):
            assert f"import {library}" not in source
