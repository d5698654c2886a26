"""The scripts in examples/ that call a server run as their docstrings say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize("script", ["grpc_client.py", "client.py"])
def test_a_client_example_makes_a_face_from_a_photo_and_a_voice(script, server, tmp_path, jpeg, wav):
    (tmp_path / "photo.jpg").write_bytes(jpeg)
    (tmp_path / "voice.wav").write_bytes(wav)
    files = [tmp_path / name for name in ("face.png", "photo.jpg", "voice.wav")]
    command = [sys.executable, EXAMPLES / script, server.url, *files]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    with Image.open(files[0]) as face:
        assert face.mode == "RGB"


def test_the_client_example_shows_an_error_without_a_traceback(server, tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"no photo")
    command = [sys.executable, EXAMPLES / "client.py", server.url, tmp_path / "face.png", tmp_path / "photo.jpg"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 1
    assert ended.stderr.startswith("INVALID_ARGUMENT: reference: ")
