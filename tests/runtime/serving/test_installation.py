"""Whether this machine can serve, and what to do where it cannot."""

from __future__ import annotations

import collections
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.errors import UnavailableError
from runtime.serving import installation
from runtime.serving.installation import unavailable_reason

ROOT = Path(__file__).resolve().parents[3]
VersionInfo = collections.namedtuple("VersionInfo", "major minor micro releaselevel serial")


def test_another_system_is_named(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    assert "needs Linux, this is Darwin" in unavailable_reason()


def test_another_processor_is_named(monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert "this is aarch64" in unavailable_reason()


@pytest.mark.parametrize(("libc", "shown"), [("glibc 2.31", "this system has glibc 2.31"), (None, "no glibc")])
def test_an_older_or_missing_glibc_is_named(monkeypatch, libc, shown):
    monkeypatch.setattr("os.confstr", lambda name: libc)
    assert shown in unavailable_reason()


def test_a_python_without_a_stub_is_named(monkeypatch):
    monkeypatch.setattr(sys, "version_info", VersionInfo(3, 13, 1, "final", 0))
    assert "needs Python 3.11 or 3.12, this is 3.13" in unavailable_reason()


def test_a_missing_wheel_tells_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr(installation, "_wheel", lambda: None)
    assert 'pip install "clipfacefusion[serve]"' in unavailable_reason()
    with pytest.raises(UnavailableError, match="pip install"):
        installation.find()


def test_an_interpreter_without_a_shared_libpython_is_told_what_to_install(monkeypatch):
    monkeypatch.setattr(installation, "_libpython", lambda: None)
    assert "libpython3." in unavailable_reason()


def test_it_can_be_asked_before_anything_is_installed() -> None:
    """As the Makefile does: an interpreter without site-packages."""
    code = "from runtime.serving import installation; print(installation.unavailable_reason())"
    asked = subprocess.run(
        [sys.executable, "-S", "-E", "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "tritonserver is not installed" in asked.stdout or "serving needs" in asked.stdout
