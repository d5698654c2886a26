"""A JPEG that is small and costs minutes: progressive, and its last pass over all blocks written thousands of times."""

from __future__ import annotations

import io

from PIL import Image

START_OF_SCAN, END_OF_IMAGE = b"\xff\xda", b"\xff\xd9"


def progressive_bomb(side: int, passes: int) -> bytes:
    """A grey picture of `side` px whose final refinement is repeated."""
    file = io.BytesIO()
    Image.new("L", (side, side), 128).save(file, "JPEG", progressive=True)
    data = file.getvalue()
    last = data.rindex(START_OF_SCAN)
    scan = data[last : data.rindex(END_OF_IMAGE)]
    return data[:last] + scan * passes + END_OF_IMAGE
