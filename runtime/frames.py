"""Messages between two of our processes over a pipe: a JSON header and raw bytes, each with its length in front. No pickle.

4 bytes   length of the header, big-endian
8 bytes   length of the body
header    UTF-8 JSON, an object
body      anything
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any, BinaryIO

_LENGTHS = struct.Struct(">IQ")
MAX_HEADER_BYTES = 2**16
MAX_BODY_BYTES = 2**27  # what one side claims, the other does not allocate unseen


def write_frame(pipe: BinaryIO, header: Mapping[str, Any], body: bytes | memoryview = b"") -> None:
    """Send one message. Raises OSError if the other side is gone."""
    encoded = json.dumps(header).encode()
    pipe.write(_LENGTHS.pack(len(encoded), len(body)))
    pipe.write(encoded)
    pipe.write(body)
    pipe.flush()


def read_frame(pipe: BinaryIO) -> tuple[dict[str, Any], bytearray] | None:
    """The next message, or None where the pipe ends between two. Raises EOFError within one, ValueError for what is no message."""
    lengths = pipe.read(_LENGTHS.size)
    if not lengths:
        return None
    if len(lengths) < _LENGTHS.size:
        raise EOFError("the pipe ended within a message")
    header_bytes, body_bytes = _LENGTHS.unpack(lengths)
    if header_bytes > MAX_HEADER_BYTES or body_bytes > MAX_BODY_BYTES:
        raise ValueError(
            f"a message of {header_bytes} + {body_bytes} bytes; at most {MAX_HEADER_BYTES} + {MAX_BODY_BYTES}"
        )
    header = json.loads(_filled(pipe, header_bytes))
    if not isinstance(header, dict):
        raise ValueError(f"a header that is {type(header).__name__}, not an object")
    return header, _filled(pipe, body_bytes)


def _filled(pipe: BinaryIO, size: int) -> bytearray:
    """The next `size` bytes, in memory that the caller owns."""
    buffer = bytearray(size)
    if pipe.readinto(buffer) < size:  # type: ignore[attr-defined]  # buffered pipes have it, and fill it unless they end
        raise EOFError("the pipe ended within a message")
    return buffer
