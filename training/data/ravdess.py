"""RAVDESS (Livingstone & Russo 2018): 24 actors speak and sing two sentences in eight emotions.

Layout: `Actor_{01..24}/MM-VC-EE-II-SS-RR-AA.{wav,mp4}`, seven numbers:
modality (01 video with sound, 02 video, 03 sound), vocal channel (01 speech, 02 song), emotion (01..08 in the order of
EMOTIONS), intensity (01 normal, 02 strong), statement (01 kids, 02 dogs), repetition, actor (odd: male, even: female).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from runtime.emotions import EMOTIONS
from training.data.faults import Fault, Tell, tell_nobody
from training.data.record import FEMALE, MALE, Record, VideoFrame
from training.data.tree import files, relative, tell_unknown

NAME = re.compile(r"(?:^|/)(0[1-3])-((0[12])-(0[1-8])-(0[12])-(0[12])-(0[12])-(0[1-9]|1\d|2[0-4]))\.(wav|mp4)$")
FULL, VIDEO, SOUND = "01", "02", "03"
# Actors were told "normal" and "strong"; half and full on the scale of a request's emotion_intensity.
INTENSITY = {"01": 0.5, "02": 1.0}


def read(root: Path, tell: Tell = tell_nobody) -> Iterator[Record]:
    """One record an utterance: sound and a frame from the middle of its video, paired by equal fields 2 to 7.

    The sound is the WAV file, else that of the full video; the picture is the silent video's, else the full one's. The words
    spoken are no caption of the picture, so `text` is empty. Neutral has no intensity: it was recorded "normal" only.
    """
    utterances: dict[str, dict[str, Path]] = {}
    for path in files(root, tell):
        match = NAME.search(relative(path, root))
        if match is None or (match[1] == SOUND) != (match[9] == "wav"):
            tell_unknown(path, "MM-VC-EE-II-SS-RR-AA.wav (03) or .mp4 (01, 02)", tell)
            continue
        found = utterances.setdefault(match[2], {})
        if match[1] in found:
            tell(Fault(path, "same name", "another folder has it, too"))
            continue
        found[match[1]] = path
    for key, found in sorted(utterances.items()):
        _, emotion, intensity, _, _, actor = key.split("-")
        label = EMOTIONS[int(emotion) - 1]
        video = found.get(VIDEO) or found.get(FULL)
        yield Record(
            source="ravdess",
            key=key,
            identity=f"Actor_{actor}",
            image=None if video is None else VideoFrame(video),
            audio=found.get(SOUND) or found.get(FULL),
            sex=MALE if int(actor) % 2 else FEMALE,
            emotion=label,
            intensity=None if label == "neutral" else INTENSITY[intensity],
        )
