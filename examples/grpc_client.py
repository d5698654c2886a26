"""A face over plain gRPC, with nothing of ours installed: pip install "tritonclient[grpc]" pillow

    python examples/grpc_client.py 127.0.0.1:8001 face.png [photo.jpg] [voice.wav]

Protocol: KServe v2. Every input is optional and has shape [1, 1], valence_arousal [1, 2]: first Triton's batch of one.
An error's text may start with "in ensemble 'clipfacefusion', " or "[request id: …] ": Triton adds that, cut it off.
"""

import json
import sys
from pathlib import Path

import numpy as np
import tritonclient.grpc as grpcclient
from PIL import Image


def tensor(name, datatype, value):
    array = np.array([[value]], {"BYTES": np.object_, "FP32": np.float32, "INT64": np.int64}[datatype])
    return grpcclient.InferInput(name, [1, 1], datatype).set_data_from_numpy(array)


url, out, *files = sys.argv[1:]
inputs = [
    tensor("text", "BYTES", b"a smiling old man"),
    tensor("age", "FP32", 72.0),
    tensor("emotion", "BYTES", b"happy"),
    tensor("seed", "INT64", 7),
    *(
        tensor(name, "BYTES", Path(file).read_bytes())
        for name, file in zip(("reference", "audio"), files, strict=False)
    ),
]
with grpcclient.InferenceServerClient(url) as client:
    answer = client.infer("clipfacefusion", inputs, client_timeout=120)
Image.fromarray(answer.as_numpy("image")[0]).save(out)
print(json.dumps(json.loads(answer.as_numpy("report")[0, 0]), indent=2))
