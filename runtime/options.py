"""The finer settings of a request: the table behind its field `options`, a JSON object.

`OPTIONS` is the only home of an option's name, type, range, default and help; the JSON's schema, the command-line flags and
every message derive from it. An option is a row here and an attribute of `Options`, and it has an effect.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from runtime.errors import RequestError
from runtime.fields import Field, shown
from runtime.job import INTERACTIVE, PRIORITIES
from runtime.solvers import DDIM, SOLVERS

MAX_CHARACTERS = 4096  # of the JSON
PHOTO = "photo"  # of the option `source`

OPTIONS: tuple[Field, ...] = (
    Field("sampler", "BYTES", "how the steps are taken: ddim, or a solver that needs fewer of them for nearly the same picture", choices=tuple(SOLVERS), default=DDIM, not_with="edit_from_timestep"),
    Field("guidance_interval", "INT32", "the lowest and the highest timestep at which guidance acts; outside, a step costs half (default: at all)", width=2, low=0, high=999, not_with="edit_from_timestep"),
    Field("priority", "BYTES", "interactive requests come first; bulk ones run beside them with a small share, and take all that is free", choices=PRIORITIES, default=INTERACTIVE),
    Field("deadline_ms", "INT32", "give up after so many milliseconds, from the arrival of the request on, and stop its work", low=1, high=86_400_000),
    Field("face_index", "INT32", "which face of the reference, from left to right; default: the largest", low=0, high=99, needs="reference"),
    Field("face_box", "FP32", "the face of the reference that shares most with this box: left, top, right, bottom in pixels of the upright photo", width=4, low=0, high=4096, needs="reference"),
    Field("edit_strength", "FP32", "how far an edit goes, between the photo's own course (0) and what is asked (1)", low=0, high=1, default=1.0, needs="edit_from_timestep"),
    Field("inversion_steps", "INT32", "steps of the inversion that an edit starts with; default: num_inference_steps", low=1, high=1000, needs="edit_from_timestep"),
    Field("fixed_point_iterations", "INT32", "further model calls per inversion step, for a round trip that misses less", low=0, high=10, default=0, needs="edit_from_timestep"),
    Field("source_correction", "BOOL", "add at each step of an edit what its inversion missed there: with nothing asked the photo comes back exactly", default=False, needs="edit_from_timestep"),
    Field("source", "BYTES", "what an edit inverts the photo under and is guided away from: the photo as it is described and estimated, or nothing", choices=(PHOTO, "none"), default=PHOTO, needs="edit_from_timestep"),
    Field("source_text", "BYTES", "words that describe the photo of an edit as it is", low=1, high=1000, needs="edit_from_timestep"),
    Field("keep_detail", "BOOL", "give an edited photo back what the autoencoder lost of it, where the edit leaves it as it is; without effect on bundles that work on pixels", default=True, needs="edit_from_timestep"),
    Field("assess", "BOOL", "look at the result: is it the person of the reference, how old, in which mood; false saves the time", default=True, needs="reference"),
)  # fmt: skip
OPTION_BY_NAME: Mapping[str, Field] = {option.name: option for option in OPTIONS}


@dataclass(frozen=True)
class Options:
    """One attribute per row of `OPTIONS`, checked on construction; an option that is not given has its default, or None.

    Raises RequestError naming `options.<name>`, the value and what is allowed.
    """

    sampler: str = DDIM
    guidance_interval: tuple[int, int] | None = None
    priority: str = INTERACTIVE
    deadline_ms: int | None = None
    face_index: int | None = None
    face_box: tuple[float, float, float, float] | None = None
    edit_strength: float = 1.0
    inversion_steps: int | None = None
    fixed_point_iterations: int = 0
    source_correction: bool = False
    source: str = PHOTO
    source_text: str | None = None
    keep_detail: bool = True
    assess: bool = True

    def __post_init__(self) -> None:
        for field in fields(self):
            option, value = OPTION_BY_NAME[field.name], getattr(self, field.name)
            value = option.default if value is None else replace(option, name=f"options.{option.name}").checked(value)
            object.__setattr__(self, field.name, value)
        if self.guidance_interval is not None and self.guidance_interval[0] > self.guidance_interval[1]:
            low, high = self.guidance_interval
            raise RequestError("options.guidance_interval", f"got {low} {high}; the lowest timestep comes first")

    @classmethod
    def of(cls, value: Options | Mapping[str, Any] | str | bytes) -> Options:
        """From options, a mapping, or the text of a JSON object. Raises RequestError."""
        if isinstance(value, Options):
            return value
        if isinstance(value, str | bytes):
            if len(value) > MAX_CHARACTERS:
                raise RequestError("options", f"got {len(value)} characters, allowed at most {MAX_CHARACTERS}")
            try:
                value = json.loads(value)
            except (ValueError, RecursionError):
                raise RequestError("options", "not valid JSON; expected a JSON object") from None
        if not isinstance(value, Mapping):
            raise RequestError("options", f"got {shown(value)}, expected a JSON object")
        unknown = [name for name in value if name not in OPTION_BY_NAME]
        if unknown:
            raise RequestError("options", f"unknown key {shown(unknown[0])}; known are {', '.join(OPTION_BY_NAME)}")
        return cls(**value)

    def to_dict(self) -> dict[str, Any]:
        """What differs from the defaults, in table order; JSON-serialisable."""
        return {name: value for name, value in asdict(self).items() if value != OPTION_BY_NAME[name].default}

    def to_json(self) -> str:
        """`to_dict` as JSON; "{}" when nothing was asked for."""
        # Escaped, a letter of another script would take six characters of what all options may have.
        return json.dumps(self.to_dict(), ensure_ascii=False)
