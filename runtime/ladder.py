"""The parity ladder: torch and an engine walk the same way, and every rung says how far apart they are and may be.

    engine      one call of each engine on reference inputs
    step        one UNet call at timesteps over the whole range, on the samples that torch met there
    trajectory  all DDIM steps from one noise, guided, each side on its own samples: errors add up
    image       the picture at its end
    inversion   DDIM inversion of torch's final sample, and the way back (unguided, eta 0)

A model may be chaotic: its walk multiplies the last bit of a sample until nothing is left of the likeness. Where a rung of the upper three
is missed, torch walks again, started one rounding off; a limit nearer than ten times its distance from itself gives way to that, and says so.

Torch walks at export; its samples go into `parity.safetensors`, so that `runtime/verify.py` needs no torch. It knows engines by their
contract only. Letters: N steps, K stored samples, (C, H, W) a sample.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np

from runtime.ddim import DDIMCoefficients, sample_loop
from runtime.denoise import Denoise
from runtime.engines import Engine
from runtime.engines.backends import BF16_ENGINE
from runtime.errors import BundleError
from runtime.guidance import guide
from runtime.manifest import ONNX, ONNX_FP16, PARITY, REMEDY
from runtime.schedule import Schedule
from runtime.similarity import psnr_db, ssim

NUM_STEPS, NUM_INVERSION_STEPS = 20, 10  # enough for errors to add up
# A UNet call on a sample of more elements than this takes seconds on a CPU, and an export makes hundreds: such a model walks less far.
LARGE_SAMPLE = 100_000
NUM_STEPS_LARGE, NUM_INVERSION_STEPS_LARGE = 6, 3
DECIBELS = "dB"
WALKS = ("trajectory", "image", "inversion")  # the rungs on which errors add up
STORED_SAMPLES = 6  # of N + 1: a pixel model's samples are large
SEED = 7
# How far off torch starts when it is compared with itself: one rounding of a number between 1 and 2.
ROUNDING: Mapping[str, float] = {ONNX: 2.0**-23, ONNX_FP16: 2.0**-11}
# How many times torch's distance from itself a network may be from torch. Untrained UNets of four degrees of chaos ended 0.6 to 2.2 times as
# far (docs/decisions/0024).
MULTIPLE = 10.0


@dataclass(frozen=True)
class Limits:
    """The largest errors, relative to the largest element of what torch gives; for the image the least likeness."""

    engine: float
    step: float
    trajectory: float
    inversion: float
    image_psnr_db: float
    image_ssim: float


LIMITS: Mapping[str, Limits] = {
    # Another order of summation gives 1e-7 to 1e-5 at the depths of these networks, and guided steps multiply that by a few; a wrong
    # epsilon, a lost mask or one FP16 kernel gives 1e-3 and more. 60 dB is one level of 255 in every sixteenth value.
    ONNX: Limits(engine=1e-4, step=1e-4, trajectory=1e-4, inversion=1e-4, image_psnr_db=60, image_ssim=0.9999),
    # FP16 has 11 bits: 5e-4 per rounding, several times that after a network. An overflow gives no number at all; a timestep or a
    # norm in FP16 gives 0.1 and more. 40 dB is two and a half levels of 255, below what an eye sees.
    ONNX_FP16: Limits(engine=1e-2, step=1e-2, trajectory=2e-2, inversion=2e-2, image_psnr_db=40, image_ssim=0.98),
    # BF16 has 8 bits, three fewer than FP16, hence eight times the rounding; a picture may still not show it.
    BF16_ENGINE: Limits(engine=8e-2, step=8e-2, trajectory=0.16, inversion=0.16, image_psnr_db=40, image_ssim=0.98),
}


@dataclass(frozen=True)
class Check:
    """One comparison: `value` must be at most `limit`, or with `at_least` no less. None, not a finite number, never holds."""

    rung: str
    subject: str
    measure: str
    value: float | None
    limit: float
    at_least: bool = False
    own: float | None = None  # what torch reaches against itself, where that is what the limit follows

    @property
    def holds(self) -> bool:
        """Whether the value is on the right side of the limit."""
        if self.value is None:
            return False
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def __str__(self) -> str:
        value = "not finite" if self.value is None else f"{self.value:.3g}"
        own = "" if self.own is None else f" (torch against itself {self.own:.3g})"
        return f"{self.rung} {self.subject}: {self.measure} {value}, limit {self.limit:.4g}{own}"


@dataclass(frozen=True)
class Sensitivity:
    """What torch reaches against itself, started `rounding` off (relative, every element, sign by chance). None: not finite.

    The fields are those of the upper three rungs' checks. A limit nearer than `multiple` times torch's error is replaced by that, for a
    likeness by what an error so much larger leaves of it.
    """

    rounding: float
    multiple: float
    trajectory: float | None
    image_psnr_db: float | None
    image_ssim: float | None
    inversion: float | None
    restored: float | None

    @classmethod
    def from_dict(cls, values: Any) -> Sensitivity:
        """Read the manifest's form; BundleError if it is not that."""
        try:
            if sorted(values) != sorted(f.name for f in fields(cls)):
                raise ValueError(f"it holds {sorted(values)}")
            may_be_none = {name: None if value is None else float(value) for name, value in values.items()}
            return cls(**{**may_be_none, **{name: float(values[name]) for name in ("rounding", "multiple")}})  # type: ignore[arg-type]
        except (TypeError, ValueError) as error:
            raise BundleError(
                f"manifest.json: parity sensitivity is damaged ({type(error).__name__}: {error}); {REMEDY}"
            ) from None

    def to_dict(self) -> dict[str, float | None]:
        """JSON form for the manifest."""
        return asdict(self)

    def judge(self, check: Check, own: float | None) -> Check:
        """`check` by torch's `own` figure where that is the wider limit; otherwise as it is."""
        if own is None:
            return check
        if check.measure == DECIBELS:
            limit = own - 20 * math.log10(self.multiple)
        elif check.at_least:
            limit = 1 - (1 - own) * self.multiple**2  # SSIM falls with the square of a small error
        else:
            limit = own * self.multiple
        wider = limit < check.limit if check.at_least else limit > check.limit
        return replace(check, limit=limit, own=own) if wider else check


