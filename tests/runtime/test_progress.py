"""The progress bar counts on a terminal and is silent elsewhere."""

from __future__ import annotations

import io

import numpy as np

from runtime.progress import ProgressBar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def run(stream: io.StringIO, steps: int) -> str:
    bar = ProgressBar(4, "step", stream)
    for step_index in range(steps):
        bar(step_index, steps, np.zeros(1))
    return stream.getvalue()


def test_a_terminal_sees_the_count_and_the_end_of_the_line_after_the_last_step():
    assert "step 2/4" in run(Terminal(), 2) and "\n" not in run(Terminal(), 2)
    assert run(Terminal(), 4).endswith("step 4/4\n")


def test_a_file_sees_nothing():
    assert run(io.StringIO(), 4) == ""
