"""`gpu-verify` runs the whole ladder on every set of plans that fits, says why the others do not, and always writes the report."""

from __future__ import annotations

import dataclasses
import json
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import runtime.gpu_verify
from runtime.__main__ import main
from runtime.engines.backends import open_engine, resolve
from runtime.errors import BundleError
from runtime.gpu_verify import try_plans
from runtime.ladder import LIMITS, limits_to_dict
from runtime.manifest import ONNX, ONNX_FP16, onnx_file, sha256_of
from runtime.plans import TENSORRT, TENSORRT_RTX, Plan
from runtime.verify import verify
from tests.export import fake_tensorrt
from tests.fakes import FakeEngine, fake_bundle
from tests.runtime.engines.test_trt import plan
from tests.runtime.test_verify import Referenced

VERSION = fake_tensorrt.__version__
FP16_TEXT = "fp16 compute"
SETS = ((TENSORRT, VERSION, ("sm89",)), (TENSORRT_RTX, VERSION, ("sm75", "sm120")), (TENSORRT_RTX, "1.6.0", ("sm89",)))


@pytest.fixture
def bundle(tmp_path: Path) -> Referenced:
    """Fakes with three sets of plans, of which the first fits a GPU of capability 8.9."""
    fake = fake_bundle(tmp_path / "bundle")
    plans, files = [], dict(fake.manifest.files)
    for name, spec in fake.specs.items():
        for flavour, version, targets in SETS:
            made = Plan(name, flavour, version, targets, onnx_file(name, ONNX_FP16), "built")
            path = fake.folder / made.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(plan(spec))
            files[made.file] = {"sha256": sha256_of(path), "bytes": path.stat().st_size}
            plans.append(made)
    parity = {kind: {"limits": limits_to_dict(LIMITS[kind])} for kind in (ONNX, ONNX_FP16)}
    precision = {**fake.manifest.precision, ONNX_FP16: FP16_TEXT}
    manifest = dataclasses.replace(fake.manifest, parity=parity, precision=precision, plans=plans, files=files)
    return Referenced(fake.folder, manifest, fake.hash, fake.uncond, fake.backend, fake.open_engine)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, bundle: Referenced) -> None:
    """A GPU of capability 8.9 on which every plan computes what torch did."""

    def compute(inputs: dict[str, np.ndarray], outputs: list[str]) -> dict[str, np.ndarray]:
        (spec,) = (
            s
            for s in bundle.specs.values()
            if [t.name for t in s.outputs] == outputs and {t.name for t in s.inputs} == {*inputs}
        )
        return FakeEngine(spec)(inputs)

    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, fake_tensorrt)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", fake_tensorrt.Cuda(8, 9))
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", fake_tensorrt.Driver())
    monkeypatch.setitem(sys.modules, "cuda.bindings.nvrtc", fake_tensorrt.Nvrtc())
    monkeypatch.setattr(fake_tensorrt, "compute", compute)


@pytest.mark.usefixtures("gpu")
def test_the_set_that_fits_climbs_the_whole_ladder_and_the_others_say_what_does_not_fit(bundle: Referenced) -> None:
    report = try_plans(bundle)
    executed, foreign_gpu, old = report["sets"]
    assert executed["outcome"] == "executed" and report["passed"]
    assert {check["rung"] for check in executed["checks"]} == {
        *("engine", "step", "trajectory", "image", "inversion", "whole loop")
    }
    assert [c["subject"] for c in executed["checks"][-2:]] == ["10 steps call by call", "10 steps as one graph"]
    assert len([c for c in executed["checks"] if c["rung"] == "engine"]) == len(bundle.specs)
    outcomes = {each["set"]: each for each in (foreign_gpu, old)}
    assert all(each["outcome"] == "refused" for each in outcomes.values())
    assert "built with tensorrt-rtx 1.6.0, this machine has" in outcomes["plans/tensorrt-rtx-1.6.0-sm89"]["reason"]
    assert "built for sm75, sm120, this GPU is sm89" in outcomes[f"plans/tensorrt-rtx-{VERSION}-sm75+sm120"]["reason"]
    assert report["machine"]["gpu"] == "Fake Orin" and report["machine"]["compute_capability"] == "sm89"
    assert not fake_tensorrt.Cuda.memory, "all memory of the GPU is given back"
    json.dumps(report, allow_nan=False)


