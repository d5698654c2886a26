"""VoxCeleb 1 and 2 (Nagrani et al. 2017, Chung et al. 2018): celebrities' voices from public videos.

Layout: `wav/id1XXXX/{video}/{nnnnn}.wav` (1), `aac/id0XXXX/{video}/{nnnnn}.m4a` and `mp4/…/{nnnnn}.mp4` (2), with
`vox1_meta.csv` or `vox2_meta.csv` beside them, if at all. Most copies have no video: such records have no picture.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from training.data.faults import Fault, Tell, tell_nobody
from training.data.record import FEMALE, MALE, Record, VideoFrame
from training.data.tree import files, relative, tell_unknown

NAME = re.compile(r"(?:^|/)((id\d{5})/[\w-]{11}/\d{5})\.(wav|m4a|mp4)$", re.ASCII)
TABLE = re.compile(r"^(?:full_)?vox[12]_meta\.csv$")
SEX = {"f": FEMALE, "m": MALE}
SPLIT = {"dev": "train", "test": "test"}


@dataclass(frozen=True)
class _Speaker:
    sex: int | None = None
    split: str | None = None


def read(root: Path, tell: Tell = tell_nobody) -> Iterator[Record]:
    """One record an utterance; sex and split of its speaker where the data set's table is there."""
    speakers: dict[str, _Speaker] = {}
    utterances: dict[str, dict[str, Path]] = {}
    for path in files(root, tell):
        match = NAME.search(relative(path, root))
        if TABLE.match(path.name):
            speakers |= _speakers(path, tell)
        elif match is None:
            tell_unknown(path, "id{5 digits}/{video, 11 characters}/{5 digits}.wav, .m4a or .mp4", tell)
        else:
            found = utterances.setdefault(match[1], {})
            kind = "video" if match[3] == "mp4" else "audio"
            if kind in found:
                tell(Fault(path, "same name", "another folder has it, too"))
            else:
                found[kind] = path
    for key, found in sorted(utterances.items()):
        identity = key.partition("/")[0]
        speaker = speakers.get(identity, _Speaker())
        video = found.get("video")
        yield Record(
            source="voxceleb",
            key=key,
            identity=identity,
            image=None if video is None else VideoFrame(video),
            audio=found.get("audio"),
            sex=speaker.sex,
            split=speaker.split,
        )


def _speakers(path: Path, tell: Tell) -> dict[str, _Speaker]:
    """Sex and split by identity. VoxCeleb 1 separates by tabs, VoxCeleb 2 by commas and blanks; names hold neither."""
    found = {}
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        tell(Fault(path, "unreadable", error.strerror or type(error).__name__))
        return {}
    for line in lines[1:]:
        identity, *values = (value.strip() for value in re.split(r"[\t,]", line))
        if re.fullmatch(r"id\d{5}", identity):
            sex = next((SEX[value] for value in values if value in SEX), None)
            split = next((SPLIT[value] for value in values if value in SPLIT), None)
            found[identity] = _Speaker(sex, split)
        elif line.strip():
            tell(Fault(path, "bad row", f"{line[:60]!r}: no speaker"))
    return found
