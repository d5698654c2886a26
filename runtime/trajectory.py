"""A trajectory: which evaluations of the model turn one sample into another, and what is done between them.

The batcher drives trajectories and knows nothing else; what they compute is theirs. Guided sampling with any solver is
`GuidedTrajectory`; whoever needs another course (several evaluations per step, more rows, blends, phases one after
another) writes a class of these members beside it.

Everything is elementwise float32 on the trajectory's own arrays, so its result is the same bit for bit whoever shares the
model's calls. Layout: C, H, W of one sample; R rows of one evaluation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from runtime.denoise import Denoise
from runtime.guidance import Guidance
from runtime.route import FACTORS, Route


class Evaluation(NamedTuple):
    """One call of the model that a trajectory needs: R rows of one sample at one timestep, each under its own cond.

    sample    (C, H, W) float32, C-contiguous; lent until the next `advance`
    timestep  0..num_train_timesteps-1
    conds     R mappings name -> array without batch dimension. They are constant: what changes is another mapping, and one that
              comes again is the same object, which is then not copied again
    """

    sample: np.ndarray
    timestep: int
    conds: tuple[Mapping[str, np.ndarray], ...]


class Trajectory(Protocol):
    """The course of one sample. Stateful, walked once, by one thread at a time.

    Each turn: `evaluation`, the model, `advance`. All evaluations of one trajectory agree in the shape of the sample and in names,
    shapes and dtypes of the conds.
    """

    @property
    def sample(self) -> np.ndarray:
        """(C, H, W) float32 as it stands; the final one, the walker's to keep, once `evaluation` gives None."""

    @property
    def num_steps(self) -> int:
        """Steps that a person counts, >= 1."""

    @property
    def steps_done(self) -> int:
        """0..num_steps; a step may take several evaluations."""

    @property
    def max_rows(self) -> int:
        """Most rows of any evaluation: what is reserved for it."""

    def evaluation(self) -> Evaluation | None:
        """What the model has to be asked next, the same until `advance`; None at the end."""

    def advance(self, outputs: np.ndarray) -> None:
        """Go on with the model's answer to the evaluation: (R, C, H, W) float32, finite, lent for the call."""

    def pred_x0(self, outputs: np.ndarray) -> np.ndarray:
        """The clean sample that this answer implies, (C, H, W) float32, a new array. Before `advance`, and only if somebody looks."""


class Solver(Protocol):
    """How a sample moves from timestep to timestep, given a prediction at each. Has the scratch memory and history of one sample."""

    @property
    def timesteps(self) -> np.ndarray:
        """(N,) int64 in step order: where the model is evaluated."""

    def step(self, step_index: int, sample: np.ndarray, noise_pred: np.ndarray) -> None:
        """Move `sample`, (C, H, W) float32, in place by step `step_index`; `noise_pred` is the model's prediction, only read."""

    def pred_x0(self, step_index: int, sample: np.ndarray, noise_pred: np.ndarray) -> np.ndarray:
        """The clean sample that a prediction implies, a new array."""


@runtime_checkable
class Tabulated(Protocol):
    """A `Solver` whose steps may be rows of a table."""

    def factors(self) -> np.ndarray | None:
        """(N, 7) float32, see `runtime.route`, without guidance; None if a step does more."""


class GuidedTrajectory:
    """One evaluation per step, with or without guidance, and a solver that moves the sample.

    sample    (C, H, W) float32 at the noise level of the solver's first timestep; copied
    """

    def __init__(self, sample: np.ndarray, guidance: Guidance, solver: Solver) -> None:
        self.sample = np.array(sample, dtype=np.float32, order="C")
        if self.sample.ndim != 3:
            raise ValueError(f"trajectory: sample has shape {self.sample.shape}; it must be (C, H, W)")
        self.num_steps = len(solver.timesteps)
        self.steps_done = 0
        self.max_rows = guidance.max_rows
        self._guidance = guidance
        self._solver = solver
        self._timesteps = solver.timesteps.tolist()
        self._noise_pred = np.empty_like(self.sample) if guidance.max_rows > 1 else None

    def evaluation(self) -> Evaluation | None:
        if self.steps_done == self.num_steps:
            return None
        timestep = self._timesteps[self.steps_done]
        return Evaluation(self.sample, timestep, self._guidance.conds(timestep))

    def advance(self, outputs: np.ndarray) -> None:
        self._solver.step(self.steps_done, self.sample, self._guidance.combined(outputs, self._noise_pred))
        self.steps_done += 1

    def pred_x0(self, outputs: np.ndarray) -> np.ndarray:
        return self._solver.pred_x0(self.steps_done, self.sample, self._guidance.combined(outputs, self._noise_pred))

    def route(self) -> Route | None:
        """See `runtime.route.Foreseeable`."""
        factors = self._solver.factors() if self.steps_done == 0 and isinstance(self._solver, Tabulated) else None
        if factors is None:
            return None
        factors[:, FACTORS.index("guidance")] = [self._guidance.scale_at(timestep) for timestep in self._timesteps]
        return Route(self.sample, self._guidance.rows, self._solver.timesteps, factors)

    def arrive(self, sample: np.ndarray) -> None:
        """See `runtime.route.Foreseeable`."""
        self.sample, self.steps_done = sample, self.num_steps


def walk(trajectory: Trajectory, denoise: Denoise) -> np.ndarray:
    """The final sample, (C, H, W) float32, of a trajectory that has the model to itself: what the batcher does, in its plainest form."""
    while (evaluation := trajectory.evaluation()) is not None:
        rows = len(evaluation.conds)
        cond = {name: np.stack([each[name] for each in evaluation.conds]) for name in evaluation.conds[0]}
        timestep = np.full(rows, evaluation.timestep, dtype=np.int64)
        trajectory.advance(denoise(np.repeat(evaluation.sample[None], rows, axis=0), timestep, cond))
    return trajectory.sample