@pytest.mark.usefixtures("gpu")
def test_plans_that_compute_something_else_are_missed(bundle: Referenced, monkeypatch: pytest.MonkeyPatch) -> None:
    right = fake_tensorrt.compute
    assert right is not None
    monkeypatch.setattr(fake_tensorrt, "compute", lambda i, o: {n: a * np.float32(1.2) for n, a in right(i, o).items()})
    report = try_plans(bundle)
    assert report["sets"][0]["outcome"] == "missed" and not report["passed"]


@pytest.mark.usefixtures("gpu")
def test_a_loop_that_leads_elsewhere_is_missed(bundle: Referenced, monkeypatch: pytest.MonkeyPatch) -> None:
    follow = runtime.gpu_verify.TrtEngine.follow
    monkeypatch.setattr(runtime.gpu_verify.TrtEngine, "follow", lambda engine, route: follow(engine, route) * 1.01)
    checks = try_plans(bundle)["sets"][0]["checks"]
    assert [check["rung"] for check in checks if not check["holds"]] == ["whole loop"] * 2


def test_without_a_gpu_the_report_says_what_is_missing(bundle: Referenced, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", fake_tensorrt.Cuda(None))
    report = try_plans(bundle)
    reasons = [each["reason"] for each in report["sets"]]
    assert reasons[0] == "CUDA says cudaErrorInsufficientDriver"
    assert all('pip install ".[tensorrt-rtx]"' in reason for reason in reasons[1:])
    assert report["machine"]["gpu"].startswith("none (") and not report["passed"]


@pytest.mark.usefixtures("gpu")
def test_the_command_writes_the_report_and_its_status_is_the_verdict(
    bundle: Referenced, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime.gpu_verify.Bundle, "open", lambda folder: bundle)
    flags = ["gpu-verify", str(bundle.folder), "--report", str(tmp_path / "out" / "report.json")]
    assert main(flags) == 0
    assert json.loads((tmp_path / "out" / "report.json").read_text())["passed"]
    out = capsys.readouterr().out
    assert "trajectory 20 steps" in out and "please send it" in out
    object.__setattr__(bundle, "manifest", dataclasses.replace(bundle.manifest, plans=[], files={
        name: record for name, record in bundle.manifest.files.items() if not name.startswith("plans/")}))  # fmt: skip
    assert main(flags) == 1
    assert "the bundle has no plans; export with --targets" in capsys.readouterr().out


@pytest.mark.usefixtures("gpu")
def test_the_engine_of_a_flavour_runs_the_plans_that_fit_and_reports_their_precision(bundle: Referenced) -> None:
    """Through the same bundle that ONNX engines open; on the API's fake, so no evidence of execution."""
    backend = resolve(TENSORRT)
    served = dataclasses.replace(bundle, backend=backend, open_engine=partial(open_engine, backend, threads=None))
    with served:
        assert served.engine("unet").provider == TENSORRT
        assert all(check.holds for check in verify(served))
        assert served.precision == FP16_TEXT
    assert not fake_tensorrt.Cuda.memory


@pytest.mark.usefixtures("gpu")
def test_the_engine_of_a_flavour_refuses_plans_for_other_machines(bundle: Referenced) -> None:
    served = dataclasses.replace(bundle, backend=resolve(TENSORRT_RTX))
    with pytest.raises(BundleError, match=r"plans: built for sm75, sm120, this GPU is sm89"):
        served.engine("unet")
