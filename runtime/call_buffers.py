"""The input arrays of the model's calls: filled in place, row by row, with what jobs ask.

Knows evaluations and a model, and no jobs. Layout: C, H, W of one sample; B rows of a call.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from runtime.denoise import Denoise
from runtime.errors import EngineError
from runtime.guidance import Layout, layout_of
from runtime.trajectory import Evaluation


class CallBuffers:
    """Input arrays of the model calls for one layout: allocated once for the largest call, the first rows of it used."""

    def __init__(self, layout: Layout, max_batch_rows: int) -> None:
        self.layout = layout
        (_, self._sample_shape, _), *cond = layout
        self._sample = np.empty((max_batch_rows, *self._sample_shape), dtype=np.float32)
        self._timestep = np.empty(max_batch_rows, dtype=np.int64)
        self._cond = {name: np.empty((max_batch_rows, *shape), dtype=dtype) for name, shape, dtype in cond}
        self._finite = np.empty(self._sample.shape, dtype=bool)
        # The mapping that each row of the cond arrays holds: it seldom changes from call to call, and is not copied again.
        self._written: list[Mapping[str, np.ndarray] | None] = [None] * max_batch_rows

    def write(self, evaluation: Evaluation, row: int) -> int:
        """Write an evaluation's rows from `row` on; the row after them. ValueError for arrays of another layout."""
        sample, timestep, conds = evaluation
        end = row + len(conds)
        if sample.shape != self._sample_shape or sample.dtype != np.float32:
            raise ValueError(f"sample is {sample.dtype} of {sample.shape}; the trajectory began with {self.layout[0]}")
        for number, cond in enumerate(conds):
            self._write_cond(sample, cond, row + number)
        self._sample[row:end] = sample
        self._timestep[row:end] = timestep
        return end

    def call(self, denoise: Denoise, rows: int, bucket: int) -> np.ndarray:
        """Pad to `bucket` rows and call. (bucket, C, H, W) float32; EngineError for another shape or kind."""
        first = self._written[0]
        assert first is not None, "a call has rows"
        for row in range(rows, bucket):
            self._write_cond(self._sample[0], first, row)
        self._sample[rows:bucket] = self._sample[0]
        self._timestep[rows:bucket] = self._timestep[0]
        cond = {name: array[:bucket] for name, array in self._cond.items()}
        output = np.asarray(denoise(self._sample[:bucket], self._timestep[:bucket], cond))
        expected = (bucket, *self._sample_shape)
        if output.shape != expected or output.dtype.kind != "f":
            raise EngineError(f"output is {output.dtype} of shape {output.shape}; it must be float32 of {expected}")
        return output.astype(np.float32, copy=False)

    def is_finite(self, output: np.ndarray, rows: int) -> bool:
        """Whether all of the first `rows` rows are."""
        return bool(np.isfinite(output[:rows], out=self._finite[:rows]).all())

    def _write_cond(self, sample: np.ndarray, cond: Mapping[str, np.ndarray], row: int) -> None:
        if self._written[row] is cond:
            return
        if layout_of_row(sample, cond) != self.layout:
            raise ValueError(f"cond is {layout_of(cond)}; the trajectory began with {self.layout[1:]}")
        self._written[row] = None  # while it holds parts of two
        for name, array in self._cond.items():
            array[row] = cond[name]
        self._written[row] = cond


def layout_of_row(sample: np.ndarray, cond: Mapping[str, np.ndarray]) -> Layout:
    """(name, shape, dtype) of the sample and of each cond array: what must agree for two rows to share a call."""
    return (("sample", sample.shape, sample.dtype.str), *layout_of(cond))
