"""What the engines benchmark compares: parity first, every contender in a process of its own, and a whole run on the micro bundle."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks import engines
from benchmarks.__main__ import main
from benchmarks.engine_worker import GEMM_FP32, TORCH, TORCH_BF16, TORCH_COMPILE, TORCH_PLAIN, Worker, contender_call
from benchmarks.engines import FP32, check_parity, contenders, relative_error, tables
from benchmarks.network import Network, of_bundle
from benchmarks.yardsticks import YARDSTICKS, build
from runtime.errors import ClipFaceFusionError
from runtime.spec import engine_specs


@pytest.fixture(scope="module")
def network(micro_bundle: Path, micro_checkpoint: Path) -> Network:
    return of_bundle(micro_bundle, micro_checkpoint)


def test_the_relative_error_is_that_of_the_norms() -> None:
    assert relative_error(np.array([3.0, 4.4]), np.array([3.0, 4.0])) == pytest.approx(0.4 / 5)


@pytest.mark.parametrize(("error", "precision"), [(2e-4, "fp32"), (0.1, "bf16"), (float("nan"), "fp32")])
def test_what_computes_something_else_is_not_timed(error: float, precision: str) -> None:
    with pytest.raises(ClipFaceFusionError, match="'peer' computes something else"):
        check_parity("peer", error, precision)


def test_a_contender_that_computes_something_else_stops_the_run(network: Network, monkeypatch, tmp_path) -> None:
    class Off(Worker):
        def __init__(self, network: Network, contender: str, threads: int) -> None:
            self.contender, self.value = contender, 1.0 + (contender == "onnxruntime")

        def ready(self) -> str:
            return "fake"

        def call(self, batch: int, to: Path | None = None) -> dict[str, float]:
            np.save(to, np.full(3, self.value, np.float32))
            return {"call": 1.0}

        def close(self) -> None:
            pass

    monkeypatch.setattr(engines, "Worker", Off)
    with pytest.raises(ClipFaceFusionError, match="'onnxruntime' computes something else"):
        engines.measure(network, {TORCH: FP32, "onnxruntime": FP32}, 1, 1, tmp_path)


def test_rows_of_a_smaller_batch_are_the_first_of_a_larger_one(network: Network) -> None:
    one, three = network.inputs(1), network.inputs(3)
    assert all((three[name][:1] == array).all() for name, array in one.items())
    assert len(set(three["timestep"].tolist())) == 3
    network.spec.check_inputs(three)


def test_a_network_reaches_another_process_unchanged(network: Network) -> None:
    assert Network.from_json(network.to_json()) == network


def test_every_contender_computes_the_same(network: Network) -> None:
    inputs = network.inputs(2)
    results = {name: contender_call(network, name, 1)[0](inputs) for name in contenders() if name != TORCH_COMPILE}
    assert {TORCH, TORCH_PLAIN, TORCH_BF16, "onnxruntime"} <= set(results)
    for name, result in results.items():
        check_parity(name, relative_error(result, results[TORCH]), contenders()[name])


def test_autocast_is_another_precision_than_eager(network: Network) -> None:
    inputs = network.inputs(1)
    exact, reduced = (contender_call(network, name, 1)[0](inputs) for name in (TORCH, TORCH_BF16))
    assert relative_error(reduced, exact) > 1e-4


def test_a_process_answers_times_and_memory_and_says_why_it_cannot(network: Network, tmp_path: Path) -> None:
    with Worker(network, "onnxruntime", threads=1) as worker:
        assert worker.ready() == "CPUExecutionProvider"
        assert worker.call(2, tmp_path / "result.npy")["call"] > 0
        assert 10 < worker.peak_mb() < 2000
    assert np.load(tmp_path / "result.npy").shape == (2, *network.model.sample_shape)
    with (
        Worker(dataclasses.replace(network, onnx=Path(__file__)), "onnxruntime", threads=1) as worker,
        pytest.raises(ClipFaceFusionError, match=r"onnxruntime: BundleError: .*not an ONNX file"),
    ):
        worker.ready()


@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="asks Linux for the states of processes")
def test_a_process_is_stopped_while_others_have_their_turn(network: Network) -> None:
    with Worker(network, "onnxruntime", threads=1) as worker:
        for answered in (worker.ready, lambda: worker.call(1)):
            answered()
            assert _state(worker._process.pid) == "T"
    assert worker._process.returncode == 0


def _state(process: int) -> str:
    """Of a process, as Linux names it; stopping takes effect a moment after the signal."""
    for _ in range(100):
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        if state == "T":
            break
        time.sleep(0.01)
    return state


def test_a_run_ends_with_a_document_and_writes_page_and_picture(
    micro_bundle: Path, micro_checkpoint: Path, tmp_path: Path, capsys
) -> None:
    flags = ["--checkpoint", str(micro_checkpoint), "--repeats", "1", "--batches", "--threads", "1"]
    without = [name for name in contenders() if name not in (TORCH, "onnxruntime")]
    outputs = ["--markdown", str(tmp_path / "e.md"), "--plot", str(tmp_path / "e.png")]
    assert main(["engines", str(micro_bundle), *flags, *outputs, "--without", *without]) == 0
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(document["contenders"]) == [TORCH, "onnxruntime"] and not document["not_run"]
    assert document["contenders"]["onnxruntime"]["relative_error"] < 1e-5
    assert document["gemm_gflops"].keys() == {FP32} and document["gemm_gflops"][FP32] > 0
    assert "| onnxruntime |" in (tmp_path / "e.md").read_text()
    assert (tmp_path / "e.png").read_bytes().startswith(b"\x89PNG")


def test_batch_sizes_share_one_process_and_are_told_per_row(network: Network) -> None:
    found = engines.scale(network, "onnxruntime", 1, [1, 2], repeats=1)
    assert found["ms_per_row"].keys() == {"1", "2"} and min(found["ms_per_row"].values()) > 0
    assert found["peak_mb"] > 10


def test_who_did_not_run_is_told_with_the_reason(network: Network, monkeypatch, tmp_path: Path) -> None:
    class Fake(Worker):
        def __init__(self, network: Network, contender: str, threads: int) -> None:
            self.contender = contender

        def ready(self) -> str:
            if self.contender == TORCH_COMPILE:
                raise ClipFaceFusionError(f"{self.contender}: no C++ compiler")
            return "fake"

        def call(self, batch: int, to: Path | None = None) -> dict[str, float]:
            if to is not None:
                np.save(to, np.ones(3, np.float32))
            return {"call": 4.0 if self.contender == GEMM_FP32 else 2.0}

        def peak_mb(self) -> float:
            return 1.0

        def close(self) -> None:
            pass

    monkeypatch.setattr(engines, "Worker", Fake)
    measured, gemm, missing = engines.measure(network, {TORCH: FP32, TORCH_COMPILE: FP32}, 1, 1, tmp_path)
    assert missing == {TORCH_COMPILE: "no C++ compiler"}
    assert measured.keys() == {TORCH} and gemm[FP32].min == 4.0
    assert measured[TORCH].gflops(6_000_000) == pytest.approx(3.0)  # 6 MFLOP in 2 ms


def test_yardsticks_have_the_sizes_they_are_named_for() -> None:
    import torch

    millions = {}
    for name, yardstick in YARDSTICKS.items():
        with torch.device("meta"):
            millions[name] = sum(weight.numel() for weight in build(yardstick).parameters()) / 1e6
        unet = engine_specs(yardstick.model)["unet"]
        assert {tensor.name for tensor in unet.inputs} == {"sample", "timestep", *yardstick.model.cond}
        assert yardstick.model.image_size == 256
    assert round(millions["pixel-256"]) == 114  # google/ddpm-ema-celebahq-256


def test_exact_and_reduced_stand_in_tables_of_their_own() -> None:
    one = {"call_ms": {"median": 2.0, "p95": 2.0, "min": 2.0}, "gflops": 50.0, "relative_error": 0.0, "peak_mb": 9.0}
    document = {
        "network": "n",
        "gflop_per_call": 0.1,
        "gemm_gflops": {"fp32": 100.0, "bf16": 200.0},
        "contenders": {TORCH: {**one, "precision": "fp32"}, "openvino-bf16": {**one, "precision": "bf16"}},
        "scaling": {},
    }
    exact, reduced = tables(document)
    assert [row[0] for row in exact.rows] == [TORCH] and [row[0] for row in reduced.rows] == ["openvino-bf16"]
    assert (exact.rows[0][6], reduced.rows[0][6]) == ("50%", "25%")
