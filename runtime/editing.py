"""Editing a photo: up to the noise level t0 as it is, and from there down again as something else.

An edit is one trajectory of two: `Inversion` under what describes the photo, then guided DDIM under what is asked, over the same
timesteps. Guidance points from the photo's description to what is asked, so what both agree in has no say and what differs is
strengthened; `edit_strength` s scales it:

    noise_pred = source + s guidance_scale (target - source)

With s = 0, or nothing asked that the photo does not show, the way down is the way up and the photo comes back. Without a description
the source is the unconditional cond, and this is classifier-free guidance (docs/decisions/0026-guidance-from-the-source.md).

Latents cannot hold all of a photo. What the autoencoder lost of it is given back to the finished picture, fading where the edit
changed something.

A mask keeps the rest of the photo: after every step what lies outside is the inversion's own sample of that level, and in the finished
picture the photo's own pixels. `source_correction` adds at each step what DDIM misses of the inversion there.

Inversions are cached by what they depend on, so a strip of edits inverts its photo once. Layout: (C, H, W) samples, (H, W, 3) pictures.
"""

from __future__ import annotations

import hashlib
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime.bundle import Bundle
from runtime.ddim import DDIMSolver
from runtime.detail import unchanged
from runtime.errors import RequestError
from runtime.guidance import Guidance
from runtime.inversion import Inversion, Inverted, edit_timesteps, steps_back
from runtime.report import elapsed_ms
from runtime.route import Route
from runtime.schedule import Schedule
from runtime.settings import SampleSettings
from runtime.trajectory import Evaluation, GuidedTrajectory

if TYPE_CHECKING:
    from runtime.sampling import SampleRequest

CACHE_BYTES = 256 * 2**20  # of inverted photos: five hundred of the demo's with all levels, six of 3×256×256 pixels
KEPT_BYTES = CACHE_BYTES  # of one edit's inversion: more than this would not be cached either
FEATHER = 1 / 64  # of the picture's side: how far inside a mask's edge an edit reaches its full strength


@dataclass(frozen=True, eq=False)
class EditPlan:
    """The way up and down of one edit: ascending timesteps of both, which begin at 0 and end at t0."""

    up: np.ndarray
    down: np.ndarray
    keep_levels: bool
    keep_residuals: bool

    @classmethod
    def of(cls, settings: SampleSettings, schedule: Schedule, has_mask: bool) -> EditPlan:
        """What the settings ask for. Raises RequestError for steps that do not fit, together or into [0, t0]."""
        options, t0 = settings.options, settings.edit_from_timestep
        if t0 is None:
            raise RequestError("edit_from_timestep", "missing; an edit starts there")
        if t0 >= schedule.num_train_timesteps:
            raise RequestError("edit_from_timestep", f"got {t0}, allowed 1..{schedule.num_train_timesteps - 1}")
        asked = settings.num_inference_steps
        up, down = asked if options.inversion_steps is None else options.inversion_steps, asked
        if up != down:
            for name, is_on in (("mask", has_mask), ("options.source_correction", options.source_correction)):
                if is_on:
                    raise RequestError(
                        "options.inversion_steps",
                        f"got {up}; {name} needs as many as num_inference_steps, {down}: it meets the inversion at every step",
                    )
        return cls(
            up=_timesteps(t0, up, "options.inversion_steps" if options.inversion_steps else "num_inference_steps"),
            down=_timesteps(t0, down, "num_inference_steps"),
            keep_levels=has_mask,
            keep_residuals=options.source_correction,
        )


class EditTrajectory:
    """A `Trajectory` of two: the inversion, unless it is known already, and the way back from its end.

    back         makes the second one
    num_back     its number of steps
    max_rows     the most rows of either
    on_inverted  called once, with an inversion that had to be made
    """

    def __init__(
        self,
        inversion: Inversion | Inverted,
        back: Callable[[Inverted], GuidedTrajectory],
        num_back: int,
        max_rows: int,
        on_inverted: Callable[[Inverted], None],
    ) -> None:
        self.max_rows = max_rows
        self._back = back
        self._on_inverted = on_inverted
        self._steps_up = inversion.num_steps if isinstance(inversion, Inversion) else 0
        self.num_steps = self._steps_up + num_back
        self._part: Inversion | GuidedTrajectory = inversion if isinstance(inversion, Inversion) else back(inversion)

    @property
    def sample(self) -> np.ndarray:
        return self._part.sample

    @property
    def steps_done(self) -> int:
        return self._part.steps_done + (self._steps_up if isinstance(self._part, GuidedTrajectory) else 0)

    def evaluation(self) -> Evaluation | None:
        return self._part.evaluation()

    def advance(self, outputs: np.ndarray) -> None:
        self._part.advance(outputs)
        self._turn_at_the_top()

    def route(self) -> Route | None:
        """See `runtime.route.Foreseeable`: one way at a time, since the second starts where the first ends."""
        return self._part.route()

    def arrive(self, sample: np.ndarray) -> None:
        """See `runtime.route.Foreseeable`."""
        self._part.arrive(sample)
        self._turn_at_the_top()

    def _turn_at_the_top(self) -> None:
        if isinstance(self._part, Inversion) and self._part.evaluation() is None:
            inverted = self._part.result
            self._on_inverted(inverted)
            self._part = self._back(inverted)

    def pred_x0(self, outputs: np.ndarray) -> np.ndarray:
        return self._part.pred_x0(outputs)


