"""The requests that benchmarks send: made here, so that a bundle without samples can be measured too. Content does not change costs."""

from __future__ import annotations

import io

import numpy as np
import soundfile
from PIL import Image

from runtime.request import GenerateRequest
from runtime.spec import SAMPLING_RATE_HZ

VOICE_S = 3.0
PHOTO_SIZE = 256  # px


def requests(num_inference_steps: int, guidance_scale: float | None = None) -> dict[str, GenerateRequest]:
    """One request per kind of condition, by name, and "everything" with all of them. `guidance_scale` None: the bundle's."""
    text, audio, reference = "a smiling old man with glasses, 70 years old", _voice(), _photo()

    def ask(**conditions: str | bytes | float) -> GenerateRequest:
        settings = {"seed": 0, "num_inference_steps": num_inference_steps, "guidance_scale": guidance_scale}
        return GenerateRequest(**{**settings, **conditions})  # type: ignore[arg-type]

    return {
        "text": ask(text=text),
        "audio": ask(audio=audio),
        "reference": ask(reference=reference),
        "age": ask(age=70),
        "emotion": ask(emotion="happy"),
        "everything": ask(text=text, audio=audio, reference=reference, age=70, emotion="happy"),
    }


def _voice() -> bytes:
    """Two tones as a WAV file of `VOICE_S` seconds, 16 kHz PCM16."""
    time_s = np.arange(int(VOICE_S * SAMPLING_RATE_HZ)) / SAMPLING_RATE_HZ
    file = io.BytesIO()
    soundfile.write(
        file, 0.3 * np.sin(1400 * time_s) + 0.2 * np.sin(5200 * time_s), SAMPLING_RATE_HZ, "PCM_16", format="WAV"
    )
    return file.getvalue()


def _photo() -> bytes:
    """Colour ramps as a JPEG file of `PHOTO_SIZE` pixels a side."""
    ramp = np.linspace(0, 255, PHOTO_SIZE, dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(np.stack(np.broadcast_arrays(ramp[:, None], ramp, np.uint8(128)), axis=-1)).save(file, "JPEG")
    return file.getvalue()
