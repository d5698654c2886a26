"""The scripts in examples/ run as their docstrings say, and stay short enough to be read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize("script", ["grpc_client.py", "client.py"])
def test_a_client_example_makes_a_face(script, server, tmp_path, jpeg, wav):
    (tmp_path / "photo.jpg").write_bytes(jpeg)
    (tmp_path / "voice.wav").write_bytes(wav)
    _run(script, server.url, tmp_path / "face.png", tmp_path / "photo.jpg", tmp_path / "voice.wav")
    with Image.open(tmp_path / "face.png") as face:
        assert face.mode == "RGB"


def test_the_in_process_example_makes_three_faces_side_by_side(micro_bundle, tmp_path):
    _run("in_process.py", micro_bundle, tmp_path / "faces.png")
    with Image.open(tmp_path / "faces.png") as faces:
        assert faces.width == 3 * faces.height


@pytest.mark.parametrize("script", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_an_example_is_short(script):
    assert len(script.read_text().splitlines()) < 40


def test_the_plain_example_needs_nothing_of_ours():
    text = (EXAMPLES / "grpc_client.py").read_text()
    assert "import runtime" not in text and "from runtime" not in text and "from clipfacefusion" not in text


def _run(script: str, *arguments: object) -> None:
    command = [sys.executable, str(EXAMPLES / script), *map(str, arguments)]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
