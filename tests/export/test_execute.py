"""Plans on the GPU they are for: the exporter runs them up the ladder and says `executed`, or refuses. The library and the GPU are fakes."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from export.bundle import Work, write_plans
from export.parity import TorchEngine
from export.to_plan import Compiler
from export.trajectories import conditions
from runtime.errors import BundleError
from runtime.ladder import SEED, Reference
from runtime.manifest import ONNX_FP16, Manifest
from runtime.noise import INITIAL_NOISE, gaussian
from runtime.plans import BUILT, EXECUTED
from runtime.spec import SOURCES
from tests.export import fake_tensorrt
from training.checkpoint import load


@pytest.fixture(scope="module")
def walked(
    micro_checkpoint: Path, full_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Work, Reference]:
    """An export that has come as far as its FP16 networks."""
    folder = tmp_path_factory.mktemp("walked")
    shutil.copytree(full_bundle / ONNX_FP16, folder / ONNX_FP16)
    work = Work(load(micro_checkpoint), folder, folder / "fp32", False, lambda line: None)
    work.parity = dict(Manifest.read(full_bundle).parity)
    cond = conditions(work.torch, work.inputs, SEED, SOURCES)
    start = gaussian(SEED, INITIAL_NOISE, work.spec.sample_shape)[None]
    return work, work.course.reference(work.torch, start, cond)


@pytest.fixture
def gpu(walked: tuple[Work, Reference], monkeypatch: pytest.MonkeyPatch) -> Iterator[Work]:
    """A GPU on which plans compute what torch does."""
    work = walked[0]

    def compute(inputs: dict[str, np.ndarray], outputs: list[str]) -> dict[str, np.ndarray]:
        (engine,) = (
            e for e in work.torch.values()
            if [t.name for t in e.spec.outputs] == outputs and [t.name for t in e.spec.inputs] == list(inputs)
        )  # fmt: skip
        assert isinstance(engine, TorchEngine)
        return engine(inputs)

    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", fake_tensorrt.Cuda(8, 9))
    monkeypatch.setattr(fake_tensorrt.Cuda, "memory", {})
    monkeypatch.setattr(fake_tensorrt, "compute", compute)
    work.plans.clear(), work.missed.clear()
    work.allow_parity_miss = False
    yield work
    assert not fake_tensorrt.Cuda.memory, "all memory of the GPU is given back"


def test_plans_that_hold_the_ladder_on_their_gpu_are_executed(gpu: Work, walked: tuple[Work, Reference]) -> None:
    write_plans(gpu, Compiler.tensorrt(), walked[1])
    assert {plan.verified for plan in gpu.plans} == {EXECUTED} and len(gpu.plans) == len(gpu.specs)


def test_plans_that_compute_something_else_are_refused_or_marked(
    gpu: Work, walked: tuple[Work, Reference], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = fake_tensorrt.compute
    assert right is not None
    monkeypatch.setattr(fake_tensorrt, "compute", lambda i, o: {n: a * np.float32(1.1) for n, a in right(i, o).items()})
    with pytest.raises(
        BundleError, match=r"tensorrt misses parity with torch: engine text_encoder: relative error 0\.1"
    ):
        write_plans(gpu, Compiler.tensorrt(), walked[1])
    gpu.allow_parity_miss = True
    write_plans(gpu, Compiler.tensorrt(), walked[1])
    assert EXECUTED not in {plan.verified for plan in gpu.plans} and gpu.missed[0].startswith("tensorrt: engine")


def test_plans_for_another_gpu_are_built_and_not_run(
    gpu: Work, walked: tuple[Work, Reference], monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = Compiler("tensorrt", fake_tensorrt, ("sm75",))
    monkeypatch.setattr(fake_tensorrt, "compute", None)
    write_plans(gpu, compiler, walked[1])
    assert {plan.verified for plan in gpu.plans} == {BUILT}
