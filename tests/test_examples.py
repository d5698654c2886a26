"""The scripts in examples/ are short, and the one that needs no server runs as its docstring says."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_the_in_process_example_makes_three_faces_side_by_side(micro_bundle, tmp_path):
    command = [sys.executable, EXAMPLES / "in_process.py", micro_bundle, tmp_path / "faces.png"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    with Image.open(tmp_path / "faces.png") as faces:
        assert faces.width == 3 * faces.height


def test_the_editing_example_makes_a_face_per_edit_and_puts_the_last_into_the_photo(micro_bundle, tmp_path):
    photo = np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8)
    Image.fromarray(photo).save(tmp_path / "photo.png")
    command = [sys.executable, EXAMPLES / "edit_face.py", micro_bundle, tmp_path / "photo.png", tmp_path / "edits.png"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "'inversion_cached': False" in ended.stdout and "'inversion_cached': True" in ended.stdout
    with Image.open(tmp_path / "edits.png") as edits, Image.open(tmp_path / "edits-in-photo.png") as whole:
        assert edits.width == 2 * edits.height
        np.testing.assert_array_equal(np.asarray(whole)[:, :15], photo[:, :15])


@pytest.mark.parametrize("script", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_an_example_is_short_and_says_how_it_is_called(script):
    text = script.read_text()
    assert len(text.splitlines()) < 40
    assert f"python examples/{script.name} " in ast.get_docstring(ast.parse(text))


def test_the_plain_example_needs_nothing_of_ours():
    text = (EXAMPLES / "grpc_client.py").read_text()
    assert "import runtime" not in text and "from runtime" not in text and "from clipfacefusion" not in text
