"""Values of command-line flags that more than one command reads; argparse shows the message of what is refused."""

from __future__ import annotations

import argparse
import math


def seconds(text: str) -> float:
    """A duration above 0, in seconds."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"got {text}, expected seconds above 0")
    return value
