"""A UNet with planted faults, as an ONNX network: it is sound for every row but those whose cond is one of the given keys."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from runtime.manifest import Manifest, onnx_file, sha256_of
from runtime.spec import EngineSpec

NOT_FINITE, WRONG_SHAPE, RAISES, HANGS = FAULTS = ("not_finite", "wrong_shape", "raises", "hangs")
NOT_FINITE_BELOW = 500  # timestep


def plant(bundle: Path, out: Path, keys: Mapping[str, np.ndarray]) -> Path:
    """Copy a bundle with the faulty UNet in place of its own. `keys` are the values of the entry `cond` that trigger each fault."""
    shutil.copytree(bundle, out)
    manifest = Manifest.read(out)
    file = onnx_file("unet")
    (out / file).write_bytes(_network(manifest.engines["unet"], keys).SerializeToString())
    record = {"sha256": sha256_of(out / file), "bytes": (out / file).stat().st_size}
    replace(manifest, files={**manifest.files, file: record}).write(out)
    return out


def _network(spec: EngineSpec, keys: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    """noise_pred = 0.1 sample, where no key matches.

    not_finite   those rows are NaN at timesteps below 500
    wrong_shape  the whole output lacks a channel
    raises       a Gather reaches beyond its data
    hangs        a loop of 10^15 turns
    """
    types = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}
    inputs = [helper.make_tensor_value_info(each.name, types[each.dtype], each.shape) for each in spec.inputs]
    outputs = [helper.make_tensor_value_info(each.name, types[each.dtype], each.shape) for each in spec.outputs]
    constants = {
        **{f"key_{fault}": keys[fault][None].astype(np.float32) for fault in FAULTS},
        "near": np.float32(1e-6),
        "tenth": np.float32(0.1),
        "nan": np.float32(np.nan),
        "below": np.int64(NOT_FINITE_BELOW),
        "column": np.array([-1, 1, 1, 1]),
        "start": np.array([0]),
        "axis": np.array([1]),
        "channels": np.array([spec.outputs[0].shape[1]]),
        "beyond": np.int64(1000),
        "turns": np.int64(10**15),
        "one": np.zeros(1, np.float32),
        "grow": np.float32(1.0000001),
        "nothing": np.float32(0),
    }
    nodes = []
    for fault in FAULTS:
        nodes += [
            helper.make_node("Sub", ["cond", f"key_{fault}"], [f"off_{fault}"]),
            helper.make_node("Abs", [f"off_{fault}"], [f"far_{fault}"]),
            helper.make_node("ReduceMax", [f"far_{fault}", "axis"], [f"most_{fault}"], keepdims=0),
            helper.make_node("Less", [f"most_{fault}", "near"], [f"rows_{fault}"]),
            helper.make_node("Cast", [f"rows_{fault}"], [f"count_{fault}"], to=TensorProto.INT64),
            helper.make_node("ReduceMax", [f"count_{fault}"], [fault], keepdims=0),  # 0 or 1
        ]
    body = helper.make_graph(
        [helper.make_node("Identity", ["on"], ["still_on"]), helper.make_node("Mul", ["value", "grow"], ["grown"])],
        "turn",
        [
            helper.make_tensor_value_info("number", TensorProto.INT64, []),
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("value", TensorProto.FLOAT, []),
        ],
        [
            helper.make_tensor_value_info("still_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("grown", TensorProto.FLOAT, []),
        ],
    )
    nodes += [
        helper.make_node("Mul", [HANGS, "turns"], ["trips"]),
        helper.make_node("Loop", ["trips", "", "nothing"], ["looped"], body=body),  # 0, late
        helper.make_node("Mul", [RAISES, "beyond"], ["index"]),
        helper.make_node("Gather", ["one", "index"], ["gathered"]),  # 0, or an error
        helper.make_node("Mul", ["sample", "tenth"], ["tenths"]),
        helper.make_node("Add", ["tenths", "looped"], ["after_loop"]),
        helper.make_node("Add", ["after_loop", "gathered"], ["sound"]),
        helper.make_node("Less", ["timestep", "below"], ["late"]),
        helper.make_node("And", ["late", f"rows_{NOT_FINITE}"], ["poisoned"]),
        helper.make_node("Reshape", ["poisoned", "column"], ["poisoned_rows"]),
        helper.make_node("Where", ["poisoned_rows", "nan", "sound"], ["poisoned_sample"]),
        helper.make_node("Sub", ["channels", WRONG_SHAPE], ["stop"]),
        helper.make_node("Slice", ["poisoned_sample", "start", "stop", "axis"], ["noise_pred"]),
    ]
    initializers = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "planted", inputs, outputs, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