@dataclass(frozen=True, eq=False)
class Edit:
    """One edit to be run: its course, the (C, H, W) sample that stands for the photo, how long encoding took, and what the report says."""

    trajectory: EditTrajectory
    clean: np.ndarray
    encode_ms: float
    report: dict[str, Any]


class AnchoredSolver:
    """DDIM that holds on to the inversion it came from; a `runtime.trajectory.Solver`.

    After each step the inversion's residual is added, if it kept them, and where `mask` is 0 the inversion's own sample takes over.

    mask  (1, H, W) float32 in 0..1 of the sample's size, or None
    """

    def __init__(self, schedule: Schedule, timesteps: np.ndarray, inverted: Inverted, mask: np.ndarray | None) -> None:
        coefficients = steps_back(schedule, timesteps)
        self.timesteps = coefficients.timesteps
        self._ddim = DDIMSolver(coefficients, inverted.sample.shape)
        self._inverted = inverted
        self._mask = mask

    def step(self, step_index: int, sample: np.ndarray, noise_pred: np.ndarray) -> None:
        self._ddim.step(step_index, sample, noise_pred)
        below = len(self.timesteps) - 1 - step_index  # the level this step lands on, counted from the clean one
        if self._inverted.residuals is not None:
            sample += self._inverted.residuals[below]
        if self._mask is not None:
            assert self._inverted.levels is not None, "a masked edit keeps the levels of its inversion"
            source = self._inverted.levels[below]
            sample -= source
            sample *= self._mask
            sample += source

    def pred_x0(self, step_index: int, sample: np.ndarray, noise_pred: np.ndarray) -> np.ndarray:
        return self._ddim.pred_x0(step_index, sample, noise_pred)

    def factors(self) -> np.ndarray | None:
        """See `runtime.trajectory.Tabulated`: DDIM's own, where there is nothing to hold on to."""
        return self._ddim.factors() if self._mask is None and self._inverted.residuals is None else None


class InversionCache:
    """The inversions used last, as many as fit into `max_bytes`. Usable from many threads."""

    def __init__(self, max_bytes: int = CACHE_BYTES) -> None:
        self._max_bytes = max_bytes
        self._kept: OrderedDict[str, Inverted] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: str) -> Inverted | None:
        """The inversion stored under `key`, which becomes the one used last."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def put(self, key: str, inverted: Inverted) -> None:
        """Store it and drop what was not used for longest. One that is larger than all memory is not kept."""
        if inverted.num_bytes > self._max_bytes:
            return
        with self._lock:
            self._kept[key] = inverted
            self._kept.move_to_end(key)
            while sum(kept.num_bytes for kept in self._kept.values()) > self._max_bytes:
                self._kept.popitem(last=False)


class Editor:
    """Makes the trajectories of edits with one bundle; the encoder is used by the caller's thread."""

    def __init__(self, bundle: Bundle, cache_bytes: int = CACHE_BYTES) -> None:
        self._bundle = bundle
        self._cache = InversionCache(cache_bytes)

    def check(self, request: SampleRequest) -> None:
        """Raise RequestError for an edit that cannot be made. Cheap: no network runs."""
        if request.image is None:
            raise RequestError("reference", "missing; an edit changes a photo")
        plan = EditPlan.of(request.settings, self._bundle.schedule, request.mask is not None)
        kept = plan.keep_levels + plan.keep_residuals  # arrays of a sample per step
        if kept:
            most = KEPT_BYTES // (4 * math.prod(self._bundle.model.sample_shape) * kept)
            if len(plan.down) > most:
                raise RequestError(
                    "num_inference_steps",
                    f"got {len(plan.down)}; an edit that keeps its inversion's steps, for a mask or source_correction, takes at most {most} here",
                )

    def edit(self, request: SampleRequest) -> Edit:
        """What there is to run for a checked request. Encodes the photo, unless its inversion is known. Raises EngineError."""
        assert request.image is not None, "the request was checked"
        settings, options, schedule = request.settings, request.settings.options, self._bundle.schedule
        plan = EditPlan.of(settings, schedule, request.mask is not None)
        source = self._bundle.uncond if request.source_cond is None else request.source_cond
        strength = options.edit_strength * settings.guidance_scale
        guidance = Guidance(request.cond, source, strength)
        mask = None if request.mask is None else sample_mask(request.mask[0, 0], self._bundle.model.sample_shape)

        def back(inverted: Inverted) -> GuidedTrajectory:
            return GuidedTrajectory(inverted.sample, guidance, AnchoredSolver(schedule, plan.down, inverted, mask))

        key = inversion_key(settings, request.image, source, plan)
        known = self._cache.get(key)
        start = time.perf_counter()
        clean = self._encode(request.image) if known is None else known.clean
        encode_ms = elapsed_ms(start, time.perf_counter())
        inversion = known or Inversion(
            schedule,
            clean,
            guidance.uncond,
            plan.up,
            options.fixed_point_iterations,
            plan.keep_levels,
            plan.keep_residuals,
        )
        trajectory = EditTrajectory(
            inversion, back, len(plan.down), guidance.max_rows, lambda inverted: self._cache.put(key, inverted)
        )
        report = {
            "t0": settings.edit_from_timestep,
            "inversion_steps": len(plan.up),
            "fixed_point_iterations": options.fixed_point_iterations,
            "source": "none" if request.source_cond is None else "photo",
            "edit_strength": options.edit_strength,
            "source_correction": "round trip exact by construction" if options.source_correction else None,
            "masked": request.mask is not None,
            "detail_kept": options.keep_detail and self._bundle.model.is_latent,
            "inversion_cached": known is not None,
        }
        return Edit(trajectory, clean, encode_ms, report)

    def _encode(self, image: np.ndarray) -> np.ndarray:
        """(1, 3, H, W) pixels to the (C, H, W) sample that an edit starts from."""
        if not self._bundle.model.is_latent:
            return image[0]
        return self._bundle.run("encoder", {"image": image})["latents"][0]


