"""The scripts in examples/ are short, and the one that needs no server runs as its docstring says."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_the_in_process_example_makes_three_faces_side_by_side(micro_bundle, tmp_path):
    command = [sys.executable, EXAMPLES / "in_process.py", micro_bundle, tmp_path / "faces.png"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    with Image.open(tmp_path / "faces.png") as faces:
        assert faces.width == 3 * faces.height


@pytest.mark.parametrize("script", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_an_example_is_short_and_says_how_it_is_called(script):
    text = script.read_text()
    assert len(text.splitlines()) < 40
    assert f"python examples/{script.name} " in ast.get_docstring(ast.parse(text))


def test_the_plain_example_needs_nothing_of_ours():
    text = (EXAMPLES / "grpc_client.py").read_text()
    assert "import runtime" not in text and "from runtime" not in text and "from clipfacefusion" not in text
