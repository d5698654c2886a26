"""The arithmetic of the memory budget, and where limits come from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from runtime.manifest import Manifest
from runtime.serving import memory
from runtime.serving.memory import (
    MemoryBudgetError,
    available_bytes,
    cgroup_limits,
    check_budget,
    check_shared_memory,
    needed_bytes,
)
from runtime.serving.repository import python_models

DEMO = Path(__file__).resolve().parents[3] / "bundles" / "demo"


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    return Manifest.read(DEMO)


def test_networks_count_with_their_weights_and_their_largest_call(manifest):
    heavier = {
        name: {**need, "weight_bytes": dict(need["weight_bytes"]), "context_bytes": dict(need["context_bytes"])}
        for name, need in manifest.memory.items()
    }
    heavier["unet"]["weight_bytes"]["onnx"] += 1000
    heavier["decoder"]["context_bytes"]["max"] += 500
    heavier["decoder"]["context_bytes"]["opt"] += 7  # what a usual call takes is part of what the largest takes
    assert needed_bytes(replace(manifest, memory=heavier)) == needed_bytes(manifest) + 1500


def test_each_process_counts(manifest):
    networks = sum(need["weight_bytes"]["onnx"] + need["context_bytes"]["max"] for need in manifest.memory.values())
    processes = sum(model.processes for model in python_models(manifest.model))
    assert needed_bytes(manifest) - networks == (
        memory.SERVER_BYTES
        + processes * memory.MODEL_PROCESS_BYTES
        + memory.ENGINE_PROCESSES * memory.ENGINE_PROCESS_BYTES
        + memory.DECODERS * memory.DECODER_BYTES
        + memory.DEFAULT_BYTES
        + memory.INVERSION_BYTES
    )


def test_what_encoders_results_may_take_counts(manifest):
    needed = needed_bytes(manifest, feature_cache_bytes=0)
    assert needed_bytes(manifest, feature_cache_bytes=8 << 30) == needed + (8 << 30)
    check_budget(manifest, needed, feature_cache_bytes=0)
    with pytest.raises(MemoryBudgetError):
        check_budget(manifest, needed, feature_cache_bytes=1)


def test_a_limit_below_what_is_needed_is_refused_with_both_figures(manifest):
    needed = needed_bytes(manifest)
    check_budget(manifest, needed)
    with pytest.raises(
        MemoryBudgetError, match=rf"needs about {needed / 2**20:.0f} MiB .* --memory-limit allows 64 MiB"
    ):
        check_budget(manifest, 64 << 20)


def test_without_a_limit_the_machine_is_the_limit(manifest, monkeypatch):
    check_budget(manifest)
    monkeypatch.setattr(memory, "available_bytes", lambda: 1 << 20)
    with pytest.raises(MemoryBudgetError, match="this machine or its container allows 1 MiB"):
        check_budget(manifest)


def test_too_little_shared_memory_is_refused_with_the_way_out(monkeypatch):
    check_shared_memory()
    monkeypatch.setattr(memory, "SHARED_MEMORY_BYTES", 1 << 60)
    with pytest.raises(MemoryBudgetError, match=r"/dev/shm has \d+ MiB free, .*--shm-size"):
        check_shared_memory()


def test_what_is_available_is_at_most_the_machines_memory():
    total = int(Path("/proc/meminfo").read_text().split()[1]) * 1024
    assert 0 < available_bytes() <= total


def test_the_limits_of_a_version_2_group_and_all_above_it_are_found(tmp_path):
    _write(tmp_path / "sys/kube/pod/memory.max", "400000000\n")
    _write(tmp_path / "sys/kube/memory.max", "300000000\n")
    _write(tmp_path / "sys/memory.max", "max\n")
    membership = _write(tmp_path / "cgroup", "0::/kube/pod\n")
    assert cgroup_limits(membership, tmp_path / "sys") == [400_000_000, 300_000_000]


def test_a_container_that_sees_its_own_group_as_the_root_is_limited_by_it(tmp_path):
    _write(tmp_path / "sys/memory.max", "500000000\n")
    membership = _write(tmp_path / "cgroup", "0::/../other\n")
    assert 500_000_000 in cgroup_limits(membership, tmp_path / "sys")


def test_the_limit_of_a_version_1_group_is_found(tmp_path):
    _write(tmp_path / "sys/memory/docker/1a/memory.limit_in_bytes", "600000000\n")
    membership = _write(tmp_path / "cgroup", "5:cpu,cpuacct:/docker/1a\n4:memory:/docker/1a\n")
    assert cgroup_limits(membership, tmp_path / "sys") == [600_000_000]


def test_without_control_groups_there_is_no_such_limit(tmp_path):
    assert cgroup_limits(tmp_path / "none", tmp_path) == []


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path
