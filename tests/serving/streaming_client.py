"""A caller in a process of its own, to be stopped and killed: URL COUNT. Says "running" once its streams have shown a first preview."""

from __future__ import annotations

import sys

from runtime.request import GenerateRequest
from tests.serving.raw_stream import RawStream

STEPS = 1000

if __name__ == "__main__":
    url, count = sys.argv[1], int(sys.argv[2])
    streams = [RawStream(url) for _ in range(count)]
    for number, stream in enumerate(streams):
        stream.send(
            str(number), request=GenerateRequest(age=30, seed=number, num_inference_steps=STEPS, preview_every=10)
        )
    for stream in streams:
        stream.wait_for(lambda messages: any(message.has_image for message in messages))
    print("running", flush=True)
    streams[0].wait_for(lambda messages: False)
