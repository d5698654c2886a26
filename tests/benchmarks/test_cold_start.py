"""A fresh process, phase by phase."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.cold_start import start
from runtime.errors import ClipFaceFusionError


def test_a_run_times_every_phase_and_names_the_slowest_imports(micro_bundle: Path, capsys) -> None:
    assert main(["cold-start", str(micro_bundle), "--steps", "1", "--repeats", "1"]) == 0
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    phases = document["phases"]
    assert list(phases) == ["import", "open", "first picture", "import to ready", "process to ready"]
    assert phases["import to ready"]["least_s"] >= phases["import"]["least_s"] > 0
    assert document["slowest_imports_ms"] and not any("torch" in name for name in document["slowest_imports_ms"])


def test_a_process_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(ClipFaceFusionError, match=r"no readable manifest\.json"):
        start(tmp_path, "auto", 1)
