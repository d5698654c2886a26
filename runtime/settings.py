"""How to sample one request: the part of it that the sampler reads, resolved. It crosses Triton as one JSON tensor.

What to sample *from* (cond, photo, mask) goes beside it as arrays: `runtime/conditioned.py`.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field, fields

import numpy as np

from runtime.errors import DeadlineExceededError, RequestError
from runtime.fields import shown
from runtime.options import Options
from runtime.request import DEFAULT_STEPS, FIELD_BY_NAME


@dataclass(frozen=True)
class SampleSettings:
    """Settings of one sample, by the names and within the ranges of the request table; RequestError for anything else.

    seed, guidance_scale  always known here: drawn, and the bundle's, where the request left them open
    edit_from_timestep    None: generate from noise
    preview_every         None: no previews
    deadline_s            `time.monotonic()` seconds, the same clock in every process of a machine; None: as long as it takes
    tenant                on whose behalf; what is remembered of a photo is remembered for its tenant alone
    """

    seed: int
    guidance_scale: float
    num_inference_steps: int = DEFAULT_STEPS
    edit_from_timestep: int | None = None
    preview_every: int | None = None
    options: Options = field(default_factory=Options)
    deadline_s: float | None = None
    tenant: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", Options.of(self.options))
        if not isinstance(self.deadline_s, float | int | None):
            raise RequestError("deadline_s", f"got {shown(self.deadline_s)}, expected seconds")
        if not isinstance(self.tenant, str):
            raise RequestError("tenant", f"got {shown(self.tenant)}, expected text")
        for name in (each.name for each in fields(self) if each.name in FIELD_BY_NAME and each.name != "options"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, FIELD_BY_NAME[name].checked(value))
            elif name in ("seed", "guidance_scale", "num_inference_steps"):
                raise RequestError(name, "missing")

    def check_deadline(self) -> None:
        """Raise DeadlineExceededError if it has passed."""
        if self.deadline_s is not None and time.monotonic() > self.deadline_s:
            raise DeadlineExceededError(f"the {self.options.deadline_ms} ms of the request are over")

    def to_array(self) -> np.ndarray:
        """(1,) object array that holds UTF-8 JSON."""
        return np.array([json.dumps(asdict(self) | {"options": self.options.to_dict()}).encode()], np.object_)

    @classmethod
    def from_array(cls, array: np.ndarray) -> SampleSettings:
        """The inverse of `to_array`. Raises RequestError for anything else."""
        try:
            return cls(**json.loads(array.reshape(-1)[0]))
        except (ValueError, TypeError, IndexError):
            raise RequestError("settings", "not the settings of a sample") from None
