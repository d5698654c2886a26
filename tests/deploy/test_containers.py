"""The container files, read instruction by instruction; and the start script, run with a stand-in for tritonserver. No image is built."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest

from runtime.__main__ import _parser
from runtime.serving import installation, tritonserver
from runtime.serving.supervisor import add_arguments

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
FILES = pytest.mark.parametrize("name", ["Containerfile", "Containerfile.gpu"])
SCRIPT = DEPLOY / "serve-native.sh"


def instructions(name: str) -> list[tuple[str, str]]:
    lines = [line for line in (DEPLOY / name).read_text().splitlines() if line and not line.startswith("#")]
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines)]


def last(name: str, word: str) -> str:
    return [rest for each, rest in instructions(name) if each == word][-1]


@FILES
def test_an_image_does_not_run_as_root(name):
    assert int(last(name, "USER").partition(":")[0]) > 0


@FILES
def test_what_is_copied_exists_and_is_let_through(name):
    let_through = {
        line[1:] for line in (DEPLOY / f"{name}.dockerignore").read_text().splitlines() if line.startswith("!")
    }
    assert all((ROOT / path).exists() for path in let_through)
    for word, rest in instructions(name):
        if word == "COPY" and "--from" not in rest:
            source = next(part for part in rest.split() if not part.startswith("--"))
            assert source == "." or source in let_through


@FILES
def test_what_is_let_through_is_enough_to_build_the_package(name):
    text = (DEPLOY / f"{name}.dockerignore").read_text()
    for needed in ("pyproject.toml", "README.md", "LICENSE", "clipfacefusion.py", "runtime", "triton_repo"):
        assert f"!{needed}\n" in text
    assert text.splitlines()[1] == "*", "everything else stays out"


def test_the_cpu_image_serves_with_flags_that_exist():
    command = json.loads(last("Containerfile", "ENTRYPOINT"))
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    assert command[1] == "serve"
    assert parser.parse_args(command[2:]).health_port == 8003
    assert re.search(r"127\.0\.0\.1:(\d+)/ready", last("Containerfile", "HEALTHCHECK"))[1] == "8003"


def test_the_cpu_image_has_a_python_that_tritonserver_s_wheel_supports():
    version = re.match(r"python:(\d+)\.(\d+)-", last("Containerfile", "FROM"))
    assert tuple(map(int, version.groups())) in installation.PYTHON_VERSIONS


def test_the_gpu_image_stands_on_a_triton_without_the_known_holes():
    release = re.match(r"nvcr\.io/nvidia/tritonserver:(\d+)\.(\d+)-py3", last("Containerfile.gpu", "FROM"))
    assert tuple(map(int, release.groups())) >= (26, 7)


def test_the_gpu_image_builds_and_asks_with_commands_that_exist():
    (build,) = [rest for _, rest in instructions("Containerfile.gpu") if rest.startswith("clipfacefusion")]
    asked = json.loads(last("Containerfile.gpu", "HEALTHCHECK").partition("CMD ")[2])
    for command in (shlex.split(build), asked):
        assert command[0] == "clipfacefusion"
        _parser(command[1:]).parse_args(command[1:])


def test_the_gpu_image_closes_what_serve_closes():
    """All flags of `serve`, but those with values of this machine and with times of their own."""
    ours = tritonserver._options("127.0.0.1", 8001, 8002, "prefix")
    varying = ("exit-timeout-secs", "grpc-restricted-protocol", "shm-region-prefix-name")
    script = SCRIPT.read_text().replace("'", "")
    for flag in ours:
        if not any(name in flag for name in varying):
            assert f"  {flag} " in script
    assert (
        f'--grpc-restricted-protocol="{tritonserver.RESTRICTED_PROTOCOLS}:admin-key=$(head -c 24 /dev/urandom' in script
    )


@pytest.fixture
def triton(tmp_path):
    """A stand-in for tritonserver on PATH: writes down its flags, and ends on SIGTERM with status 0."""
    program = tmp_path / "bin" / "tritonserver"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/flags\n'
        f'trap "date +%s.%N > {tmp_path}/ended; exit 0" TERM\nwhile :; do sleep 0.05; done\n'
    )
    program.chmod(0o755)
    (tmp_path / "models").mkdir()
    return {**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}", "MODELS": f"{tmp_path}/models"}


def test_the_start_script_refuses_first_waits_and_only_then_stops_triton(triton, tmp_path):
    with subprocess.Popen([SCRIPT], env={**triton, "DRAIN_SECONDS": "1"}) as started:
        _until((tmp_path / "flags").exists)
        assert not (tmp_path / "models" / "stopping").exists()
        told = time.time()
        started.send_signal(signal.SIGTERM)
        _until((tmp_path / "models" / "stopping").exists)
        assert started.wait(30) == 0
    assert float((tmp_path / "ended").read_text()) - told >= 1


def test_the_start_script_draws_a_key_of_its_own_each_time(triton, tmp_path):
    keys = set()
    for _ in range(2):
        with subprocess.Popen([SCRIPT], env={**triton, "DRAIN_SECONDS": "0"}) as started:
            _until(lambda: (tmp_path / "flags").exists() and "stub-timeout" in (tmp_path / "flags").read_text())
            started.send_signal(signal.SIGTERM)
            started.wait(30)
        keys.add(re.search(r"admin-key=(\S{32})\n", (tmp_path / "flags").read_text())[1])
        (tmp_path / "flags").unlink()
    assert len(keys) == 2


def test_the_start_script_ends_as_triton_ends(triton, tmp_path):
    (tmp_path / "bin" / "tritonserver").write_text("#!/bin/sh\nexit 7\n")
    assert subprocess.run([SCRIPT], env=triton).returncode == 7


def _until(condition, limit_s: float = 30.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
