"""Files appear whole: what stood there stays until the new one is complete."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from training.durable import publish, write_json, write_tensors, write_text


def test_a_folder_replaces_a_folder_whole(tmp_path: Path) -> None:
    for name, file in (("old", "a"), ("new", "b")):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep" / file).write_text(file)
    publish(tmp_path / "new", tmp_path / "old")
    assert sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*")) == ["old", "old/deep", "old/deep/b"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"step": 3})
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", {"step": float("nan")})
    assert (tmp_path / "a.json").read_text() == '{\n "step": 3\n}\n'


def test_everything_is_on_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    order: list[str] = []
    real_sync, real_rename = os.fsync, Path.rename
    monkeypatch.setattr(
        os, "fsync", lambda fd: (order.append(f"sync {Path(os.readlink(f'/proc/self/fd/{fd}')).name}"), real_sync(fd))
    )
    monkeypatch.setattr(Path, "rename", lambda self, to: (order.append("rename"), real_rename(self, to))[1])
    write_text(tmp_path / "a.txt", "x")
    assert order == ["sync a.txt.partial", "rename", f"sync {tmp_path.name}"]


def test_tensors_that_share_memory_are_written_each(tmp_path: Path) -> None:
    tensor = torch.arange(6.0).view(2, 3)
    write_tensors(tmp_path / "t.safetensors", {"a": tensor, "b": tensor.T})
    loaded = load_file(tmp_path / "t.safetensors")
    assert torch.equal(loaded["a"], tensor) and torch.equal(loaded["b"], tensor.T)
