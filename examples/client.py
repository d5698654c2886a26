"""A face from a running server: typed requests, results and errors.

python examples/client.py 127.0.0.1:8001 face.png [photo.jpg] [voice.wav]
"""

import sys
from pathlib import Path

from PIL import Image

from clipfacefusion import Client, ClipFaceFusionError, GenerateRequest

url, out, *files = sys.argv[1:]
media = {name: Path(file).read_bytes() for name, file in zip(("reference", "audio"), files, strict=False)}
request = GenerateRequest(text="a smiling old man", age=72, emotion="happy", seed=7, **media)
try:
    with Client(url) as client:
        result = client(request)
except ClipFaceFusionError as error:
    sys.exit(f"{error.code}: {error}")
Image.fromarray(result.image).save(out)
print(f"{out}: seed {result.report['seed']}, made from {', '.join(result.report['conditions'])}")
