"""How much memory serving a bundle takes, and how much there is. Estimates, made before anything starts.

What a bundle knows of its networks (`Manifest.memory`: weights, and activations at the largest call) is added to what the
processes take that hold them. Nothing here limits a running process.
"""

from __future__ import annotations

import os
from pathlib import Path

from runtime.editing import CACHE_BYTES as INVERSION_BYTES
from runtime.errors import ClipFaceFusionError
from runtime.feature_cache import DEFAULT_BYTES
from runtime.manifest import ONNX, Manifest
from runtime.serving.repository import python_models

MEGA = 1 << 20
# Proportional set sizes under load, rounded up; docs/decisions/0031 has the measurement.
SERVER_BYTES = 64 * MEGA
MODEL_PROCESS_BYTES = 32 * MEGA  # Python and numpy, and tensors on their way
ENGINE_PROCESS_BYTES = 96 * MEGA  # the engine library, for each of the two processes that load one
ENGINE_PROCESSES = 2
DECODER_BYTES = 64 * MEGA  # each process of `preprocess` has one beside it
DECODERS = 2
SHARED_MEMORY = Path("/dev/shm")
# A region per process, three of which can hold the largest photo, voice and mask at once.
SHARED_MEMORY_BYTES = 128 * MEGA


class MemoryBudgetError(ClipFaceFusionError):
    """There is too little memory to serve this bundle."""


def check_budget(manifest: Manifest, limit_bytes: int | None = None, feature_cache_bytes: int = DEFAULT_BYTES) -> None:
    """Raise MemoryBudgetError if serving needs more than `limit_bytes`, or than this machine or container has."""
    needed, allowed = needed_bytes(manifest, feature_cache_bytes), limit_bytes or available_bytes()
    if needed > allowed:
        source = "--memory-limit" if limit_bytes else "this machine or its container"
        raise MemoryBudgetError(
            f"bundle '{manifest.name}' needs about {_mega(needed)} to be served, and {source} allows {_mega(allowed)}; "
            "raise that, or serve a smaller bundle (python -m runtime inspect BUNDLE --memory)"
        )


def check_shared_memory() -> None:
    """Raise MemoryBudgetError if there is too little shared memory for what passes between the processes.

    What runs out later fails requests, with words of Triton's that name the region.
    """
    status = os.statvfs(SHARED_MEMORY)
    free = status.f_bavail * status.f_frsize
    if free < SHARED_MEMORY_BYTES:
        raise MemoryBudgetError(
            f"{SHARED_MEMORY} has {_mega(free)} free, and serving needs {_mega(SHARED_MEMORY_BYTES)}; "
            "a container gets more with --shm-size 256m"
        )


def needed_bytes(manifest: Manifest, feature_cache_bytes: int = DEFAULT_BYTES) -> int:
    """Weights once, each engine's activations at its largest call, the processes, and what they remember when that is full."""
    engines = sum(need["weight_bytes"][ONNX] + need["context_bytes"]["max"] for need in manifest.memory.values())
    processes = sum(model.processes for model in python_models(manifest.model))
    libraries = ENGINE_PROCESSES * ENGINE_PROCESS_BYTES + DECODERS * DECODER_BYTES
    remembered = feature_cache_bytes + INVERSION_BYTES
    return engines + SERVER_BYTES + processes * MODEL_PROCESS_BYTES + libraries + remembered


def available_bytes() -> int:
    """The machine's memory, or the least of the limits of the control groups this process is in."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([total, *cgroup_limits(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))])


def cgroup_limits(membership: Path, mounted: Path) -> list[int]:
    """The memory limits in bytes of the groups in `membership` and of all above them, versions 1 and 2, as cgroups(7) has them.

    A container may see its own group as the root, whatever `membership` calls it: the root is read in any case.
    """
    if not membership.exists():  # a kernel without control groups
        return []
    limits = []
    for line in membership.read_text().splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            root, name = mounted, "memory.max"
        elif "memory" in controllers.split(","):
            root, name = mounted / "memory", "memory.limit_in_bytes"
        else:
            continue
        inner = Path(group.lstrip("/"))
        for folder in (inner, *inner.parents):
            file = root / folder / name
            if file.is_file() and (limit := file.read_text().strip()).isdecimal():  # not "max"
                limits.append(int(limit))
    return limits


def _mega(number: int) -> str:
    return f"{number / MEGA:.0f} MiB"
