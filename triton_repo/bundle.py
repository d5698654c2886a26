"""How a Triton model finds the bundle it serves. Apart from `boundary`, because `ddim` opens none."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from runtime.bundle import Bundle
from runtime.errors import BundleError


def open_bundle(arguments: Mapping[str, str]) -> Bundle:
    """The bundle this repository was built for, from `initialize`'s arguments; BundleError if it changed since."""
    parameters = json.loads(arguments["model_config"])["parameters"]
    bundle = Bundle.open(Path(parameters["bundle"]["string_value"]))
    if bundle.hash != parameters["bundle_sha256"]["string_value"]:
        raise BundleError("the bundle changed after its model repository was built; start the server again")
    return bundle
