"""One person, older and in another mood: edits of a photo, the last one put back into it.

python examples/edit_face.py bundles/demo photo.jpg edits.png [voice.wav]

Edits of one photo share its inversion: the first one computes it.
"""

import sys
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from clipfacefusion import GenerateRequest, Pipeline, paste_back

bundle, photo, out, *voices = sys.argv[1:]
reference = Path(photo).read_bytes()
edit = partial(GenerateRequest, reference=reference, edit_from_timestep=500)
requests = [edit(age=70), edit(emotion="happy"), *(edit(audio=Path(voice).read_bytes()) for voice in voices)]
with Pipeline.open(bundle) as pipeline:
    results = [pipeline(request) for request in requests]
Image.fromarray(np.concatenate([result.image for result in results], axis=1)).save(out)
Image.fromarray(paste_back(reference, results[-1])).save(Path(out).with_stem(Path(out).stem + "-in-photo"))
for result in results:
    print(f"{', '.join(result.report['conditions'])}: {result.report['edit']}")
