"""Steady load from an independent generator, NVIDIA's perf_analyzer, with 1, 8 and 32 requests in flight: no errors.

The binary comes from the wheel `tritonclient==2.51.0`, which alone carries it, and is fetched unless it is given; the two libraries
that it misses lie in `nvidia-pytriton`'s wheel under other names. It asks for configuration and statistics, which the server
keeps behind a key that it tells nobody; the key is read from the server's command line, as only its own user can.
"""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.soak.faults import TRITONSERVER, Service
from benchmarks.soak.ledger import gained, server_counts
from benchmarks.soak.scenario import Finding, Plan, restarts
from runtime.errors import UnavailableError
from runtime.serving.tritonserver import find
from runtime.wire import MODEL

CONCURRENCY = (1, 8, 32)
WINDOW_S = 20
WINDOWS = 3
WHEEL = "tritonclient==2.51.0"
MISSING = {"libb64.so.0d": "libb64-*.so*", "libcudart.so.12": "libcudart-*.so*"}  # its name -> the wheel's


def run(plan: Plan) -> Finding:
    """`WINDOWS` windows of `WINDOW_S` seconds at each concurrency; every answer must be a picture."""
    finding = Finding("load")
    with analyzer(plan.perf_analyzer) as command, Service(plan.bundle).wait_until_ready() as service:
        before = server_counts(service.metrics_url)
        figures = {n: _measured(command, service, n, plan, finding) for n in CONCURRENCY}
        finding.problems += restarts(service)
        counted = gained(before, server_counts(service.metrics_url))
    finding.facts |= {"perf_analyzer": figures, "server_counted": counted}
    if set(counted) != {"ok"}:
        finding.problems.append(f"not every request was answered with a picture: {counted}")
    return finding


@contextmanager
def analyzer(given: Path | None) -> Iterator[list[str]]:
    """The command that runs perf_analyzer, for as long as the block lasts. Raises UnavailableError if it cannot be fetched."""
    with tempfile.TemporaryDirectory(prefix="perf-analyzer-") as folder:
        home = Path(folder)
        binary = given or _fetched(home)
        (wheel_libraries,) = (each for each in find().libraries if each.name == "nvidia_pytriton.libs")
        libraries = home / "lib"
        libraries.mkdir()
        for name, pattern in MISSING.items():
            (libraries / name).symlink_to(next(wheel_libraries.glob(pattern)))
        path = ":".join(filter(None, (str(libraries), os.environ.get("LD_LIBRARY_PATH"))))
        yield ["env", f"LD_LIBRARY_PATH={path}", str(binary)]


def _fetched(home: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(home), WHEEL]
    done = subprocess.run(command, capture_output=True, text=True)
    wheels = list(home.glob("*.whl"))
    if done.returncode or not wheels:
        raise UnavailableError(f"perf_analyzer: pip could not fetch {WHEEL}; give its path with --perf-analyzer")
    with zipfile.ZipFile(wheels[0]) as wheel:
        (name,) = (each for each in wheel.namelist() if each.endswith("bin/perf_analyzer"))
        binary = Path(wheel.extract(name, home))
    binary.chmod(0o755)
    return binary


def _measured(command: list[str], service: Service, concurrency: int, plan: Plan, finding: Finding) -> dict[str, float]:
    """Rate and latencies at one concurrency; what perf_analyzer complains of is a problem."""
    with tempfile.TemporaryDirectory() as folder:
        asked, table = Path(folder, "in.json"), Path(folder, "out.csv")
        asked.write_text(json.dumps({"data": [_request(plan.steps)]}))
        done = subprocess.run(
            [
                *command,
                *(
                    "-m",
                    MODEL,
                    "-i",
                    "grpc",
                    "-u",
                    service.url,
                    "-b",
                    "1",
                    "--input-data",
                    str(asked),
                    "-f",
                    str(table),
                ),
                *("--concurrency-range", f"{concurrency}:{concurrency}", "-p", str(WINDOW_S * 1000)),
                *("-r", str(WINDOWS), "-s", "1000"),  # windows that differ are still windows
                *("-H", f"triton-grpc-protocol-admin-key:{_key(service)}"),
            ],
            capture_output=True,
            text=True,
        )
        if done.returncode or not table.exists():
            finding.problems.append(f"perf_analyzer at {concurrency}: {(done.stdout + done.stderr)[-500:]}")
            return {}
        (row,) = csv.DictReader(table.read_text().splitlines())
    return {
        "images_per_s": float(row["Inferences/Second"]),
        "p50_ms": int(row["p50 latency"]) / 1000,
        "p99_ms": int(row["p99 latency"]) / 1000,
    }


def _request(steps: int) -> dict[str, dict[str, list[object]]]:
    """In perf_analyzer's words; numbers with a point are floats to it."""
    values: dict[str, object] = {"text": "a smiling old man", "age": 70.0, "seed": 7, "num_inference_steps": steps}
    return {name: {"content": [value], "shape": [1]} for name, value in values.items()}  # type: ignore[dict-item]


def _key(service: Service) -> str:
    (pid,) = service.processes(TRITONSERVER)
    found = re.search(r"admin-key=([^\0]+)", Path(f"/proc/{pid}/cmdline").read_text())
    if found is None:
        raise UnavailableError("the server was started without a key; its management calls are open")
    return found[1]
