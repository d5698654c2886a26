"""Measuring FP16 on a CPU shows what FP16 hardware would do: overflow and rounding between nodes."""

from __future__ import annotations

import numpy as np

from export.rounded import rounded
from export.to_fp16 import to_fp16
from tests.export.graphs import network, run, square

# 1 → 1200 → 1,440,000 → 5760: the middle is beyond FP16.
OVERFLOWING = network(
    [("MatMul", ["x", "w"], "a"), ("MatMul", ["a", "w"], "b"), ("MatMul", ["b", "v"], "y")],
    {"w": square(300), "v": square(1e-3)},
)


def test_an_overflow_between_two_nodes_shows_though_onnx_runtime_hides_it() -> None:
    half = to_fp16(OVERFLOWING, ())
    assert np.isfinite(run(half, square(1))).all(), (
        "ONNX Runtime has begun to round: `rounded` may have become needless"
    )
    assert not np.isfinite(run(rounded(half), square(1))).any()


def test_what_is_kept_in_fp32_is_not_rounded() -> None:
    kept = to_fp16(OVERFLOWING, (1, 2))
    np.testing.assert_allclose(run(rounded(kept), square(1)), run(OVERFLOWING, square(1)), rtol=1e-3)


def test_every_tensor_between_nodes_is_a_half() -> None:
    third = square(1 / 3)
    result = run(rounded(to_fp16(network([("Relu", ["x"], "y")], {}), ())), third)
    np.testing.assert_array_equal(result, third.astype(np.float16).astype(np.float32))
    assert np.any(result != third)


def test_sums_inside_a_node_are_not_rounded() -> None:
    """4 × (2048 + 1) would stop at 2048 in FP16 arithmetic; as an FP32 sum it is 8196, which FP16 holds as 8192 or 8200."""
    x = np.array([[2048, 1, 0, 0]] * 4, np.float32)
    y = run(
        rounded(
            to_fp16(
                network(
                    [("MatMul", ["x", "w"], "a"), ("MatMul", ["a", "u"], "y")],
                    {"w": square(1), "u": np.eye(4, dtype=np.float32)},
                ),
                (),
            )
        ),
        x,
    )
    np.testing.assert_array_equal(y, np.full((4, 4), np.float16(2049), np.float32))
