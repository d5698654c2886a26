"""The commands: what they print and write, their exit statuses, and what they do not import."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import runtime.client
import runtime.pipeline
from runtime.__main__ import main
from runtime.access import Access
from runtime.batcher import BUCKETS
from runtime.errors import UnavailableError
from runtime.manifest import MANIFEST_FILE, Manifest
from runtime.provenance import read_provenance
from runtime.request import GenerateResult
from tests.fakes import fake_bundle, write_bundle

COMMANDS = ("inspect", "verify", "generate", "edit", "serve", "request")


@pytest.fixture
def faked(monkeypatch, tmp_path):
    """`generate` on a bundle of fakes."""
    opened = []

    def open_fakes(folder, engine, threads, face_pack, whole_loop):
        opened.append((engine, threads, face_pack, whole_loop))
        return runtime.pipeline.Pipeline(fake_bundle(tmp_path / "bundle"))

    monkeypatch.setattr(runtime.pipeline.Pipeline, "open", open_fakes)
    return opened


def generate(tmp_path, *flags: str, out: str = "face.png") -> int:
    return main(["generate", "B", "--steps", "2", "--out", str(tmp_path / out), *flags])


def test_generate_writes_the_face_with_its_provenance_and_prints_the_report(faked, tmp_path, capsys):
    assert generate(tmp_path, "--age", "30", "--seed", "5") == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["seed"], printed["conditions"]) == (5, ["age"])
    with Image.open(tmp_path / "face.png") as picture:
        assert picture.size == (16, 16)
    assert read_provenance(tmp_path / "face.png")["seed"] == 5


def test_count_makes_numbered_faces_with_consecutive_seeds(faked, tmp_path, capsys):
    assert generate(tmp_path, "--age", "30", "--seed", "5", "--count", "3", out="face.webp") == 0
    assert [json.loads(line)["seed"] for line in capsys.readouterr().out.splitlines()] == [5, 6, 7]
    assert sorted(path.name for path in tmp_path.glob("face*")) == ["face-0.webp", "face-1.webp", "face-2.webp"]


def test_count_without_a_seed_draws_each_anew(faked, tmp_path, capsys):
    assert generate(tmp_path, "--age", "30", "--count", "3") == 0
    assert len({json.loads(line)["seed"] for line in capsys.readouterr().out.splitlines()}) == 3


@pytest.mark.parametrize("whole_loop", [False, True])
def test_engine_threads_face_pack_and_whole_loop_reach_the_pipeline(faked, tmp_path, whole_loop):
    flags = ["--age", "30", "--engine", "onnxruntime", "--threads", "3", "--face-pack", "packs/mine"]
    generate(tmp_path, *flags, *["--whole-loop"] * whole_loop)
    assert faked == [("onnxruntime", 3, Path("packs/mine"), whole_loop)]


@pytest.mark.parametrize(
    ("flags", "status", "message"),
    [
        (["--age", "-1"], 2, "age: got -1, allowed 0..120"),
        (["--audio", "/nowhere.wav"], 2, "audio: cannot read /nowhere.wav"),
        (["--age", "1", "--seed", str(2**63 - 2), "--count", "3"], 2, "seed: got 9223372036854775806 with --count 3"),
    ],
)
def test_a_wrong_request_is_one_line_and_status_2(faked, tmp_path, capsys, flags, status, message):
    assert generate(tmp_path, *flags) == status
    captured = capsys.readouterr()
    assert captured.err.startswith(f"clipfacefusion: {message}") and captured.err.count("\n") == 1
    assert not captured.out and not list(tmp_path.glob("*.png"))


@pytest.mark.parametrize(
    "flags",
    [["--count", "0"], ["--count", "x"], ["--out", "face.gif"], ["--out", "/nowhere/face.png"], ["--threads", "0"]],
)
def test_wrong_flags_are_refused_before_anything_runs(faked, tmp_path, capsys, flags):
    with pytest.raises(SystemExit) as caught:
        generate(tmp_path, "--age", "1", *flags)
    assert caught.value.code == 2 and flags[0] in capsys.readouterr().err and not faked


@pytest.mark.parametrize("command", ["inspect", "verify", "generate"])
def test_what_is_no_bundle_is_one_line_and_status_1(tmp_path, capsys, command):
    assert main([command, str(tmp_path), *(["--age", "1"] if command == "generate" else [])]) == 1
    assert re.fullmatch(r"clipfacefusion: .*is this a bundle\?\n", capsys.readouterr().err)


def test_an_unknown_engine_lists_what_there_is(tmp_path, capsys):
    assert main(["generate", str(tmp_path), "--age", "1", "--engine", "abacus"]) == 1
    assert "available: auto, onnxruntime" in capsys.readouterr().err


def test_an_interrupt_is_status_130(monkeypatch, tmp_path):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(runtime.pipeline.Pipeline, "open", interrupted)
    assert generate(tmp_path, "--age", "1") == 130


def test_inspect_prints_a_table_or_the_manifest(micro_bundle, capsys):
    assert main(["inspect", str(micro_bundle)]) == 0
    table = capsys.readouterr().out
    assert all(engine in table for engine in ("text_encoder", "unet", "decoder"))
    assert main(["inspect", str(micro_bundle), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((micro_bundle / MANIFEST_FILE).read_text())


def test_inspect_refuses_a_damaged_bundle(tmp_path, capsys):
    write_bundle(tmp_path / "bundle")
    (tmp_path / "bundle" / "tokenizer.json").write_text("{}")
    assert main(["inspect", str(tmp_path / "bundle")]) == 1
    assert "tokenizer.json: has 2 bytes" in capsys.readouterr().err


def test_inspect_prints_the_memory_that_calls_take(micro_bundle, capsys):
    assert main(["inspect", str(micro_bundle), "--memory"]) == 0
    table = capsys.readouterr().out
    assert all(words in table for words in ("unet", "all weights", "rows per call"))
    assert main(["inspect", str(micro_bundle), "--memory", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["buckets"] == list(BUCKETS)
    assert shown["engines"] == json.loads((micro_bundle / MANIFEST_FILE).read_text())["memory"]


def test_verify_says_ok_for_every_rung(micro_bundle, capsys):
    assert main(["verify", str(micro_bundle)]) == 0
    printed = capsys.readouterr().out
    assert printed.count(" ok\n") == printed.count("\nonnx ") == 20 and "engine unet" in printed


def test_verify_fails_where_a_rung_misses_its_limit(micro_bundle, tmp_path, capsys):
    import shutil

    shutil.copytree(micro_bundle, tmp_path / "bundle")
    manifest = json.loads((tmp_path / "bundle" / MANIFEST_FILE).read_text())
    manifest["parity"]["onnx"]["limits"]["trajectory"] = -1.0
    (tmp_path / "bundle" / MANIFEST_FILE).write_text(json.dumps(manifest))
    assert main(["verify", str(tmp_path / "bundle")]) == 1
    captured = capsys.readouterr()
    assert captured.out.count("MISSED") == 1 and "do not use this bundle" in captured.err


def test_verify_fails_on_plans_that_never_ran_unless_that_is_allowed(full_bundle, capsys):
    if not Manifest.read(full_bundle).plans:
        pytest.skip("tensorrt_rtx is not installed, so the bundle has no plans")
    assert main(["verify", str(full_bundle)]) == 1
    captured = capsys.readouterr()
    assert "10 plans were never executed" in captured.err and "sm75, sm89, sm120" in captured.err
    assert "unet.plan: built, never executed" in captured.out and "MISSED" not in captured.out
    assert main(["verify", str(full_bundle), "--allow-unexecuted"]) == 0


def test_request_asks_the_server_and_saves_what_it_answers(monkeypatch, tmp_path, capsys):
    class FakeClient:
        def __init__(self, url, timeout_s, access):
            asked.append((url, timeout_s, access))

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def __call__(self, request):
            asked.append(request.text)
            return GenerateResult(np.zeros((8, 8, 3), np.uint8), {"seed": 3})

    asked = []
    monkeypatch.setenv("CLIPFACEFUSION_TOKEN", "t0ken")
    monkeypatch.setattr(runtime.client, "Client", FakeClient)
    out = tmp_path / "face.png"
    flags = ["--url", "host:1", "--timeout", "7", "--tls", "--tenant", "acme", "--text", "a man", "--out", str(out)]
    assert main(["request", *flags]) == 0
    assert (
        asked == [("host:1", 7.0, Access(tls=True, token="t0ken", tenant="acme")), "a man"]
        and json.loads(capsys.readouterr().out)["seed"] == 3
    )
    assert read_provenance(out)["seed"] == 3


def test_a_server_that_is_not_there_is_one_line_and_status_1(monkeypatch, tmp_path, capsys):
    def gone(*_, **__):
        raise UnavailableError("host:1 does not answer")

    monkeypatch.setattr(runtime.client, "Client", gone)
    assert main(["request", "--age", "1", "--out", str(tmp_path / "face.png")]) == 1
    assert capsys.readouterr().err == "clipfacefusion: host:1 does not answer\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_ends_with_an_example_of_its_command(command, capsys):
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    assert re.search(rf"example:\n  clipfacefusion {command} .+\n\Z", capsys.readouterr().out)


def test_the_help_of_the_whole_lists_the_commands(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    printed = capsys.readouterr().out
    assert all(command in printed for command in COMMANDS) and "example:" in printed


def modules_after(*command: str) -> set[str]:
    """Which heavy modules a fresh process of that command has imported, whatever its exit status."""
    program = (
        "import sys; from runtime.__main__ import main; main(sys.argv[1:]);"
        "print(*[m for m in ('onnxruntime', 'tritonclient', 'grpc', 'torch', 'tokenizers', 'PIL') if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *command], capture_output=True, text=True, env=os.environ, check=True
    )
    return set(done.stderr.splitlines()[-1].split())


def test_request_loads_no_engine_library(tmp_path):
    out = str(tmp_path / "face.png")
    loaded = modules_after("request", "--url", "127.0.0.1:1", "--timeout", "5", "--age", "1", "--out", out)
    assert "tritonclient" in loaded and not loaded & {"onnxruntime", "torch", "tokenizers"}


def test_generate_loads_no_grpc_and_no_torch(micro_bundle, tmp_path):
    out = str(tmp_path / "face.png")
    loaded = modules_after("generate", str(micro_bundle), "--age", "1", "--steps", "1", "--out", out)
    assert "onnxruntime" in loaded and not loaded & {"tritonclient", "grpc", "torch"}
    assert (tmp_path / "face.png").is_file()
