"""Compiled TensorRT plans of a bundle: what each was built for, how far it was tried, and which fits a machine. It loads none.

A plan runs with exactly the library version that built it, and on the compute capabilities it was built for. Both stand in its
entry of the manifest and in its file name, `plans/<flavour>-<version>-<targets>/<engine>.plan`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from runtime.errors import BundleError

TENSORRT, TENSORRT_RTX = "tensorrt", "tensorrt-rtx"
FLAVOURS = (TENSORRT, TENSORRT_RTX)
BUILT, PARSED, EXECUTED = "built", "parsed", "executed"
VERIFIED = (BUILT, PARSED, EXECUTED)
PLANS = "plans"


@dataclass(frozen=True)
class Plan:
    """One plan file. Raises BundleError for values that no exporter writes.

    version   of the library that built it, and the only one that loads it
    targets   compute capabilities, "sm89"
    source    the ONNX file that it was built from
    verified  built: the library compiled it. parsed: it was also loaded, and its tensors are those of the spec.
              executed: it also computed what torch does, on a GPU
    """

    engine: str
    flavour: str
    version: str
    targets: tuple[str, ...]
    source: str
    verified: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "targets", tuple(self.targets))
        for name, value, allowed in (("flavour", self.flavour, FLAVOURS), ("verified", self.verified, VERIFIED)):
            if value not in allowed:
                raise BundleError(
                    f"plan of {self.engine}: {name} is {value!r}, known are {', '.join(allowed)}; install the matching clipfacefusion"
                )
        if not re.fullmatch(r"\d+(\.\d+)*", self.version):
            raise BundleError(f"plan of {self.engine}: version {self.version!r} is not a version number; export again")
        wrong = [target for target in self.targets if not re.fullmatch(r"sm\d+", target)]
        if wrong or not self.targets:
            raise BundleError(
                f"plan of {self.engine}: targets {list(self.targets)} must be compute capabilities like sm89; export again"
            )

    @property
    def file(self) -> str:
        """Its name inside the bundle."""
        return f"{PLANS}/{folder_of(self.flavour, self.version, self.targets)}/{self.engine}.plan"

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Plan:
        """Read the manifest's form. Raises BundleError, TypeError."""
        unknown = sorted(set(values) - {f.name for f in fields(cls)})
        if unknown:
            raise BundleError(
                f"plan of {values.get('engine')}: unknown entries {', '.join(unknown)}; install the matching clipfacefusion"
            )
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """JSON form for the manifest."""
        return {**asdict(self), "targets": list(self.targets)}


def folder_of(flavour: str, version: str, targets: Iterable[str]) -> str:
    """The folder of a set of plans, below `plans/`."""
    return f"{flavour}-{version}-{'+'.join(targets)}"


def choose(plans: Sequence[Plan], engines: Iterable[str], flavour: str, version: str, target: str) -> dict[str, Plan]:
    """Engine -> the plan that this library version can load on this GPU. Raises BundleError saying what does not fit, and what to run.

    target  the GPU's compute capability, "sm89"
    """
    candidates = [plan for plan in plans if plan.flavour == flavour]
    again = f"python -m export CHECKPOINT BUNDLE --targets {flavour}{':' + target if flavour == TENSORRT_RTX else ''}"
    if not candidates:
        raise BundleError(f"plans: none for {flavour} in this bundle; build them: {again}")
    versions = sorted({plan.version for plan in candidates})
    candidates = [plan for plan in candidates if plan.version == version]
    if not candidates:
        raise BundleError(
            f"plans: built with {flavour} {', '.join(versions)}, this machine has {version}; install {flavour}=={versions[-1]}, or build again: {again}"
        )
    targets = sorted({target for plan in candidates for target in plan.targets}, key=lambda name: int(name[2:]))
    fitting = {plan.engine: plan for plan in candidates if target in plan.targets}
    if not fitting:
        raise BundleError(f"plans: built for {', '.join(targets)}, this GPU is {target}; build them for it: {again}")
    missing = [engine for engine in engines if engine not in fitting]
    if missing:
        raise BundleError(
            f"plans: none of {', '.join(missing)} for {flavour} {version} on {target}; build again: {again}"
        )
    return fitting


def never_executed(plans: Iterable[Plan]) -> list[Plan]:
    """The plans of which nobody knows that they compute the right thing."""
    return [plan for plan in plans if plan.verified != EXECUTED]
