"""Do the compiled plans of a bundle compute, on this machine's GPU, what torch computed? The ladder of every set that fits, and a report.

A machine that compiles plans need not have the GPU they are for, so somebody with that GPU has to try them: `make gpu-verify`. Whatever is missing
goes into the report as well. The bundle stays as it is: its manifest says `executed` of what ran where it was exported.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from runtime.bundle import Bundle
from runtime.engines.device import gpu_name, gpu_target
from runtime.engines.trt import TrtEngine, import_library
from runtime.errors import BundleError, ClipFaceFusionError, EngineError
from runtime.guidance import Guidance
from runtime.ladder import Check, relative_error
from runtime.manifest import ONNX_FP16, read_checked
from runtime.noise import INITIAL_NOISE, gaussian
from runtime.plans import FLAVOURS, Plan, choose
from runtime.route import follow
from runtime.solvers import DDIM, SOLVERS
from runtime.trajectory import GuidedTrajectory
from runtime.verify import verify

EXECUTED, MISSED, REFUSED = "executed", "missed", "refused"
FORMAT_VERSION = 1
LOOP_STEPS = 10
LOOP_LIMIT = (
    1e-3  # the same plan and the same order of operations: what is left is how a plan of FP16 rounds from run to run
)


def run(arguments: argparse.Namespace) -> int:
    """The command: 0 if at least one set ran and every comparison held."""
    with Bundle.open(arguments.bundle) as bundle:
        report = try_plans(bundle)
    arguments.report.parent.mkdir(parents=True, exist_ok=True)
    arguments.report.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print("\n".join(report_lines(report)))
    print(f"wrote {arguments.report}: please send it to whoever made the bundle, it holds no data but this")
    if not report["passed"]:
        print("no set of plans is known to compute the right thing here", file=sys.stderr)
    return 0 if report["passed"] else 1


def try_plans(bundle: Bundle) -> dict[str, Any]:
    """The report, as JSON: this machine, and per set of plans what became of it."""
    sets = []
    for flavour in FLAVOURS:
        plans = [plan for plan in bundle.manifest.plans if plan.flavour == flavour]
        for folder in sorted({plan.file.rpartition("/")[0] for plan in plans}):
            mine = [plan for plan in plans if plan.file.startswith(folder + "/")]
            sets.append({"set": folder, "flavour": flavour, **_try_set(bundle, mine)})
    if not sets:
        reason = "the bundle has no plans; export with --targets tensorrt-rtx, or on this machine --targets tensorrt"
        sets.append({"set": "none", "outcome": REFUSED, "reason": reason})
    return {
        "format_version": FORMAT_VERSION,
        "bundle": bundle.manifest.name,
        "bundle_sha256": bundle.hash,
        "machine": _machine(),
        "sets": sets,
        "passed": any(each["outcome"] == EXECUTED for each in sets) and all(each["outcome"] != MISSED for each in sets),
    }


def report_lines(report: Mapping[str, Any]) -> list[str]:
    """The report for people."""
    machine = ", ".join(f"{name} {value}" for name, value in report["machine"].items() if value is not None)
    lines = [f"bundle {report['bundle']} {report['bundle_sha256'][:12]} on {machine}"]
    for each in report["sets"]:
        lines.append(f"{each['set']}: {each['outcome']}{': ' + each['reason'] if 'reason' in each else ''}")
        lines += [f"  {check['line']:<78}{'ok' if check['holds'] else 'MISSED'}" for check in each.get("checks", ())]
    return lines


def _try_set(bundle: Bundle, plans: Iterable[Plan]) -> dict[str, Any]:
    """Outcome of one set: executed, missed or refused, with the reason or the comparisons."""
    plans = list(plans)
    engines: dict[str, TrtEngine] = {}
    start = time.monotonic()
    try:
        flavour = plans[0].flavour
        library = import_library(flavour)
        fitting = choose(plans, bundle.specs, flavour, str(library.__version__), gpu_target())
        for name, plan in fitting.items():
            network = read_checked(bundle.folder, plan.file, bundle.manifest.files[plan.file])
            engines[name] = TrtEngine(network, bundle.specs[name], flavour)
        checks = [*verify(bundle, ONNX_FP16, engines), *_whole_loop(bundle, engines["unet"])]
    except (BundleError, EngineError) as error:
        return {"outcome": REFUSED, "reason": str(error)}
    finally:
        for engine in engines.values():
            engine.close()
    return {
        "outcome": EXECUTED if all(check.holds for check in checks) else MISSED,
        "seconds": round(time.monotonic() - start, 1),
        "checks": [{**asdict(check), "holds": check.holds, "line": str(check)} for check in checks],
    }


def _whole_loop(bundle: Bundle, unet: TrtEngine) -> Iterator[Check]:
    """Does the loop as one CUDA graph lead where the same plan leads call by call? Its first launch is not one yet, so there are two."""

    def denoise(sample: np.ndarray, timestep: np.ndarray, cond: Mapping[str, np.ndarray]) -> np.ndarray:
        return unet({"sample": sample, "timestep": timestep, **cond})["noise_pred"]

    shape, uncond = bundle.model.sample_shape, bundle.uncond
    for launch, how in enumerate(("call by call", "as one graph")):
        cond = {name: array + gaussian(launch, 1, array.shape) for name, array in uncond.items()}
        solver = SOLVERS[DDIM](bundle.schedule, LOOP_STEPS, shape)
        route = GuidedTrajectory(gaussian(launch, INITIAL_NOISE, shape), Guidance(cond, uncond, 2.0), solver).route()
        assert route is not None, "DDIM without added noise always has one"
        error = relative_error(follow(route, denoise), unet.follow(route))
        yield Check("whole loop", f"{LOOP_STEPS} steps {how}", "relative error", error, LOOP_LIMIT)


def _machine() -> dict[str, str | None]:
    """What a reader of the report must know to repeat it; None or a sentence for what is missing."""
    found: dict[str, str | None] = {"system": platform.platform(), "python": platform.python_version()}
    for name, ask in (("gpu", gpu_name), ("compute_capability", gpu_target)):
        try:
            found[name] = ask()
        except ClipFaceFusionError as error:
            found[name] = f"none ({error})"
    for package in ("tensorrt", "tensorrt-rtx", "cuda-bindings"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found
