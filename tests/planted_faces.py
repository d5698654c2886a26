"""A face detector in SCRFD's layout that finds what a test has planted: red squares that stand alone. Nothing of it knows faces.

Three strides with two anchors a cell, nine outputs, inputs `(pixel - 127.5) / 128` in RGB, as insightface's detectors have them. Only
the coarsest map speaks: a cell of 32 pixels scores as red as it is, less what is red around it. So in each size that a photo is looked at in,
squares of one size are found, those that fill a cell.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CELL = 32
STRIDES, ANCHORS = (8, 16, CELL), 2
# Where the points lie in a red square, of its side: eyes, nose, mouth corners.
POINTS = np.array([[0.3, 0.35], [0.7, 0.35], [0.5, 0.6], [0.34, 0.78], [0.66, 0.78]])
STRENGTH = 0.75  # score of a square that stands alone; one that touches others stays below the limit


def write_detector(path: Path, has_points: bool = True, moved: float = 0.0) -> Path:
    """The detector as an ONNX file of any input size. `moved` pushes one eye by so many sides of the square: no face's points."""
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []

    def constant(name: str, values: np.ndarray) -> str:
        weights.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def node(kind: str, inputs: list[str], output: str, **attributes: object) -> str:
        nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    colours = constant("red_less_others", np.array([1.0, -0.5, -0.5], np.float32).reshape(1, 3, 1, 1) * 128 / 255)
    redness = node("Relu", [node("Conv", ["image", colours], "difference")], "redness")
    ring = np.full((1, 1, 3, 3), -1 / 3, np.float32)
    ring[0, 0, 1, 1] = 1
    column, twice = constant("column", np.array([-1, 1])), constant("twice", np.array([1, ANCHORS]))
    points = POINTS.copy()
    points[0, 0] += moved
    rows = {"box": np.array([0, 0, 1, 1]), **({"points": points.flatten()} if has_points else {})}
    outputs: dict[str, dict[str, int]] = {"score": {}, **{kind: {} for kind in rows}}
    for stride in STRIDES:
        pooled = node("AveragePool", [redness], f"pooled{stride}", kernel_shape=[stride] * 2, strides=[stride] * 2)
        kernel = constant(f"kernel{stride}", ring * (STRENGTH if stride == CELL else 0.0))
        alone = node("Conv", [pooled, kernel], f"alone{stride}", pads=[1, 1, 1, 1])
        cells = node("Tile", [node("Reshape", [alone, column], f"cells{stride}"), twice], f"anchors{stride}")
        outputs["score"][node("Reshape", [cells, column], f"score{stride}")] = 1
        for kind, row in rows.items():  # the same for every anchor: nothing times the scores, plus the constant
            nothing = constant(f"nothing_{kind}{stride}", np.zeros((1, len(row)), np.float32))
            values = constant(f"values_{kind}{stride}", row[None].astype(np.float32))
            product = node("MatMul", [f"score{stride}", nothing], f"product_{kind}{stride}")
            outputs[kind][node("Add", [product, values], f"{kind}{stride}")] = len(row)
    graph = helper.make_graph(
        nodes,
        path.stem,
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, "?", "?"])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", width])
            for names in outputs.values()
            for name, width in names.items()
        ],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path


def plant(photo: np.ndarray, left: int, top: int, side: int) -> np.ndarray:
    """A copy of the photo, (H, W, 3) uint8, with a red square in it; (5, 2) points of it are `points_of`."""
    planted = photo.copy()
    planted[top : top + side, left : left + side] = (255, 0, 0)
    return planted


def points_of(left: int, top: int, side: int) -> np.ndarray:
    """(5, 2) float64: where the detector sees the points of a planted square."""
    return POINTS * side + (left, top)
