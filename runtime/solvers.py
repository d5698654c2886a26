"""The solvers that a request may ask for, by name. To add one: its file, a line here, its section in docs/samplers.md.

"ddim" walks the way that the model was judged on; the others need fewer steps for nearly the same picture, and are approximate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from runtime.ddim import DDIMCoefficients, DDIMSolver
from runtime.dpm_solver import DPMSolver, DPMSolverCoefficients
from runtime.schedule import Schedule
from runtime.trajectory import Solver
from runtime.unipc import UniPCCoefficients, UniPCSolver

Shape = tuple[int, ...]
DDIM = "ddim"


def _ddim(schedule: Schedule, num_inference_steps: int, shape: Shape) -> Solver:
    return DDIMSolver(DDIMCoefficients.for_steps(schedule, num_inference_steps), shape)


def _dpm_solver(schedule: Schedule, num_inference_steps: int, shape: Shape) -> Solver:
    return DPMSolver(DPMSolverCoefficients.for_steps(schedule, num_inference_steps), shape)


def _unipc(schedule: Schedule, num_inference_steps: int, shape: Shape) -> Solver:
    return UniPCSolver(UniPCCoefficients.for_steps(schedule, num_inference_steps), shape)


SOLVERS: Mapping[str, Callable[[Schedule, int, Shape], Solver]] = {
    DDIM: _ddim,
    "dpm-solver++": _dpm_solver,
    "unipc": _unipc,
}
"""name -> solver(schedule, num_inference_steps, shape of the sample); ValueError for steps that the schedule cannot take."""
