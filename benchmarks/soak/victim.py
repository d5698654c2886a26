"""`python -m benchmarks.soak.victim URL ID`: a caller that asks for a face, says so once it is being made, and waits to be killed."""

from __future__ import annotations

import sys

from runtime.client import Client
from runtime.request import MAX_PREVIEWS, GenerateRequest
from runtime.retry import Retry


def main(url: str, request_id: str) -> None:
    """Ask for a face that takes very long, and print a line at its first preview."""
    request = GenerateRequest(age=60, seed=2, num_inference_steps=1000, preview_every=1000 // MAX_PREVIEWS)
    with Client(url, 300, Retry(tries=1)) as client:
        for _ in client.stream(request, inactivity_s=300, request_id=request_id):
            print("made", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