def inversion_key(settings: SampleSettings, image: np.ndarray, source: Mapping[str, np.ndarray], plan: EditPlan) -> str:
    """SHA-256, in hex, of everything that an inversion depends on, of what was kept of it, and of the tenant whose photo it is."""
    numbers = (settings.options.fixed_point_iterations, plan.keep_levels, plan.keep_residuals)
    digest = hashlib.sha256(repr((settings.tenant, numbers, image.shape)).encode())
    for array in (image, plan.up, *(source[name] for name in sorted(source))):
        digest.update(array.tobytes())
    return digest.hexdigest()


def sample_mask(mask: np.ndarray, sample_shape: tuple[int, int, int]) -> np.ndarray:
    """A mask (H, W) at the sample's size, (1, h, w): the largest value in each cell, for an edit may use all of a cell it touches."""
    _, height, width = sample_shape
    cells = mask.reshape(height, mask.shape[0] // height, width, mask.shape[1] // width)
    return np.ascontiguousarray(cells.max(axis=(1, 3))[None])


def keep_detail(picture: np.ndarray, photo: np.ndarray, decoded: np.ndarray) -> np.ndarray:
    """The edited picture with what the autoencoder lost of the photo, fading where the edit changed something.

    picture, decoded  (H, W, 3) uint8, `decoded` is the photo encoded and decoded      photo  (3, H, W) float32 in [-1, 1]
    """
    weight = unchanged(picture, decoded)
    restored = picture + weight * (to_levels(photo) - decoded.astype(np.float32))
    return np.rint(np.clip(restored, 0, 255)).astype(np.uint8)


def keep_outside(picture: np.ndarray, photo: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The edited picture where the mask lets it be, the photo's own pixels, bit for bit, where the mask is 0.

    picture  (H, W, 3) uint8      photo  (3, H, W) float32 in [-1, 1]      mask  (H, W) float32 in 0..1
    Inside, the edit fades in over FEATHER of the side from the mask's edge.
    """
    original = to_levels(photo).astype(np.float32)
    weight = feathered(mask)[..., None]
    return np.rint(original + weight * (picture - original)).astype(np.uint8)


def to_levels(pixels: np.ndarray) -> np.ndarray:
    """(3, H, W) float32 in [-1, 1] to (H, W, 3) uint8: of `model_pixels` the exact inverse."""
    return np.ascontiguousarray(np.rint((np.clip(pixels, -1, 1) + 1) * 127.5).astype(np.uint8).transpose(1, 2, 0))


def feathered(mask: np.ndarray) -> np.ndarray:
    """(H, W) float32: the mask with edges that rise inwards; 0 stays 0, and so does what is far from an edge."""
    total, eroded = mask.copy(), mask
    width = max(1, round(FEATHER * mask.shape[0]))
    for _ in range(width):
        windows = np.lib.stride_tricks.sliding_window_view(np.pad(eroded, 1, mode="edge"), (3, 3))
        eroded = windows.min(axis=(2, 3))
        total += eroded
    return total / (width + 1)


def _timesteps(t0: int, steps: int, field: str) -> np.ndarray:
    try:
        return edit_timesteps(t0, steps)
    except ValueError as error:
        raise RequestError(field, str(error)) from None
