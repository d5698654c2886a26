"""Where tritonserver is, and whether this machine can run it. Needs the standard library alone: `make` asks before anything is installed.

The binary comes from the `nvidia-pytriton` wheel (Triton 2.51, Python backend only). Nothing of pytriton is imported: its wheel is a
set of files.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import UnavailableError

INSTALL = 'pip install "clipfacefusion[serve]" (in a clone: pip install ".[serve]")'
PYTHON_VERSIONS = ((3, 11), (3, 12))  # the wheel pins numpy < 2, which ends at 3.12
GLIBC = (2, 35)


@dataclass(frozen=True)
class Installation:
    """Paths of the pieces of the wheel and of the interpreter that tritonserver needs."""

    binary: Path
    backend: Path  # libtriton_python.so and triton_python_backend_utils.py
    stub: Path  # the process that hosts a Python model, linked against one Python version
    libraries: tuple[Path, ...]  # folders of shared libraries, libpython's included


def unavailable_reason() -> str | None:
    """Why this machine cannot run tritonserver, and the way out; None when it can."""
    version = sys.version_info[:2]
    if not sys.platform.startswith("linux"):
        return f"serving needs Linux, this is {platform.system()}; run requests in process with Pipeline"
    if platform.machine() != "x86_64":
        return f"serving needs x86_64, this is {platform.machine()}; run requests in process with Pipeline"
    name, _, glibc = (os.confstr("CS_GNU_LIBC_VERSION") or "no glibc").partition(" ")
    if name != "glibc" or tuple(int(part) for part in glibc.split(".")[:2]) < GLIBC:
        return f"serving needs glibc >= {GLIBC[0]}.{GLIBC[1]}, this system has {name} {glibc}; use a newer distribution"
    if version not in PYTHON_VERSIONS:
        allowed = " or ".join(f"{major}.{minor}" for major, minor in PYTHON_VERSIONS)
        return f"serving needs Python {allowed}, this is {version[0]}.{version[1]}; use one of those"
    if _wheel() is None:
        return f"tritonserver is not installed; run: {INSTALL}"
    if _libpython() is None:
        return (
            f"tritonserver needs the shared library libpython{version[0]}.{version[1]}.so.1.0, which this interpreter does not have; "
            f"install it (Debian, Ubuntu: apt-get install libpython{version[0]}.{version[1]}) or use a Python built with --enable-shared"
        )
    return None


def find() -> Installation:
    """The installed tritonserver. Raises UnavailableError with `unavailable_reason()` where there is none."""
    reason = unavailable_reason()
    wheel, libpython = _wheel(), _libpython()
    if reason or wheel is None or libpython is None:
        raise UnavailableError(reason)
    home = wheel / "tritonserver"
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    return Installation(
        binary=home / "bin" / "tritonserver",
        backend=home / "backends" / "python",
        stub=home / "python_backend_stubs" / version / "triton_python_backend_stub",
        libraries=(wheel.parent / "nvidia_pytriton.libs", libpython.parent),
    )


def _wheel() -> Path | None:
    """The folder of the pytriton package, without importing it."""
    spec = importlib.util.find_spec("pytriton")
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))


def _libpython() -> Path | None:
    """The shared library of the running interpreter's version: the stub is linked against it."""
    name = f"libpython{sys.version_info[0]}.{sys.version_info[1]}.so.1.0"
    folders = [
        sysconfig.get_config_var("LIBDIR"),
        f"{sys.base_prefix}/lib",
        f"/usr/lib/{platform.machine()}-linux-gnu",
        "/usr/lib64",
    ]
    return next((Path(folder, name) for folder in folders if folder and Path(folder, name).is_file()), None)
