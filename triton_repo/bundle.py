"""How a Triton model finds the bundle it serves, and its engines. Apart from `boundary`, because `ddim` opens none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from runtime.bundle import Bundle
from runtime.errors import BundleError
from runtime.wire import ENGINES
from triton_repo.boundary import parameters_of
from triton_repo.called import open_called


def open_bundle(arguments: Mapping[str, str]) -> Bundle:
    """The bundle this repository was built for, from `initialize`'s arguments; BundleError if it changed since.

    Its engines run in this process, unless the model's parameters say that they are Triton models.
    """
    parameters = parameters_of(arguments)
    bundle = Bundle.open(Path(parameters["bundle"]))
    if bundle.hash != parameters["bundle_sha256"]:
        raise BundleError("the bundle changed after its model repository was built; build it again")
    if ENGINES in parameters:
        return replace(bundle, open_engine=partial(open_called, provider=parameters[ENGINES]))
    return bundle
