"""Faces without a server: one person at three ages, all sampled in one batch.

python examples/in_process.py bundles/demo face.png [photo.jpg] [voice.wav]
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from clipfacefusion import GenerateRequest, Pipeline

bundle, out, *files = sys.argv[1:]
media = {name: Path(file).read_bytes() for name, file in zip(("reference", "audio"), files, strict=False)}
requests = [GenerateRequest(text="a smiling man", age=age, seed=7, **media) for age in (20, 45, 70)]
with Pipeline.open(bundle) as pipeline:
    results = pipeline.batch(requests)
Image.fromarray(np.concatenate([result.image for result in results], axis=1)).save(out)
print(f"{out}: " + ", ".join(f"{request.age:g} years" for request in requests))
