"""Small copies of the five data sets in their published layouts, with real files, a damaged photo and a silent recording."""

from __future__ import annotations

import json
from pathlib import Path

from tests.training.data.media import picture, pixels, sound, video

NAMES = ("ffhq", "cacd", "ravdess", "voxceleb", "fer2013")
CELEBRITIES = ("Ann_Lee", "Bob_Ray", "Cy_Fox")


def plant(root: Path) -> dict[str, Path]:
    """Write all of NAMES below `root`; the folder of each."""
    for n in range(6):
        picture(root / "ffhq" / "images1024x1024" / "00000" / f"{n:05d}.png", seed=n)
    labels = [{"faceAttributes": {"age": 33.0, "gender": "female", "emotion": {"happiness": 0.9, "neutral": 0.1}}}]
    (root / "ffhq" / "json").mkdir()
    for n in range(5):
        (root / "ffhq" / "json" / f"{n:05d}.json").write_text(json.dumps(labels))
    for n, name in enumerate(CELEBRITIES):
        for age in (20, 40):
            picture(root / "cacd" / f"{age}_{name}_0001.jpg", seed=100 + 2 * n + age)
    damaged = picture(root / "cacd" / "50_Ann_Lee_0002.jpg", seed=150)
    damaged.write_bytes(damaged.read_bytes()[:-300])
    for actor in (1, 2, 3):
        for emotion in ("03", "05"):
            name = f"01-{emotion}-01-01-01-{actor:02d}"
            video(root / "ravdess" / f"Actor_{actor:02d}" / f"02-{name}.mp4", seed=actor)
            sound(root / "ravdess" / f"Actor_{actor:02d}" / f"03-{name}.wav", hz=100.0 * actor + int(emotion))
    for speaker in ("id10001", "id10002", "id10003"):
        for n in (1, 2):
            sound(root / "voxceleb" / "wav" / speaker / "abcdefghijk" / f"{n:05d}.wav", rate=16_000)
    sound(root / "voxceleb" / "wav" / "id10001" / "abcdefghijk" / "00003.wav", hz=0.0)
    (root / "voxceleb" / "vox1_meta.csv").write_text(
        "VoxCeleb1 ID\tVGGFace1 ID\tGender\tNationality\tSet\n"
        "id10001\tA\tf\tX\tdev\nid10002\tB\tm\tX\tdev\nid10003\tC\tm\tX\ttest\n"
    )
    rows = ["emotion,pixels,Usage"]
    for n in range(8):
        grey = pixels(200 + n, 48, 48)[:, :, 0]
        rows.append(f"{n % 7},{' '.join(map(str, grey.flatten()))},{'PublicTest' if n == 7 else 'Training'}")
    (root / "fer2013").mkdir()
    (root / "fer2013" / "fer2013.csv").write_text("\n".join(rows) + "\n")
    return {name: root / name for name in NAMES}
