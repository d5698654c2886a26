"""Exports without tracing."""

from __future__ import annotations

from pathlib import Path

import pytest

import export.bundle
from tests.export.traced import trace_from


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch, micro_bundle: Path) -> None:
    """Tracing gives the networks of `micro_bundle`."""
    monkeypatch.setattr(export.bundle, "to_onnx", trace_from(micro_bundle))