@dataclass(frozen=True, eq=False)
class Walk:
    """What one implementation met on the way.

    samples     (N + 1, C, H, W) float32, from the noise to the final sample
    image       (S, S, 3) uint8
    inverted    (1, C, H, W), torch's final sample taken to the last timestep; restored: taken back
    """

    samples: np.ndarray
    image: np.ndarray
    inverted: np.ndarray
    restored: np.ndarray


@dataclass(frozen=True, eq=False)
class Reference:
    """Torch's walk, as far as it is stored.

    cond        entry -> (1, ...) float32
    step_index  (K,) int64, which samples of the trajectory these are; 0 is the noise, the last one the final sample
    samples     (K, C, H, W)
    noise_pred  (K - 1, C, H, W), of the UNet on all samples but the last
    """

    cond: Mapping[str, np.ndarray]
    step_index: np.ndarray
    samples: np.ndarray
    noise_pred: np.ndarray
    image: np.ndarray
    inverted: np.ndarray
    restored: np.ndarray

    def thinned(self) -> Reference:
        """At most STORED_SAMPLES samples of it, the first and the last among them. Its `noise_pred` belong to these already."""
        chosen = stored_steps(len(self.samples) - 1)
        return Reference(
            self.cond, chosen, self.samples[chosen], self.noise_pred, self.image, self.inverted, self.restored
        )

    def to_tensors(self) -> dict[str, np.ndarray]:
        """By name, for `parity.safetensors`."""
        arrays = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "cond"}
        cond = {f"cond.{entry}": values for entry, values in self.cond.items()}
        return {f"ladder.{name}": np.ascontiguousarray(values) for name, values in {**cond, **arrays}.items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, np.ndarray]) -> Reference:
        """The inverse; BundleError if something is missing."""
        prefix = "ladder.cond."
        cond = {name.removeprefix(prefix): values for name, values in tensors.items() if name.startswith(prefix)}
        try:
            return cls(cond, **{f.name: tensors[f"ladder.{f.name}"] for f in fields(cls) if f.name != "cond"})
        except KeyError as error:
            raise BundleError(f"{PARITY}: {error} is missing, so there is nothing to compare with; {REMEDY}") from None


