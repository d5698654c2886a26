"""A copy of a bundle whose UNet hangs at one timestep and fails at another. Its hashes are right: the fault is in the network."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from runtime.manifest import Manifest, sha256_of
from runtime.schedule import Schedule

HANGING_STEPS, FAILING_STEPS = 3, 7  # requests of so many steps meet the fault, those of any other number in use do not
FOREVER = 1 << 60
UNET = "onnx/unet.onnx"


def plant(bundle: Path, to: Path, innocent_steps: tuple[int, ...]) -> Path:
    """Copy `bundle` to the new folder `to`; requests of `innocent_steps` steps will be as before."""
    manifest = Manifest.read(bundle)
    for name in manifest.files:
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        (to / name).write_bytes((bundle / name).read_bytes())
    spared = {int(t) for steps in innocent_steps for t in manifest.schedule.timesteps(steps)}
    hanging = _only_in(manifest.schedule, HANGING_STEPS, spared)
    failing = _only_in(manifest.schedule, FAILING_STEPS, spared)
    network = onnx.load(to / UNET)
    _plant(network.graph, hanging, failing)
    onnx.save(network, to / UNET)
    facts = json.loads((bundle / "manifest.json").read_bytes())
    facts["files"][UNET].update(sha256=sha256_of(to / UNET), bytes=(to / UNET).stat().st_size)
    (to / "manifest.json").write_text(json.dumps(facts))
    return to


def _only_in(schedule: Schedule, steps: int, spared: set[int]) -> int:
    """The first timestep of a run of so many steps that no spared run visits."""
    return next(int(t) for t in schedule.timesteps(steps) if int(t) not in spared)


def _plant(graph: onnx.GraphProto, hanging: int, failing: int) -> None:
    """Append nodes that count for ever where a row's timestep is `hanging`, and look up entry 9 of 1 where it is `failing`."""
    last = next(node for node in graph.node if "noise_pred" in node.output)
    last.output[:] = ["sound"]
    one_turn = helper.make_graph(
        [
            helper.make_node("Identity", ["goes_on"], ["still_goes_on"]),
            helper.make_node("Add", ["turns", "planted_one"], ["turns_after"]),
        ],
        "turn",
        [
            helper.make_tensor_value_info("turn_number", TensorProto.INT64, []),
            helper.make_tensor_value_info("goes_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("turns", TensorProto.FLOAT, [1]),
        ],
        [
            helper.make_tensor_value_info("still_goes_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("turns_after", TensorProto.FLOAT, [1]),
        ],
    )
    constants = {
        "planted_hanging": np.array([hanging], np.int64),
        "planted_failing": np.array([failing], np.int64),
        "planted_forever": np.array(FOREVER, np.int64),
        "planted_never": np.array(0, np.int64),
        "planted_outside": np.array([9], np.int64),
        "planted_inside": np.array([0], np.int64),
        "planted_table": np.zeros(1, np.float32),
        "planted_one": np.ones(1, np.float32),
        "planted_zero": np.zeros(1, np.float32),
        "planted_true": np.array(True),
    }
    graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
    graph.node.extend(
        [
            *_any_row("hanging"),
            helper.make_node("Where", ["any_hanging", "planted_forever", "planted_never"], ["planted_turns"]),
            helper.make_node("Loop", ["planted_turns", "planted_true", "planted_zero"], ["turned"], body=one_turn),
            *_any_row("failing"),
            helper.make_node("Where", ["any_failing", "planted_outside", "planted_inside"], ["planted_index"]),
            helper.make_node("Gather", ["planted_table", "planted_index"], ["looked_up"]),
            helper.make_node("Mul", ["turned", "looked_up"], ["planted_nothing"]),  # zero, as far as anybody gets here
            helper.make_node("Add", ["sound", "planted_nothing"], ["noise_pred"]),
        ]
    )


def _any_row(fault: str) -> Iterator[onnx.NodeProto]:
    yield helper.make_node("Equal", ["timestep", f"planted_{fault}"], [f"rows_{fault}"])
    yield helper.make_node("Cast", [f"rows_{fault}"], [f"ones_{fault}"], to=TensorProto.INT64)
    yield helper.make_node("ReduceMax", [f"ones_{fault}"], [f"one_{fault}"], keepdims=0)
    yield helper.make_node("Cast", [f"one_{fault}"], [f"any_{fault}"], to=TensorProto.BOOL)