@dataclass(frozen=True, eq=False)
class Course:
    """What both sides share: the way, not who walks it. How long it is follows from `sample_shape`, (C, H, W)."""

    schedule: Schedule
    uncond: Mapping[str, np.ndarray]
    guidance_scale: float
    sample_shape: tuple[int, ...]

    @property
    def is_large(self) -> bool:
        return math.prod(self.sample_shape) > LARGE_SAMPLE

    @property
    def num_steps(self) -> int:
        return min(NUM_STEPS_LARGE if self.is_large else NUM_STEPS, self.schedule.num_train_timesteps)

    @property
    def num_inversion_steps(self) -> int:
        wanted = NUM_INVERSION_STEPS_LARGE if self.is_large else NUM_INVERSION_STEPS
        return min(wanted, self.schedule.num_train_timesteps)

    def generate(self, unet: Engine, start: np.ndarray, cond: Mapping[str, np.ndarray]) -> np.ndarray:
        """All samples (N + 1, C, H, W) from the noise (1, C, H, W), guided."""
        samples = [start]
        uncond = {entry: values[None] for entry, values in self.uncond.items()}
        sample_loop(
            guide(_denoise(unet), uncond, self.guidance_scale),
            start,
            cond,
            DDIMCoefficients.for_steps(self.schedule, self.num_steps),
            on_step=lambda index, count, sample: samples.append(sample),
        )
        return np.concatenate(samples)

    def invert(self, unet: Engine, sample: np.ndarray, cond: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """(the sample at the last timestep, the sample restored from it), unguided."""
        down = self.schedule.timesteps(self.num_inversion_steps)
        up = down[::-1]
        inverted = sample_loop(
            _denoise(unet), sample, cond, DDIMCoefficients.for_timesteps(self.schedule, up[:-1], up[1:])
        )
        back = DDIMCoefficients.for_timesteps(self.schedule, down[:-1], down[1:])
        return inverted, sample_loop(_denoise(unet), inverted, cond, back)

    def walk(
        self,
        engines: Mapping[str, Engine],
        start: np.ndarray,
        cond: Mapping[str, np.ndarray],
        final: np.ndarray | None = None,
    ) -> Walk:
        """Trajectory, image and inversion with `engines` ("unet" and, for a latent model, "decoder"); `final` (1, C, H, W) is what to
        invert, by default one's own."""
        samples = self.generate(engines["unet"], start, cond)
        inverted, restored = self.invert(engines["unet"], samples[-1:] if final is None else final, cond)
        pixels = engines["decoder"]({"latents": samples[-1:]})["image"] if "decoder" in engines else samples[-1:]
        return Walk(samples, to_picture(pixels[0]), inverted, restored)

    def reference(self, engines: Mapping[str, Engine], start: np.ndarray, cond: Mapping[str, np.ndarray]) -> Reference:
        """Torch's walk with every sample; `noise_pred` only where `thinned` keeps the sample."""
        walk = self.walk(engines, start, cond)
        chosen = stored_steps(self.num_steps)
        noise_pred = self.noise_pred(engines["unet"], walk.samples[chosen], chosen, cond)
        index = np.arange(len(walk.samples))
        return Reference(cond, index, walk.samples, noise_pred, walk.image, walk.inverted, walk.restored)

    def noise_pred(
        self, unet: Engine, samples: np.ndarray, step_index: np.ndarray, cond: Mapping[str, np.ndarray]
    ) -> np.ndarray:
        """The UNet's answers on all stored samples but the last, each called alone."""
        timesteps = self.timesteps(step_index)
        pairs = zip(samples[:-1], timesteps, strict=True)
        return np.concatenate([_denoise(unet)(sample[None], np.array([t]), cond) for sample, t in pairs])

    def timesteps(self, step_index: np.ndarray) -> np.ndarray:
        """The timestep of each stored sample but the last, which has none."""
        return self.schedule.timesteps(self.num_steps)[step_index[:-1]]

    def sensitivity(self, engines: Mapping[str, Engine], reference: Reference, rounding: float) -> Sensitivity:
        """Of the walk that `engines` gave as `reference`: the same, started and turned round `rounding` off."""
        start, final = (disturbed(sample, rounding) for sample in (reference.samples[:1], reference.samples[-1:]))
        walk = self.walk(engines, start, reference.cond, final)
        return Sensitivity(
            rounding=rounding,
            multiple=MULTIPLE,
            trajectory=relative_error(reference.samples[-1:], walk.samples[-1:]),
            image_psnr_db=_number(psnr_db(reference.image, walk.image)),
            image_ssim=_number(ssim(reference.image, walk.image), digits=6),
            inversion=relative_error(reference.inverted, walk.inverted),
            restored=relative_error(reference.restored, walk.restored),
        )

    def measure(self, engines: Mapping[str, Engine], reference: Reference) -> dict[str, Any]:
        """Figures of the upper four rungs, as the manifest holds them: one number per stored sample where it says so."""
        walk = self.walk(engines, reference.samples[:1], reference.cond, reference.samples[-1:])
        chosen = stored_steps(self.num_steps)
        at = np.searchsorted(reference.step_index, chosen)
        answers = self.noise_pred(engines["unet"], reference.samples[at], chosen, reference.cond)
        pairs = list(zip(reference.samples[1:], walk.samples[reference.step_index][1:], strict=True))
        levels = np.abs(reference.image.astype(int) - walk.image.astype(int))
        return {
            "step": {
                "timesteps": [int(t) for t in self.timesteps(chosen)],
                "relative_error": [relative_error(*pair) for pair in zip(reference.noise_pred, answers, strict=True)],
            },
            "trajectory": {
                "num_inference_steps": self.num_steps,
                "guidance_scale": self.guidance_scale,
                "max_abs_error": [_number(np.max(np.abs(a - b))) for a, b in pairs],
                "mean_abs_error": [_number(np.mean(np.abs(a - b))) for a, b in pairs],
                "cosine": [_cosine(a, b) for a, b in pairs],
                "relative_error": relative_error(*pairs[-1]),
            },
            "image": {
                "psnr_db": _number(psnr_db(reference.image, walk.image)),
                "ssim": _number(ssim(reference.image, walk.image), digits=6),
                "largest_difference_levels": int(levels.max()),
            },
            "inversion": {
                "num_steps": self.num_inversion_steps,
                "relative_error": relative_error(reference.inverted, walk.inverted),
                "restored_relative_error": relative_error(reference.restored, walk.restored),
                # How far the way there and back leads from where it began: DDIM's own error, and torch's for comparison.
                "round_trip": relative_error(reference.samples[-1:], walk.restored),
                "round_trip_of_torch": relative_error(reference.samples[-1:], reference.restored),
            },
        }


def checks(figures: Mapping[str, Any], limits: Limits, sensitivity: Sensitivity | None = None) -> Iterator[Check]:
    """Every comparison of one kind of network: `figures` is what `measure` gives, with `engines` beside it where that was measured.

    `sensitivity` touches walks only. Single calls of engines, at every stored step too, keep their limits whatever the model.
    """
    for engine, reached in figures.get("engines", {}).items():
        yield Check("engine", engine, "relative error", reached["relative_error"], limits.engine)
    step, trajectory, image, inversion = (figures[rung] for rung in ("step", "trajectory", "image", "inversion"))
    for timestep, error in zip(step["timesteps"], step["relative_error"], strict=True):
        yield Check("step", f"t={timestep}", "relative error", error, limits.step)
    steps = f"{trajectory['num_inference_steps']} steps"
    walked = {
        "trajectory": Check("trajectory", steps, "relative error", trajectory["relative_error"], limits.trajectory),
        "image_psnr_db": Check("image", "PSNR", DECIBELS, image["psnr_db"], limits.image_psnr_db, at_least=True),
        "image_ssim": Check("image", "SSIM", "likeness", image["ssim"], limits.image_ssim, at_least=True),
        "inversion": Check("inversion", "there", "relative error", inversion["relative_error"], limits.inversion),
        "restored": Check(
            "inversion", "and back", "relative error", inversion["restored_relative_error"], limits.inversion
        ),
    }
    for name, check in walked.items():
        yield check if sensitivity is None else sensitivity.judge(check, getattr(sensitivity, name))


def limits_from(values: Mapping[str, Any]) -> Limits:
    """The limits of a manifest; BundleError if they are not."""
    try:
        return Limits(**{f.name: float(values[f.name]) for f in fields(Limits)})
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(
            f"manifest.json: parity limits are damaged ({type(error).__name__}: {error}); {REMEDY}"
        ) from None


def limits_to_dict(limits: Limits) -> dict[str, float]:
    """JSON form for the manifest."""
    return asdict(limits)


def stored_steps(num_steps: int) -> np.ndarray:
    """Indices of the samples that are stored, of num_steps + 1: evenly spread, the first and the last among them."""
    return np.unique(np.linspace(0, num_steps, min(STORED_SAMPLES, num_steps + 1)).round().astype(np.int64))


def disturbed(array: np.ndarray, rounding: float) -> np.ndarray:
    """A float32 array with every element larger or smaller by `rounding` of itself, by chance, and the same for the same shape."""
    signs = np.random.default_rng(SEED).integers(0, 1, array.shape, endpoint=True) * 2 - 1
    return (array.astype(np.float64) * (1 + rounding * signs)).astype(np.float32)


def relative_error(expected: np.ndarray, actual: np.ndarray) -> float | None:
    """The largest difference by the largest element of `expected`, to three digits; None if that is not finite."""
    scale = max(float(np.max(np.abs(expected))), float(np.finfo(np.float32).tiny))  # an output may be all zeros
    return _number(float(np.max(np.abs(expected - actual))) / scale)


def to_picture(pixels: np.ndarray) -> np.ndarray:
    """(3, S, S) float32 in [-1, 1] → (S, S, 3) uint8; what is no number becomes mid grey, and shows in every figure."""
    levels = np.rint((np.clip(np.nan_to_num(pixels), -1, 1) + 1) * 127.5)
    return levels.astype(np.uint8).transpose(1, 2, 0)


def _denoise(unet: Engine) -> Denoise:
    return lambda sample, timestep, cond: unet({"sample": sample, "timestep": timestep, **cond})["noise_pred"]


def _cosine(a: np.ndarray, b: np.ndarray) -> float | None:
    a, b = a.ravel().astype(np.float64), b.ravel().astype(np.float64)
    return _number(float(a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), np.finfo(np.float64).tiny)), digits=9)


def _number(value: float, digits: int = 3) -> float | None:
    return float(f"{value:.{digits}g}") if math.isfinite(value) else None
